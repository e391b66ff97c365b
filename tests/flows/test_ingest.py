from __future__ import annotations

import builtins
import errno
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from distributed import Client, LocalCluster
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL
from pydicom.dataset import Dataset

from flows.events import STUDY_INGESTED, study_digest
from flows.home import Home
from flows.ingest import IngestError, ingest_settled
from flows.plan import Plan, make_plan
from ops.dicom.geometry import Assessment
from ops.dicom.series import SeriesHeaders
from ops.verdict import VerdictStatus
from storage import arrivals, sources
from storage.ledger import Ledger
from storage.records import case_id
from tasks import ingest as ingest_module
from tasks.arrivals import Watch
from tasks.case import result_of
from tasks.stream import stream
from tests.flows.mean_programme import PROGRAMME
from tests.flows.prefect_events import events_of
from tests.ops.dicom.builders import Change, instance, setting, to_bytes

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("POPSCAN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("POPSCAN_INBOX", str(tmp_path / "inbox"))
    monkeypatch.setenv("POPSCAN_QUIET_SECONDS", "0")
    return Home.at(tmp_path / "home")


@pytest.fixture
def ledger(home: Home) -> Iterator[Ledger]:
    with home.open_ledger() as ledger:
        yield ledger


class Inbox:
    """A watched folder into which studies ``1.2.<number>`` are put."""

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        self.folder, self._ledger, self._watch = folder, ledger, Watch(folder)
        folder.mkdir()
        (folder / "note.txt").write_text("not DICOM")

    def put(self, study: int, slices: range, folder: str = "") -> list[Path]:
        place = self.folder / (folder or str(study))
        place.mkdir(parents=True, exist_ok=True)
        paths = [place / f"{number:03d}.dcm" for number in slices]
        for path, number in zip(paths, slices, strict=True):
            path.write_bytes(slice_of(study, number))
        return paths

    def look(self) -> None:
        """Look twice, as it takes to take a file in."""
        self._watch.look(self._ledger)
        self._watch.look(self._ledger)


@pytest.fixture
def inbox(tmp_path: Path, ledger: Ledger) -> Inbox:
    return Inbox(tmp_path / "inbox", ledger)


def slice_of(study: int, number: int, more: Change | None = None) -> bytes:
    def change(number: int, dataset: Dataset) -> None:
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"1.2.{study}", f"1.2.{study}.1"
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.{study}.1.{number + 1}"
        if more:
            more(number, dataset)

    return to_bytes(instance(number, change=change))


def slices(ledger: Ledger) -> dict[str, int]:
    return {record.series_uid: record.n_instances for record in ledger.series()}


def waiting(ledger: Ledger) -> list[str]:
    return ledger.arrivals.settled("9999")


def test_what_has_settled_is_ingested_once(inbox: Inbox, ledger: Ledger) -> None:
    for study in range(5):
        inbox.put(study, range(4))
    inbox.look()
    counts = ingest_settled()
    assert (counts["files"], counts["not_dicom"], counts["studies"]) == (21, 1, 5)
    assert counts["series"]["accepted"] == 5
    assert waiting(ledger) == []
    assert ingest_settled()["files"] == 0


def test_what_has_not_settled_waits(inbox: Inbox, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    inbox.put(1, range(4))
    inbox.look()
    monkeypatch.setenv("POPSCAN_QUIET_SECONDS", "3600")
    assert ingest_settled()["files"] == 0
    assert len(waiting(ledger)) == 2


@pytest.fixture
def client() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        yield client


def screen(client: Client, home: Home, ledger: Ledger) -> Plan:
    plan = make_plan(ledger, PROGRAMME, home.stores)
    stream(client, PROGRAMME.stages, plan.cases, lambda lot: ledger.commit_results([result_of(one) for one in lot]))
    return plan


@pytest.mark.parametrize("arrives", ["beside the others", "in a zip"])
def test_a_late_slice_makes_exactly_its_case_stale(
    client: Client, home: Home, ledger: Ledger, inbox: Inbox, arrives: str
) -> None:
    for study in range(3):
        inbox.put(study, range(4))
    inbox.look()
    ingest_settled()
    assert screen(client, home, ledger).counts == {"new": 3}
    assert not make_plan(ledger, PROGRAMME, home.stores).cases

    if arrives == "in a zip":
        with zipfile.ZipFile(inbox.folder / "late.zip", "w") as archive:
            archive.writestr("004.dcm", slice_of(1, 4))
        settles = str(inbox.folder / "late.zip")
    else:
        inbox.put(1, range(4, 5), "elsewhere")
        settles = "1.2.1"
    inbox.look()
    assert waiting(ledger) == [settles]
    assert ingest_settled()["instances"] == (1 if arrives == "in a zip" else 5)
    assert slices(ledger) == {"1.2.0.1": 4, "1.2.1.1": 5, "1.2.2.1": 4}
    plan = make_plan(ledger, PROGRAMME, home.stores)
    assert plan.counts == {"stale": 1, "unchanged": 2}
    assert [case.case_id for case in plan.cases] == [case_id("mean", "1.2.1")]


def test_copies_of_files_change_nothing(client: Client, home: Home, ledger: Ledger, inbox: Inbox) -> None:
    inbox.put(1, range(4))
    inbox.look()
    ingest_settled()
    screen(client, home, ledger)
    inbox.put(1, range(2, 4), "again")
    inbox.look()
    assert ingest_settled()["series"]["unchanged"] == 1
    assert make_plan(ledger, PROGRAMME, home.stores).counts == {"unchanged": 1}
    assert waiting(ledger) == []


def test_a_file_replaced_under_the_same_name_makes_the_case_stale(
    client: Client, home: Home, ledger: Ledger, inbox: Inbox
) -> None:
    *_, last = inbox.put(1, range(4))
    inbox.put(2, range(4))
    inbox.look()
    ingest_settled()
    screen(client, home, ledger)
    last.write_bytes(slice_of(1, 3, setting(PixelData=bytes(60))))
    os.utime(last, ns=(1, 1))
    inbox.look()
    ingest_settled()
    assert make_plan(ledger, PROGRAMME, home.stores).counts == {"stale": 1, "unchanged": 1}


def test_a_study_without_uid_stays_one_study_when_a_slice_comes_late(inbox: Inbox, ledger: Ledger) -> None:
    nameless = setting(StudyInstanceUID=None, SeriesInstanceUID=None)
    place = inbox.folder / "nameless"
    place.mkdir()
    for number in range(1, 5):
        (place / str(number)).write_bytes(slice_of(1, number, nameless))
    inbox.look()
    ingest_settled()
    (place / "5").write_bytes(slice_of(1, 5, nameless))
    inbox.look()
    ingest_settled()
    (found,) = slices(ledger).values()
    assert found == 5
    assert waiting(ledger) == []


def test_a_study_sent_again_in_two_portions_under_other_names_is_whole_in_the_end(
    client: Client, home: Home, ledger: Ledger, inbox: Inbox
) -> None:
    first = inbox.put(1, range(8))
    inbox.put(2, range(4))
    inbox.look()
    ingest_settled()
    screen(client, home, ledger)
    for path in first:
        path.unlink()
    for portion, names in ((range(4), "again"), (range(4, 9), "rest")):
        inbox.put(1, portion, names)
        inbox.look()
        ingest_settled()
        assert waiting(ledger) == []
        whole = len(portion) == 5
        assert slices(ledger) == {"1.2.1.1": 9 if whole else 8, "1.2.2.1": 4}
        assert {record.reason for record in ledger.rejected_files()} == (set() if whole else {"incomplete_resend"})
    plan = make_plan(ledger, PROGRAMME, home.stores)
    assert plan.counts == {"stale": 1, "unchanged": 1}
    (record,) = ledger.series("1.2.1")
    assert {str(Path(source).parent.name) for source in record.sources} == {"again", "rest"}


def test_only_the_watched_folder_is_ingested(inbox: Inbox, ledger: Ledger, tmp_path: Path) -> None:
    elsewhere = Inbox(tmp_path / "inbox no longer watched", ledger)
    elsewhere.put(1, range(4))
    elsewhere.look()
    inbox.put(2, range(4))
    inbox.look()
    assert ingest_settled()["instances"] == 4
    assert slices(ledger) == {"1.2.2.1": 4}
    assert ledger.arrivals.settled("9999", str(inbox.folder)) == []


def test_a_file_that_vanished_costs_nothing_but_itself(inbox: Inbox, ledger: Ledger) -> None:
    first, *_ = inbox.put(1, range(5))
    inbox.put(2, range(4))
    inbox.look()
    first.unlink()
    assert ingest_settled()["instances"] == 8
    assert slices(ledger) == {"1.2.1.1": 4, "1.2.2.1": 4}
    assert waiting(ledger) == ["1.2.1"]
    inbox.look()
    assert waiting(ledger) == []


def test_a_file_that_cannot_be_read_now_is_ingested_later(
    inbox: Inbox, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, last = inbox.put(1, range(5))
    inbox.look()

    def failing(path: str, mode: str) -> object:
        if path == str(last):
            raise OSError(errno.EIO, "Input/output error")
        return builtins.open(path, mode)

    with monkeypatch.context() as broken:
        broken.setattr(sources, "open", failing, raising=False)
        assert ingest_settled()["rejected_files"] == 1
    assert slices(ledger) == {"1.2.1.1": 4}
    still = [record.path for record in ledger.arrivals.of_units(["1.2.1"]) if record.ingested_at is None]
    assert still == [str(last)]
    assert waiting(ledger) == []
    assert ingest_settled()["files"] == 0
    monkeypatch.setattr(arrivals, "RETRY_AFTER", timedelta(0))
    ingest_settled()
    assert slices(ledger) == {"1.2.1.1": 5}
    assert waiting(ledger) == []
    assert ledger.rejected_files() == []


def test_an_archive_that_cannot_be_read_now_is_ingested_later(
    inbox: Inbox, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = inbox.folder / "study.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(4):
            archive.writestr(f"{number}.dcm", slice_of(1, number))
            archive.writestr(f"{number}.txt", bytes(100_000))  # more than is read ahead
    whole, state = path.read_bytes(), path.stat()
    inbox.look()
    original = ingest_module.assess

    def cut(series: SeriesHeaders) -> Assessment:
        os.truncate(path, 100)
        return original(series)

    with monkeypatch.context() as broken:
        broken.setattr(ingest_module, "assess", cut)
        assert ingest_settled()["rejected_files"] == 4
    path.write_bytes(whole)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert waiting(ledger) == []
    monkeypatch.setattr(arrivals, "RETRY_AFTER", timedelta(0))
    assert waiting(ledger) == [str(path)]
    ingest_settled()
    assert slices(ledger) == {"1.2.1.1": 4}
    assert waiting(ledger) == []


def test_a_file_that_is_no_good_is_on_record_and_done_with(inbox: Inbox, ledger: Ledger) -> None:
    (inbox.folder / "bad.dcm").write_bytes(b"no DICOM whatever")
    inbox.look()
    assert ingest_settled()["rejected_files"] == 1
    assert [record.reason for record in ledger.rejected_files()] == ["unreadable_header"]
    assert waiting(ledger) == []


def shown_by_prefect(state: State, least: str) -> str:
    """All that a person sees of a run, as soon as ``least`` is among it: logs come some seconds late."""
    with get_client(sync_client=True) as api:
        run = api.read_flow_run(state.state_details.flow_run_id)
        only = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
        deadline = time.monotonic() + 20
        while least not in (logs := " ".join(log.message for log in api.read_logs(only))):
            assert time.monotonic() < deadline, logs
            time.sleep(0.2)
        artifacts = [artifact.model_dump_json() for artifact in api.read_artifacts()]
    assert run.parameters == {}
    return f"{run.model_dump_json()} {artifacts} {logs}"


def test_where_nothing_can_be_written_nothing_counts_as_ingested(
    home: Home, inbox: Inbox, ledger: Ledger, capfd: pytest.CaptureFixture[str]
) -> None:
    inbox.put(1, range(4))
    inbox.look()
    obstacle = home.root / "volumes"
    obstacle.write_text("in the place of the folder of volumes")
    state = ingest_settled(return_state=True)
    with pytest.raises(IngestError, match=r"^\w+Error \(errno \d+\)$"):
        state.result()
    assert str(obstacle) in capfd.readouterr().err
    shown = shown_by_prefect(state, least="IngestError")
    for secret in (str(obstacle), str(inbox.folder), "1.2.1"):
        assert secret not in shown
    assert "1.2.1" in waiting(ledger)
    obstacle.unlink()
    assert ingest_settled()["series"]["accepted"] == 1
    assert waiting(ledger) == []


def test_prefect_is_told_of_studies_by_digests_only(inbox: Inbox, ledger: Ledger) -> None:
    study = time.time_ns()
    inbox.put(study, range(4))
    inbox.look()
    state = ingest_settled(return_state=True)
    (told,) = events_of(STUDY_INGESTED, f"popscan.study.{study_digest(f'1.2.{study}')}")
    assert told["payload"] == {"studies": 1}
    shown = f"{told} {shown_by_prefect(state, least='accepted')}"
    assert str(study) not in shown
    assert str(inbox.folder) not in shown


@pytest.mark.slow
def test_two_at_once_do_the_work_of_one(home: Home, inbox: Inbox, ledger: Ledger) -> None:
    for study in range(40):
        inbox.put(study, range(4))
    inbox.look()
    command = [sys.executable, "-c", "from flows.ingest import ingest_settled; print(ingest_settled()['instances'])"]
    environment = {**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value()), "PREFECT_LOGGING_LEVEL": "ERROR"}
    processes = [
        subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    instances = [int(process.communicate(timeout=120)[0]) for process in processes]
    assert sorted(instances) == [0, 160]
    assert slices(ledger) == {f"1.2.{study}.1": 4 for study in range(40)}
    assert {verdict.status for verdict in ledger.verdicts("ingest")} == {VerdictStatus.ACCEPTED}
