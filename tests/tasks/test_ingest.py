"""Folders and zips through the real ledger and the real store."""

from __future__ import annotations

import errno
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

from ops.dicom.geometry import Assessment
from ops.dicom.series import SeriesHeaders
from ops.verdict import VerdictStatus
from storage import sources
from storage.ledger import Ledger
from storage.urls import Location
from storage.volumes import VolumeStore
from tasks import ingest as ingest_module
from tasks.ingest import IngestCounts, ingest_files, ingest_paths
from tests.ops.dicom.builders import (
    SERIES_UID,
    STUDY_UID,
    Change,
    files,
    instance,
    pixels,
    set_pixels,
    setting,
    to_bytes,
)


class Home:
    """A ledger and a store, and files to put in."""

    def __init__(self, root: Path) -> None:
        self.inbox = root / "inbox"
        self.inbox.mkdir()
        self.ledger = Ledger(root / "ledger.sqlite")
        self.volumes = VolumeStore(Location(str(root / "volumes")))

    def put(self, folder: str, content: dict[str, bytes]) -> Path:
        place = self.inbox / folder
        place.mkdir(parents=True, exist_ok=True)
        for name, data in content.items():
            (place / Path(name).name).write_bytes(data)
        return place

    def ingest(self, *paths: Path) -> IngestCounts:
        return ingest_paths(paths or [self.inbox], self.ledger, self.volumes)

    def voxels(self, series_uid: str = SERIES_UID) -> np.ndarray:
        record = self.ledger.series_by_uid(series_uid)
        assert record is not None
        assert record.volume_url is not None
        return self.volumes.open(record.volume_url).read().voxels

    def verdict(self, series_uid: str = SERIES_UID) -> tuple[VerdictStatus, str]:
        (found,) = [v for v in self.ledger.verdicts("ingest") if v.series_uid == series_uid]
        return found.status, found.reason


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.ledger.close()


def series(uid: str, study: str = STUDY_UID, more: Change | None = None) -> Change:
    def change(number: int, dataset: Dataset) -> None:
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, uid
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{uid}.{number + 1}"
        if more is not None:
            more(number, dataset)

    return change


def test_a_mixed_folder_is_counted_to_the_last_file(home: Home) -> None:
    home.put("a/ct", files(4))
    home.put("b", files(4, series("1.2.3.1", "1.2.3", setting(SliceThickness=5))))
    home.put("b/scout", files(1, series("1.2.3.2", "1.2.3")))
    home.put("b", {"readme.txt": b"hello", "photo.jpg": b"\xff\xd8\xff", "empty": b"", "broken.dcm": b"not really"})
    (home.inbox / "b/cut.dcm").write_bytes(to_bytes(instance(7))[:200])
    counts = home.ingest().to_dict()
    assert counts == {
        "files": 14,
        "instances": 9,
        "not_dicom": 3,
        "rejected_files": 2,
        "studies": 2,
        "series": {
            "accepted": 2,
            "repaired": 0,
            "refused": 1,
            "unchanged": 0,
            "refused_by_reason": {"too_few_slices": 1},
            "repaired_by_reason": {},
        },
    }
    assert {Path(record.path).name for record in home.ledger.rejected_files()} == {"broken.dcm", "cut.dcm"}
    np.testing.assert_array_equal(home.voxels(), [pixels(n) for n in range(4)])


def test_zip_archives_alone_and_in_folders(home: Home) -> None:
    for name, uid in (("outer.zip", "1.2.5.1"), ("deep/inner.zip", "1.2.5.2")):
        path = home.inbox / name
        path.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("notes.txt", "x")
            for member, data in files(3, series(uid)).items():
                archive.writestr(member.lstrip("/"), data)
    (home.inbox / "broken.zip").write_bytes(b"PK\x03\x04 and nothing more")
    counts = home.ingest()
    assert counts.by_status[VerdictStatus.ACCEPTED] == 2
    assert (counts.files, counts.not_dicom, counts.rejected_files) == (9, 2, 1)
    assert [record.reason for record in home.ledger.rejected_files()] == ["corrupt_archive"]
    assert home.ingest().unchanged == 2


