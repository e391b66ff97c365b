"""Looks into real folders: what is taken in, what waits, what is gone, and which study it belongs to."""

from __future__ import annotations

import builtins
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from storage import sources
from storage.ledger import Ledger
from storage.records import utc_now
from tasks.arrivals import FIRST_BYTES, Seen, Watch
from tests.ops.dicom.builders import STUDY_UID, Change, files, instance, setting, to_bytes

FOREVER = "9999"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        yield ledger


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "note.txt").write_text("not DICOM, and always there")
    return inbox


def put(folder: Path, count: int = 3, change: Change | None = None) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, data in files(count, change).items():
        paths.append(folder / Path(name).name)
        paths[-1].write_bytes(data)
    return paths


def unit_of(ledger: Ledger, path: Path) -> str | None:
    (found,) = [r for r in ledger.arrivals.of_units(ledger.arrivals.settled(FOREVER)) if r.path == str(path)]
    return found.study_uid


def test_a_file_is_taken_in_at_the_second_look_that_finds_it_the_same(inbox: Path, ledger: Ledger) -> None:
    put(inbox / "a")
    watch = Watch(inbox)
    assert watch.look(ledger) == Seen(waiting=4)
    assert watch.look(ledger) == Seen(new=4)
    assert watch.look(ledger) == Seen()
    assert ledger.arrivals.settled(FOREVER) == [str(inbox / "note.txt"), STUDY_UID]


def test_a_copy_that_is_not_finished_waits_however_old_its_time_says_it_is(inbox: Path, ledger: Ledger) -> None:
    data, path = to_bytes(instance(0)), inbox / "slice.dcm"
    watch = Watch(inbox)
    for length in (10, 400, len(data) - 1, len(data)):
        path.write_bytes(data[:length])
        os.utime(path, (0, 0))  # as cp -p and rsync -t leave it
        watch.look(ledger)
        assert str(path) not in ledger.arrivals.known(str(inbox))
    assert watch.look(ledger).new == 1
    assert unit_of(ledger, path) == STUDY_UID


def test_a_copy_that_stalled_is_looked_at_again_when_it_goes_on(inbox: Path, ledger: Ledger) -> None:
    data, path = to_bytes(instance(0)), inbox / "slice.dcm"
    watch = Watch(inbox)
    path.write_bytes(data[:200])
    watch.look(ledger)
    watch.look(ledger)
    assert unit_of(ledger, path) is None
    path.write_bytes(data)
    assert watch.look(ledger) == Seen(waiting=1)
    assert watch.look(ledger) == Seen(changed=1)
    assert unit_of(ledger, path) == STUDY_UID


def test_the_study_settles_by_our_clock(inbox: Path, ledger: Ledger) -> None:
    (path,) = put(inbox, 1)
    os.utime(path, (0, 0))
    watch = Watch(inbox)
    watch.look(ledger)
    before = utc_now()
    watch.look(ledger)
    assert ledger.arrivals.settled(before) == []
    assert STUDY_UID in ledger.arrivals.settled(utc_now())


@pytest.mark.parametrize(
    "name", [".IM1.dcm.Xa81kQ", "IM1.dcm.part", "IM1.filepart", "IM1.TMP", ".rsync-partial/IM1.dcm"]
)
def test_temporary_names_wait_for_their_real_name(inbox: Path, ledger: Ledger, name: str) -> None:
    temporary = inbox / name
    temporary.parent.mkdir(exist_ok=True)
    temporary.write_bytes(to_bytes(instance(0)))
    watch = Watch(inbox)
    for _ in range(3):
        watch.look(ledger)
    assert list(ledger.arrivals.known(str(inbox))) == [str(inbox / "note.txt")]
    temporary.rename(inbox / "IM1.dcm")
    watch.look(ledger)
    assert watch.look(ledger).new == 1


