"""The planner: which cases are missing or stale, as a value that can be printed and tested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import attrgetter

from flows.programmes.programme import Programme, Selection
from ops.verdict import ResultStatus, VerdictStatus
from storage.ledger import Ledger
from storage.models import list_bundles, load_bundle
from storage.records import INGEST_PROGRAMME, CaseState, ResultRecord, SeriesRecord, VerdictRecord, case_id
from tasks.case import Case, Findings, Recipe, Stores, describe_stages, refused_result

ATTEMPTS = 3
"""Runs in which one fingerprint may fail before its case is left alone."""


class MissingModelError(RuntimeError):
    """A programme needs a model that is not installed."""


@dataclass(frozen=True)
class Plan:
    """What one run of a programme has to do.

    Attributes
    ----------
    programme
        Its name.
    cases
        To be computed.
    refused
        Results of studies that cannot be evaluated, as far as they are not in the ledger yet.
    restored
        Case id → fingerprint of an earlier result that answers again, as after a change that was taken back.
    verdicts
        On every series in the ledger.
    counts
        Studies by ``new``, ``stale`` (fingerprint changed), ``restored``, ``retried`` (failed before), ``unchanged``
        and ``quarantined`` (failed too often to be tried again).
    """

    programme: str
    cases: tuple[Case, ...] = ()
    refused: tuple[ResultRecord, ...] = ()
    restored: Mapping[str, str] = field(default_factory=dict)
    verdicts: tuple[VerdictRecord, ...] = ()
    counts: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        counted = ", ".join(f"{self.counts[key]} {key}" for key in sorted(self.counts))
        return (
            f"{self.programme}: {len(self.cases)} to compute, {len(self.refused)} refused ({counted or 'no studies'})"
        )


def make_recipe(programme: Programme) -> Recipe:
    """Pin a programme's models to the digests of the newest installed bundles.

    Raises
    ------
    MissingModelError
        A model is not installed.
    """
    installed = {bundle.manifest.name: bundle.digest for bundle in map(load_bundle, list_bundles())}
    missing = [name for name in programme.models if name not in installed]
    if missing:
        raise MissingModelError(f"programme {programme.name!r} needs the model {missing[0]!r}, which is not installed")
    return Recipe(
        programme=programme.name,
        version=programme.version,
        policy=programme.policy,
        stages=describe_stages(programme.stages),
        models={name: installed[name] for name in programme.models},
    )


def make_plan(ledger: Ledger, programme: Programme, stores: Stores, retry_quarantined: bool = False) -> Plan:
    """Compare every study of the ledger with the result it has, if any.

    Parameters
    ----------
    ledger, programme, stores
        What there is, what is asked, and where workers read and write.
    retry_quarantined
        Try cases again that failed in `ATTEMPTS` runs.
    """
    recipe = make_recipe(programme)
    known, earlier = ledger.current_fingerprints(programme.name), ledger.earlier_fingerprints(programme.name)
    ingested = {verdict.series_uid: verdict for verdict in ledger.verdicts(INGEST_PROGRAMME)}
    cases: list[Case] = []
    refused: list[ResultRecord] = []
    restored: dict[str, str] = {}
    verdicts: list[VerdictRecord] = []
    counts: Counter[str] = Counter()
    for study_uid, group in groupby(ledger.series(), key=attrgetter("study_uid")):
        series = list(group)
        selection = _select(programme, series, [ingested[s.series_uid] for s in series if s.series_uid in ingested])
        verdicts += selection.verdicts
        pending = _pending(study_uid, selection, series, recipe, stores)
        state = known.get(pending.case_id)
        need = _need(state, pending, earlier, retry_quarantined)
        counts[need] += 1
        if need == "restored":
            restored[pending.case_id] = pending.fingerprint
        if need == "retried" and state:
            pending = _tried_before(pending, state.attempts)
        if need in ("new", "stale", "retried"):
            _sort_in(pending, cases, refused)
    return Plan(programme.name, tuple(cases), tuple(refused), restored, tuple(verdicts), counts)


def _select(programme: Programme, series: Sequence[SeriesRecord], verdicts: Sequence[VerdictRecord]) -> Selection:
    """Ask the programme; should it fail on odd headers, that is this study's failure and no other's."""
    try:
        return programme.accept(series, verdicts, programme.policy)
    except Exception as error:
        reason, detail = "accept_failed", f"{type(error).__name__}: {error}"
        own = [
            VerdictRecord(record.series_uid, record.study_uid, programme.name, VerdictStatus.REFUSED, reason, detail)
            for record in series
        ]
        return Selection(own, reason=reason, detail=detail, status=ResultStatus.FAILED)


def _pending(
    study_uid: str, selection: Selection, series: Sequence[SeriesRecord], recipe: Recipe, stores: Stores
) -> Case | ResultRecord:
    identity = case_id(recipe.programme, study_uid)
    if not selection.roles:
        sources = sorted(record.source_digest for record in series)
        fingerprint = recipe.fingerprint(refused=selection.reason, detail=selection.detail, sources=sources)
        findings = Findings(selection.status, selection.reason, selection.detail)
        return refused_result(recipe, identity, study_uid, fingerprint, findings)
    inputs = {role: record.pixel_digest or "" for role, record in selection.roles.items()}
    return Case(
        case_id=identity,
        study_uid=study_uid,
        roles={role: record.series_uid for role, record in selection.roles.items()},
        inputs=inputs,
        volume_keys={role: record.volume_url or "" for role, record in selection.roles.items()},
        facts=selection.facts,
        recipe=recipe,
        stores=stores,
        fingerprint=recipe.fingerprint(inputs=inputs, facts=dict(selection.facts)),
    )


def _need(
    state: CaseState | None, pending: Case | ResultRecord, earlier: Set[tuple[str, str]], retry_quarantined: bool
) -> str:
    if state is None:
        return "new"
    if state.fingerprint != pending.fingerprint:
        return "restored" if (pending.case_id, pending.fingerprint) in earlier else "stale"
    if state.status is not ResultStatus.FAILED:
        return "unchanged"
    return "retried" if retry_quarantined or state.attempts < ATTEMPTS else "quarantined"


def _tried_before(pending: Case | ResultRecord, attempts: int) -> Case | ResultRecord:
    if isinstance(pending, Case):
        return replace(pending, earlier_attempts=attempts)
    return replace(pending, attempts=attempts + 1)


def _sort_in(pending: Case | ResultRecord, cases: list[Case], refused: list[ResultRecord]) -> None:
    if isinstance(pending, Case):
        cases.append(pending)
    else:
        refused.append(pending)