def test_the_same_folder_twice_adds_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.put("ct", files(4))
    home.put("few", files(2, series("1.2.6")))
    home.ingest()
    before = home.ledger.series(), home.ledger.verdicts(), home.volumes.keys()
    monkeypatch.setattr(ingest_module, "build_volume", pytest.fail)
    counts = home.ingest()
    assert (counts.unchanged, sum(counts.by_status.values())) == (2, 0)
    assert (home.ledger.series(), home.ledger.verdicts(), home.volumes.keys()) == before


def test_a_copy_elsewhere_or_a_part_of_it_adds_nothing(home: Home) -> None:
    home.put("ct", files(4))
    home.ingest()
    copy = home.put("copy", files(4))
    assert home.ingest(copy).unchanged == 1
    assert home.ingest(copy / "002.dcm").unchanged == 1
    assert len(home.volumes.keys()) == 1


def test_a_volume_lost_from_the_store_is_made_again(home: Home) -> None:
    home.put("ct", files(4))
    home.ingest()
    (key,) = home.volumes.keys()
    home.volumes.delete(key)
    home.ingest()
    assert home.volumes.keys() == [key]


def test_a_late_slice_makes_another_volume(home: Home) -> None:
    place = home.put("ct", files(4))
    home.ingest()
    first = home.ledger.series_by_uid(SERIES_UID)
    (place / "late.dcm").write_bytes(to_bytes(instance(4)))
    home.ingest()
    second = home.ledger.series_by_uid(SERIES_UID)
    assert first is not None
    assert second is not None
    assert first.pixel_digest != second.pixel_digest
    assert first.volume_url != second.volume_url
    assert len(home.voxels()) == 5
    assert [old.pixel_digest for old in home.ledger.superseded(SERIES_UID)] == [first.pixel_digest]


def test_a_series_in_two_parts_is_united(home: Home) -> None:
    everything = files(7)
    first = home.put("monday", dict(list(everything.items())[:4]))
    second = home.put("tuesday", dict(list(everything.items())[4:]))
    home.ingest(first)
    home.ingest(second)
    np.testing.assert_array_equal(home.voxels(), [pixels(n) for n in range(7)])
    assert home.ingest(first).unchanged == 1


def test_a_gap_filled_later_turns_a_refusal_into_a_volume(home: Home) -> None:
    everything = files(6)
    missing = {"/in/003.dcm": everything.pop("/in/003.dcm")}
    home.ingest(home.put("now", everything))
    assert home.verdict() == (VerdictStatus.REFUSED, "missing_slices")
    home.ingest(home.put("later", missing))
    assert home.verdict() == (VerdictStatus.ACCEPTED, "")


def test_a_remainder_never_replaces_a_series_whose_files_are_gone(home: Home) -> None:
    everything = files(9)
    first = home.put("first", dict(list(everything.items())[:5]))
    home.ingest(first)
    shutil.rmtree(first)
    counts = home.ingest(home.put("rest", dict(list(everything.items())[5:])))
    assert counts.rejected_files == 4
    assert {record.reason for record in home.ledger.rejected_files()} == {"incomplete_resend"}
    assert len(home.voxels()) == 5
    home.ingest(home.put("whole", everything))
    assert len(home.voxels()) == 9


def test_a_new_slice_does_not_stand_for_one_that_is_gone(home: Home) -> None:
    place = home.put("ct", files(4))
    home.ingest()
    (place / "001.dcm").unlink()
    (place / "004.dcm").write_bytes(to_bytes(instance(4)))
    home.ingest()
    assert {record.reason for record in home.ledger.rejected_files()} == {"incomplete_resend"}
    assert len(home.voxels()) == 4


