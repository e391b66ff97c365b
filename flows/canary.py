"""Canaries: simulated participants of known truth, computed anew before the participants of a run.

They take the way of participants (ingest and its decoders, the programme's recipe, the same workers and models), so a
worker, decoder, GPU, library or model that is broken is noticed before anybody is measured with it. They live in a
home of their own, ``canaries/<programme>-<seed>`` below the participants' home, with a ledger of its own, and never
enter the participants' ledger, tables or counts.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from distributed import Client
from prefect.artifacts import create_table_artifact

from flows.artifacts import attempt
from flows.home import Home
from flows.plan import SCREENED, Plan, make_plan
from flows.programmes.programme import CanarySet, Programme
from ops.verdict import ResultStatus
from storage.ledger import Ledger
from storage.records import ResultRecord
from storage.urls import Location
from tasks.case import result_of
from tasks.ingest import ingest_paths
from tasks.stage import Outcome
from tasks.stream import stream

DRIFT_TOLERANCE = 1e-4
"""Most that a number may differ, relative or absolute, from the first of its fingerprint: far more than another order
of summation on another device makes, less than one voxel more or less in a score of 1,000. Calcium needs no more:
its scores stayed the same to the last bit under 1 % noise on the network's output, 20 times the rounding of TF32."""

MADE = "canaries.json"
"""What the set consists of; written last, so a set without it is half-made."""

LAST_RUN = "last-run.json"
"""What the last run came to, with messages and tracebacks: these may name files, and are not for Prefect."""

EVERY_NEED = SCREENED | {"unchanged", "restored"}


class CanariesFailedError(RuntimeError):
    """A simulated participant of known truth came out wrong."""


@dataclass(frozen=True)
class CanaryCase:
    """What became of one canary.

    Attributes
    ----------
    name
        As the programme declares it.
    expected, found
        True value and measured value of the set's measurement; ``found`` is None where there was no number.
    problem
        What is wrong, with the values; None when nothing is. Names no study and no file.
    seconds
        Time in the stages.
    """

    name: str
    expected: float
    found: float | None
    problem: str | None
    seconds: float


@dataclass(frozen=True)
class CanaryReport:
    """What became of the canaries of one programme."""

    cases: tuple[CanaryCase, ...]

    @property
    def passed(self) -> bool:
        """True when nothing is wrong with any of them."""
        return all(case.problem is None for case in self.cases)


@dataclass(frozen=True)
class _Canary:
    """A simulated participant, as recorded beside its DICOM."""

    index: int
    study_uid: str
    expected: float


def check_canaries(scheduler: str, home: Home, programme: Programme) -> None:
    """Run the canaries a programme has, if any, and show them as a table in Prefect; for use inside a flow.

    Raises
    ------
    CanariesFailedError
        One came out wrong, or not at all.
    """
    if programme.canaries is None:
        return
    connection: Any = Client  # Dask's own annotations are partial
    with connection(scheduler, set_as_default=False) as client:
        report = run_canaries(client, home, programme)
    key = f"screen-{programme.name}-canaries"
    attempt(create_table_artifact, canary_rows(report), key=key, description="Simulated participants of known truth")
    if not report.passed:
        wrong = "; ".join(f"{case.name}: {case.problem}" for case in report.cases if case.problem)
        folder = canary_home(home, programme).root
        raise CanariesFailedError(
            f"no participant is measured, because canaries of {programme.name} failed: {wrong}. Messages and "
            f"tracebacks are in canaries/{folder.name}/{LAST_RUN} of the home; where the change is intended, delete "
            "that folder, and the next run makes and records them anew"
        )


def run_canaries(client: Client, home: Home, programme: Programme) -> CanaryReport:
    """Compute a programme's canaries on a cluster, and compare them with the truth and with their first results.

    Parameters
    ----------
    client
        Connection to the cluster that will compute the participants.
    home
        The participants' home.
    programme
        With the policy that participants are computed with.

    Returns
    -------
    CanaryReport
        One case for each canary.

    Raises
    ------
    ValueError
        The programme declares no canaries.
    Exception
        What is not about a canary: no workers, no such model, a full disk.
    """
    declared = _declared(programme)
    place = canary_home(home, programme)
    with place.open_ledger() as ledger:
        known = _prepare(place, ledger, declared)
        # Where results of participants lie is the only difference; models come from where theirs come from.
        stores = replace(home.stores, volumes=place.stores.volumes, objects=place.stores.objects)
        plan = make_plan(ledger, programme, stores, EVERY_NEED)
        results = _compute(client, programme, plan)
        decoded = _decode_again(place)
        cases = tuple(
            _case(name, canary, results.get(canary.study_uid), declared, decoded, ledger)
            for name, canary in known.items()
        )
        passed = {canary.study_uid for canary, case in zip(known.values(), cases, strict=True) if not case.problem}
        # Only what is right may become the first result of its fingerprint, which later ones are compared with.
        ledger.commit_results([result for uid, result in results.items() if uid in passed])
    _keep(place, cases, [results.get(canary.study_uid) for canary in known.values()])
    return CanaryReport(cases)


def canary_rows(report: CanaryReport) -> list[dict[str, Any]]:
    """Rows of a table of the canaries, for Prefect."""
    return [
        {
            "canary": case.name,
            "expected": round(case.expected, 2),
            "found": "none" if case.found is None else round(case.found, 2),
            "verdict": case.problem or "as expected",
            "seconds": round(case.seconds, 2),
        }
        for case in report.cases
    ]