def test_only_what_is_new_or_changed_is_opened(inbox: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = put(inbox / "a", 5)
    watch = Watch(inbox)
    watch.look(ledger)
    watch.look(ledger)
    opened: list[str] = []

    def noting(path: str, mode: str) -> object:
        opened.append(path)
        return builtins.open(path, mode)

    monkeypatch.setattr(sources, "open", noting, raising=False)
    watch.look(ledger)
    assert opened == []
    paths[2].write_bytes(to_bytes(instance(7)))
    os.utime(paths[2], ns=(5, 5))
    watch.look(ledger)
    assert watch.look(ledger) == Seen(changed=1)
    assert opened == [str(paths[2])]


def test_a_file_replaced_under_the_same_name_is_to_be_ingested_again(inbox: Path, ledger: Ledger) -> None:
    (path,) = put(inbox / "a", 1)
    watch = Watch(inbox)
    watch.look(ledger)
    watch.look(ledger)
    ledger.arrivals.mark_ingested(ledger.arrivals.of_units(ledger.arrivals.settled(FOREVER)))
    other = inbox / ".new"
    other.write_bytes(to_bytes(instance(0, change=setting(StudyInstanceUID="1.2.3.4"))))
    other.rename(path)
    watch.look(ledger)
    assert watch.look(ledger) == Seen(changed=1)
    assert ledger.arrivals.settled(FOREVER) == ["1.2.3.4"]


def test_what_is_gone_is_forgotten_and_what_was_lost_is_counted(inbox: Path, ledger: Ledger) -> None:
    ingested, lost, _ = put(inbox / "a", 3)
    watch = Watch(inbox)
    watch.look(ledger)
    watch.look(ledger)
    rows = ledger.arrivals.of_units([STUDY_UID])
    ledger.arrivals.mark_ingested(row for row in rows if row.path == str(ingested))
    ingested.unlink()
    lost.unlink()
    assert watch.look(ledger) == Seen(gone=2, lost=1)
    shutil.rmtree(inbox / "a")
    assert watch.look(ledger) == Seen(gone=1, lost=1)
    assert list(ledger.arrivals.known(str(inbox))) == [str(inbox / "note.txt")]


def test_a_share_that_went_away_loses_nothing(inbox: Path, ledger: Ledger) -> None:
    put(inbox / "a")
    watch = Watch(inbox)
    watch.look(ledger)
    watch.look(ledger)
    inbox.rename(inbox.with_name("away"))
    with pytest.raises(FileNotFoundError):
        watch.look(ledger)
    inbox.mkdir()
    with pytest.raises(OSError, match="is it not mounted"):
        watch.look(ledger)
    inbox.rmdir()
    inbox.with_name("away").rename(inbox)
    assert watch.look(ledger) == Seen()


def test_a_folder_that_cannot_be_listed_loses_nothing(
    inbox: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(inbox / "a")
    put(inbox / "ab")
    watch = Watch(inbox)
    watch.look(ledger)
    watch.look(ledger)
    listed = os.scandir

    def refusing(folder: str) -> object:
        if folder == str(inbox / "a"):
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    shutil.rmtree(inbox / "ab")
    monkeypatch.setattr(os, "scandir", refusing)
    assert watch.look(ledger) == Seen(gone=3, lost=3)
    monkeypatch.undo()
    assert watch.look(ledger) == Seen()


def test_links_pipes_and_odd_names(inbox: Path, ledger: Ledger) -> None:
    (inbox / "loop").symlink_to(inbox)
    (inbox / "dangling").symlink_to(inbox / "nowhere")
    (inbox / "link").symlink_to(inbox / "note.txt")
    os.mkfifo(inbox / "pipe")
    odd = os.fsdecode(os.fsencode(inbox) + b"/\xe9\\x.dcm")
    Path(odd).write_bytes(to_bytes(instance(0)))
    watch = Watch(inbox)
    watch.look(ledger)
    assert watch.look(ledger) == Seen(new=3)
    assert set(ledger.arrivals.known(str(inbox))) == {str(inbox / "note.txt"), str(inbox / "link"), odd}
    assert watch.look(ledger) == Seen()


def test_units_of_what_has_no_study(inbox: Path, ledger: Ledger) -> None:
    nameless = put(inbox / "nameless", 2, setting(StudyInstanceUID=None))
    archive = inbox / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("slice.dcm", to_bytes(instance(0)))
    garbage = inbox / "garbage.dcm"
    garbage.write_bytes(b"no DICOM whatever")
    watch = Watch(inbox)
    watch.look(ledger)
    watch.look(ledger)
    assert {unit_of(ledger, path) for path in nameless} == {f"{inbox / 'nameless'}/"}
    assert unit_of(ledger, archive) is None
    assert unit_of(ledger, garbage) is None


def test_the_study_is_found_behind_large_elements_and_in_deflated_files(inbox: Path, ledger: Ledger) -> None:
    large = instance(0)
    large.private_block(0x0009, "TEST", create=True).add_new(1, "OB", bytes(2 * FIRST_BYTES))
    (inbox / "large").write_bytes(to_bytes(large))
    deflated = instance(0)
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    deflated.PixelData = os.urandom(2 * FIRST_BYTES)
    (inbox / "deflated").write_bytes(to_bytes(deflated))
    watch = Watch(inbox)
    watch.look(ledger)
    watch.look(ledger)
    assert unit_of(ledger, inbox / "large") == STUDY_UID
    assert unit_of(ledger, inbox / "deflated") == STUDY_UID