def test_a_file_replaced_by_another_instance_replaces_the_series(home: Home) -> None:
    def corrected(_number: int, dataset: Dataset) -> None:
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.9"
        set_pixels(dataset, pixels(9))

    place = home.put("ct", files(4))
    home.ingest()
    (place / "001.dcm").write_bytes(to_bytes(instance(1, change=corrected)))
    home.ingest()
    np.testing.assert_array_equal(home.voxels()[1], pixels(9))


def test_series_without_uids(home: Home) -> None:
    def anonymous(number: int, dataset: Dataset) -> None:
        del dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID

    place = home.put("x", files(4, anonymous))
    counts = home.ingest()
    assert dict(counts.by_reason) == {(VerdictStatus.REPAIRED, "derived_uids"): 1}
    (record,) = home.ledger.series()
    assert record.uid_source == "derived"
    assert record.header["OriginalUIDs"] == dict.fromkeys(
        ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"), ""
    )
    (place / "004.dcm").write_bytes(to_bytes(instance(4, change=anonymous)))
    home.ingest()
    (grown,) = home.ledger.series()
    assert (grown.series_uid, grown.n_instances) == (record.series_uid, 5)


def test_one_series_uid_in_two_studies_stays_two_series(home: Home) -> None:
    def darker(number: int, dataset: Dataset) -> None:
        set_pixels(dataset, pixels(number) - np.int16(7))

    home.put("a", files(4))
    home.put("b", files(4, series(SERIES_UID, "1.2.77", darker)))
    counts = home.ingest()
    assert dict(counts.by_reason) == {
        (VerdictStatus.ACCEPTED, ""): 1,
        (VerdictStatus.REPAIRED, "uid_collision"): 1,
    }
    assert len(home.volumes.keys()) == 2
    assert {record.study_uid for record in home.ledger.series()} == {STUDY_UID, "1.2.77"}
    assert home.ingest().unchanged == 2


def test_two_phases_become_two_series_and_stay_known(home: Home) -> None:
    def phase(number: int, dataset: Dataset) -> None:
        dataset.AcquisitionNumber = 2
        dataset.SOPInstanceUID += ".2"
        set_pixels(dataset, pixels(number) + np.int16(1))

    home.put("one", files(4))
    home.put("two", files(4, phase))
    counts = home.ingest()
    assert counts.by_reason[VerdictStatus.REPAIRED, "series_split"] == 2
    assert home.ingest().unchanged == 2
    split = [record for record in home.ledger.series() if record.series_uid != SERIES_UID]
    assert [record.header["SplitFrom"] for record in split] == [SERIES_UID]


def test_a_second_phase_that_comes_later_splits_the_series(home: Home) -> None:
    def phase(number: int, dataset: Dataset) -> None:
        dataset.AcquisitionNumber = 2
        dataset.SOPInstanceUID += ".2"
        set_pixels(dataset, pixels(number) + np.int16(1))

    home.ingest(home.put("one", files(4)))
    home.ingest(home.put("two", files(4, phase)))
    assert len(home.ledger.series()) == 2
    assert home.ingest().unchanged == 2


def test_damaged_pixels_refuse_that_series_only(home: Home) -> None:
    def truncated(number: int, dataset: Dataset) -> None:
        if number == 2:
            dataset.PixelData = dataset.PixelData[:-10]

    home.put("bad", files(4, series("1.2.8.1", more=truncated)))
    home.put("good", files(4))
    counts = home.ingest()
    assert dict(counts.by_reason) == {
        (VerdictStatus.ACCEPTED, ""): 1,
        (VerdictStatus.REFUSED, "truncated_pixel_data"): 1,
    }