def canary_home(home: Home, programme: Programme) -> Home:
    """Home of a programme's canaries: volumes where workers can read them, and a SQLite ledger."""
    name = f"{programme.name}-{_declared(programme).seed}"
    store = f"{home.store_url.rstrip('/')}/canaries/{name}" if home.store_url else None
    return Home.at(home.root / "canaries" / name, store_url=store)


def _declared(programme: Programme) -> CanarySet:
    if programme.canaries is None:
        raise ValueError(f"programme {programme.name} declares no canaries")
    return programme.canaries


def _prepare(place: Home, ledger: Ledger, declared: CanarySet) -> dict[str, _Canary]:
    """Simulate and ingest what is not there yet; another run that wants the same waits."""
    with ledger.alone("canaries"):
        known = _read_made(place.root / MADE)
        if {name: canary.index for name, canary in known.items()} != dict(declared.participants):
            known = _simulate(place.root, declared)
        ingest_paths([place.root / "dicom"], ledger, place.volumes)
    return known


def _read_made(path: Path) -> dict[str, _Canary]:
    if not path.exists():
        return {}
    return {name: _Canary(**canary) for name, canary in json.loads(path.read_text(encoding="utf-8")).items()}


def _simulate(root: Path, declared: CanarySet) -> dict[str, _Canary]:
    (root / MADE).unlink(missing_ok=True)
    shutil.rmtree(root / "dicom", ignore_errors=True)
    known = {}
    for name, index in declared.participants.items():
        study_uid, truth = declared.simulate(root / "dicom", index, declared.seed)
        known[name] = _Canary(index, study_uid, declared.truth(truth))
    _write_json(root / MADE, {name: asdict(canary) for name, canary in known.items()})
    return known


def _compute(client: Client, programme: Programme, plan: Plan) -> dict[str, ResultRecord]:
    """Results by study, of canaries computed now and of those that the programme did not accept."""
    outcomes: list[Outcome] = []
    stream(client, programme.stages, plan.cases, outcomes.extend)
    results = [*plan.refused, *(result_of(outcome) for outcome in outcomes)]
    return {result.study_uid: result for result in results}


def _decode_again(place: Home) -> dict[str, str | None]:
    """Pixel digests by series, from the DICOM and not from the store: ingest itself does not read twice."""
    with TemporaryDirectory() as folder:
        scratch = Home.at(folder)
        with scratch.open_ledger() as ledger:
            ingest_paths([place.root / "dicom"], ledger, scratch.volumes)
            return {series.series_uid: series.pixel_digest for series in ledger.series()}


def _case(
    name: str,
    canary: _Canary,
    result: ResultRecord | None,
    declared: CanarySet,
    decoded: Mapping[str, str | None],
    ledger: Ledger,
) -> CanaryCase:
    found = _value(result, declared.measurement)
    problem: str | None
    if result is None or found is None:
        problem = _without_number(result)
    else:
        first = _first(ledger, result, declared.measurement)
        problem = _decoding(result, decoded) or declared.judge(canary.expected, found) or _drift(found, first)
    if problem:
        shown = "no number" if found is None else f"{found:.6g}"
        problem = f"{declared.measurement} expected {canary.expected:.6g}, found {shown}: {problem}"
    return CanaryCase(name, canary.expected, found, problem, sum(result.timings.values()) if result else 0.0)


def _value(result: ResultRecord | None, measurement: str) -> float | None:
    if result is None or result.status is not ResultStatus.OK:
        return None
    value = next((m.value for m in result.measurements if m.name == measurement), None)
    return value if isinstance(value, float) else None


def _without_number(result: ResultRecord | None) -> str:
    if result is None:
        return "its study is not in the canary ledger; was its DICOM deleted or its ingest refused?"
    if result.error:
        return f"failed with {result.error['class']}"
    return f"{result.status}, {result.reason or 'without this measurement'}"


def _decoding(result: ResultRecord, decoded: Mapping[str, str | None]) -> str | None:
    for role, series_uid in result.roles.items():
        digest = decoded.get(series_uid)
        if digest != result.inputs[role]:
            now = f"voxels of digest {digest[:12]}" if digest else "nothing"
            return f"the DICOM of {role} decodes to {now}, at first to {result.inputs[role][:12]}"
    return None


def _first(ledger: Ledger, result: ResultRecord, measurement: str) -> float | None:
    same = (earlier for earlier in ledger.history(result.case_id) if earlier.fingerprint == result.fingerprint)
    return _value(next(same, None), measurement)


def _drift(found: float, first: float | None) -> str | None:
    if first is None or math.isclose(found, first, rel_tol=DRIFT_TOLERANCE, abs_tol=DRIFT_TOLERANCE):
        return None
    return f"was {first:.6g} at first with the same fingerprint; hardware or libraries have changed"


def _keep(place: Home, cases: tuple[CanaryCase, ...], results: list[ResultRecord | None]) -> None:
    told = [
        asdict(case) | {"detail": result.detail if result else "", "error": result.error if result else None}
        for case, result in zip(cases, results, strict=True)
    ]
    _write_json(place.root / LAST_RUN, told)


def _write_json(path: Path, document: object) -> None:
    """Write atomically: a reader sees the old file or the new."""
    Location(str(path)).write_bytes(json.dumps(document, indent=1).encode())