def test_a_damaged_stream_refuses_its_series(home: Home) -> None:
    def damaged(number: int, dataset: Dataset) -> None:
        dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
        dataset.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(60)])
        dataset["PixelData"].VR = "OB"

    home.put("ct", files(4, damaged))
    home.ingest()
    assert home.verdict() == (VerdictStatus.REFUSED, "decode_failed")
    assert home.ledger.rejected_files() == []


@contextmanager
def between_the_passes(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> Iterator[None]:
    """After the headers of a series were read, and before its pixels are."""
    original = ingest_module.assess

    def then(found: SeriesHeaders) -> Assessment:
        happens()
        return original(found)

    with monkeypatch.context() as patched:
        patched.setattr(ingest_module, "assess", then)
        yield


def rejected(home: Home) -> set[tuple[str, str]]:
    return {(record.path, record.reason) for record in home.ledger.rejected_files()}


@pytest.mark.parametrize("number", [0, 2])
def test_a_file_that_vanishes_between_the_passes_is_no_fault_of_its_series(
    home: Home, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    place = home.put("ct", files(4))
    home.ingest()
    known = home.ledger.series(), home.ledger.verdicts()
    (place / "004.dcm").write_bytes(to_bytes(instance(4)))
    lost = place / f"{number:03}.dcm"
    with between_the_passes(monkeypatch, lambda: lost.rename(home.inbox / "away")):
        counts = home.ingest()
    assert (counts.rejected_files, sum(counts.by_status.values())) == (5, 0)
    assert rejected(home) == {(str(place / f"{n:03}.dcm"), "unreadable_file") for n in range(5)}
    assert (home.ledger.series(), home.ledger.verdicts()) == known
    (home.inbox / "away").rename(lost)
    home.ingest()
    assert len(home.voxels()) == 5
    assert rejected(home) == set()


def test_an_archive_that_cannot_be_read_to_the_end_is_no_fault_of_its_series(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = home.inbox / "ct.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files(4).items():
            archive.writestr(name.lstrip("/"), data)
            archive.writestr(f"{name}.txt", bytes(100_000))  # more than is read ahead
    whole = path.read_bytes()
    with between_the_passes(monkeypatch, lambda: os.truncate(path, 100)):
        home.ingest()
    assert rejected(home) == {(f"{path}!/in/{n:03}.dcm", "unreadable_file") for n in range(4)}
    assert home.ledger.verdicts() == []
    path.write_bytes(whole)
    home.ingest()
    assert len(home.voxels()) == 4


def test_too_little_memory_is_no_fault_of_the_series(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.put("big", files(4))
    home.put("good", files(4, series("1.2.6")))
    available = iter([MemoryError("Unable to allocate 900 GiB")])

    def exhausted() -> None:
        if error := next(available, None):
            raise error

    with between_the_passes(monkeypatch, exhausted):
        counts = home.ingest()
    assert (counts.rejected_files, counts.by_status[VerdictStatus.ACCEPTED]) == (4, 1)
    assert {record.detail.partition(": ")[2] for record in home.ledger.rejected_files()} == {
        "MemoryError: Unable to allocate 900 GiB"
    }
    home.ingest()
    assert len(home.ledger.series()) == 2


def test_parts_of_one_series_are_renewed_together_or_not_at_all(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def phase(number: int, dataset: Dataset) -> None:
        dataset.AcquisitionNumber = 2
        dataset.SOPInstanceUID += ".2"
        set_pixels(dataset, pixels(number) + np.int16(1))

    home.put("one", files(4))
    home.ingest()
    known = home.ledger.series()
    home.put("one", files(5))
    second = home.put("two", files(4, phase))
    parts = iter(range(2))

    def second_is_lost() -> None:
        if next(parts) == 1:
            second.rename(home.inbox / "away")

    with between_the_passes(monkeypatch, second_is_lost):
        home.ingest()
    assert home.ledger.series() == known
    assert len(rejected(home)) == 9
    (home.inbox / "away").rename(second)
    home.ingest()
    assert [record.n_instances for record in home.ledger.series()] == [5, 4]


def test_earlier_files_that_cannot_be_read_now_are_not_gone(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    first = home.put("first", files(4))
    home.ingest()
    late = home.put("late", {"4.dcm": to_bytes(instance(4))})

    def failing(path: str, mode: str) -> object:
        if path == str(first / "002.dcm"):
            raise OSError(errno.EIO, "Input/output error")
        return open(path, mode)

    with monkeypatch.context() as broken:
        broken.setattr(sources, "open", failing, raising=False)
        home.ingest(late)
    assert rejected(home) == {(str(late / "4.dcm"), "unreadable_file")}
    assert len(home.voxels()) == 4
    home.ingest(late)
    assert len(home.voxels()) == 5


def test_a_file_that_is_not_there_costs_only_itself(home: Home) -> None:
    place = home.put("ct", files(4))
    names = [*map(str, sorted(place.iterdir())), str(place / "gone.dcm"), str(place / "gone.zip")]
    counts = ingest_files(names, home.ledger, home.volumes)
    assert (counts.instances, counts.rejected_files) == (4, 2)
    assert len(home.voxels()) == 4


def test_a_series_is_looked_up_when_it_is_met(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        home.put(f"s{number}", files(3, series(f"1.2.9.{number}")))
    home.ingest()
    asked: list[str] = []
    original = Ledger.source_digests

    def noted(ledger: Ledger, series_uids: Iterable[str]) -> dict[str, str]:
        asked.extend(uids := list(series_uids))
        return original(ledger, uids)

    monkeypatch.setattr(Ledger, "source_digests", noted)
    assert home.ingest(home.inbox / "s1").unchanged == 1
    assert asked == ["1.2.9.1"]


def test_an_interrupted_run_starts_again_cleanly(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        home.put(f"s{number}", files(3, series(f"1.2.9.{number}")))
    monkeypatch.setattr(ingest_module, "COMMIT_EVERY", 1)
    original, calls = VolumeStore.write, []

    def interrupted(store: VolumeStore, *args: object) -> None:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        original(store, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(VolumeStore, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            home.ingest()
    assert len(home.ledger.series()) == 2
    counts = home.ingest()
    assert (counts.unchanged, counts.by_status[VerdictStatus.ACCEPTED]) == (2, 2)
    assert len(home.volumes.keys()) == 4


def test_a_store_that_fails_stops_the_run_and_blames_no_series(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.put("ct", files(4))

    def full(*_args: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(VolumeStore, "write", full)
    with pytest.raises(OSError, match="no space"):
        home.ingest()
    assert home.ledger.verdicts() == []


def test_few_headers_at_a_time_give_the_same(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = files(8)
    for part in range(4):
        home.put(f"p{part}", dict(list(everything.items())[2 * part : 2 * part + 2]))
    monkeypatch.setattr(ingest_module, "MAX_PENDING", 3)
    home.ingest()
    np.testing.assert_array_equal(home.voxels(), [pixels(n) for n in range(8)])
    assert home.verdict() == (VerdictStatus.ACCEPTED, "")


def test_progress_ends_at_the_number_of_files(home: Home) -> None:
    home.put("ct", files(4) | {"x.txt": b"x"})
    seen: list[tuple[int, int]] = []
    ingest_paths([home.inbox], home.ledger, home.volumes, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (5, 5)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_path_that_does_not_exist_is_an_error(home: Home) -> None:
    with pytest.raises(FileNotFoundError):
        home.ingest(home.inbox / "nowhere")


def test_nobody_is_named_in_ledger_or_store(home: Home, tmp_path: Path) -> None:
    home.put("ct", files(4))
    home.ingest()
    home.ledger.close()
    stored = b"".join(
        path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and home.inbox not in path.parents
    )
    for secret in (b"Doe", b"MRN12345", b"19290304", b"General Hospital"):
        assert secret not in stored
