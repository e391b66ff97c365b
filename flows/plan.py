"""The planner: which cases are missing or stale, page by page, as values that can be printed, added and tested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import groupby
from operator import add, attrgetter

from flows.lanes import lane_of
from flows.programmes.programme import Programme, Selection
from flows.staleness import reasons
from ops.verdict import ResultStatus, VerdictStatus
from storage.ledger import Ledger
from storage.records import INGEST_PROGRAMME, CaseState, ResultRecord, SeriesRecord, VerdictRecord, case_id
from storage.releases import load_newest
from tasks.case import Case, Findings, Recipe, Stores, describe_stages, refused_result

ATTEMPTS = 3
"""Runs in which one fingerprint may fail before its case is left alone."""

PAGE_STUDIES = 500
"""Studies looked at together by default; of a plan, no more than a page is in memory at a time."""

SCREENED = frozenset({"new", "stale", "retried"})
"""What a screening run computes."""

REPROCESSED = frozenset({"stale"})
"""What reprocessing computes: results there are already, and that something has changed for."""


class MissingModelError(RuntimeError):
    """A programme needs a model that is not installed."""


@dataclass(frozen=True)
class Overview:
    """How much there is to do, without holding it.

    Attributes
    ----------
    cases, refused
        How many are to be computed, and how many newly refused.
    counts, reasons
        As of `Plan`.
    """

    programme: str
    cases: int = 0
    refused: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: Overview) -> Overview:
        """Overview of the studies of both."""
        return Overview(
            self.programme,
            self.cases + other.cases,
            self.refused + other.refused,
            self.counts + other.counts,
            self.reasons + other.reasons,
        )

    def __str__(self) -> str:
        counted = ", ".join(f"{self.counts[key]} {key}" for key in sorted(self.counts))
        return f"{self.programme}: {self.cases} to compute, {self.refused} refused ({counted or 'no studies'})"


@dataclass(frozen=True)
class Plan:
    """What one run of a programme has to do, for some or all of the studies.

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
        On series, as far as they are not in the ledger yet.
    counts
        Studies by ``new``, ``stale`` (fingerprint changed), ``restored``, ``retried`` (failed before), ``unchanged``,
        ``quarantined`` (failed too often to be tried again) and ``held`` (their lane is paused).
    reasons
        Stale studies by what changed; one study may have several reasons.
    """

    programme: str
    cases: tuple[Case, ...] = ()
    refused: tuple[ResultRecord, ...] = ()
    restored: Mapping[str, str] = field(default_factory=dict)
    verdicts: tuple[VerdictRecord, ...] = ()
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: Plan) -> Plan:
        """Plan of the studies of both."""
        return Plan(
            programme=self.programme,
            cases=self.cases + other.cases,
            refused=self.refused + other.refused,
            restored={**self.restored, **other.restored},
            verdicts=self.verdicts + other.verdicts,
            counts=self.counts + other.counts,
            reasons=self.reasons + other.reasons,
        )

    @property
    def overview(self) -> Overview:
        """How much that is."""
        return Overview(self.programme, len(self.cases), len(self.refused), self.counts, self.reasons)

    def __str__(self) -> str:
        return str(self.overview)


def make_recipe(programme: Programme, stores: Stores) -> Recipe:
    """Pin a programme's models to the digests of the newest bundles, shipped or released to the store.

    Raises
    ------
    MissingModelError
        A model is not installed.
    """
    newest = {name: load_newest(name, stores.models) for name in programme.models}
    missing = [name for name, bundle in newest.items() if bundle is None]
    if missing:
        raise MissingModelError(f"programme {programme.name!r} needs the model {missing[0]!r}, which is not installed")
    return Recipe(
        programme=programme.name,
        version=programme.version,
        policy=programme.policy,
        stages=describe_stages(programme.stages),
        models={name: bundle.digest for name, bundle in newest.items() if bundle},
    )


def make_plan(
    ledger: Ledger, programme: Programme, stores: Stores, wanted: Set[str] = SCREENED, retry_quarantined: bool = False
) -> Plan:
    """Plan all studies at once; parameters as of `plan_pages`."""
    return reduce(add, plan_pages(ledger, programme, stores, wanted, retry_quarantined), Plan(programme.name))


def overview(
    ledger: Ledger, programme: Programme, stores: Stores, wanted: Set[str] = SCREENED, retry_quarantined: bool = False
) -> Overview:
    """Count what `plan_pages` would give."""
    pages = plan_pages(ledger, programme, stores, wanted, retry_quarantined)
    return reduce(add, (page.overview for page in pages), Overview(programme.name))


def plan_pages(
    ledger: Ledger,
    programme: Programme,
    stores: Stores,
    wanted: Set[str] = SCREENED,
    retry_quarantined: bool = False,
    page_studies: int = PAGE_STUDIES,
) -> Iterator[Plan]:
    """Compare every study of the ledger with the result it has, if any, a page of studies at a time.

    Parameters
    ----------
    ledger, programme, stores
        What there is, what is asked, and where workers read and write.
    wanted
        Needs that are computed now (`SCREENED`, `REPROCESSED`); others are only counted.
    retry_quarantined
        Try cases again that failed in `ATTEMPTS` runs.
    page_studies
        Studies a page.

    Raises
    ------
    MissingModelError
        Before the first page.
    """
    recipe = make_recipe(programme, stores)
    asked = _Asked(programme, recipe, stores, wanted, retry_quarantined)
    for series in ledger.study_pages(page_studies):
        yield _plan_page(ledger, asked, series)


@dataclass(frozen=True)
class _Asked:
    """What every page is planned for."""

    programme: Programme
    recipe: Recipe
    stores: Stores
    wanted: Set[str]
    retry_quarantined: bool


def _plan_page(ledger: Ledger, asked: _Asked, series: Sequence[SeriesRecord]) -> Plan:
    name = asked.programme.name
    groups = [list(group) for _, group in groupby(series, key=attrgetter("study_uid"))]
    studies = [group[0].study_uid for group in groups]
    ingested = {verdict.series_uid: verdict for verdict in ledger.verdicts(INGEST_PROGRAMME, studies)}
    recorded = set(ledger.verdicts(name, studies))
    paused = {lane.lane_id for lane in ledger.lanes.all(name) if lane.paused_at}
    known, earlier = ledger.current_fingerprints(name, studies), ledger.earlier_fingerprints(name, studies)
    cases: list[Case] = []
    refused: list[ResultRecord] = []
    restored: dict[str, str] = {}
    verdicts: list[VerdictRecord] = []
    stale: list[Case | ResultRecord] = []
    counts: Counter[str] = Counter()
    for group in groups:
        judged = [ingested[record.series_uid] for record in group if record.series_uid in ingested]
        selection = _select(asked.programme, group, judged)
        verdicts += [verdict for verdict in selection.verdicts if verdict not in recorded]
        pending = _pending(group[0].study_uid, selection, group, asked.recipe, asked.stores)
        state = known.get(pending.case_id)
        need = _need(state, pending, earlier, asked.retry_quarantined)
        if need in SCREENED and _is_held(name, selection, paused):
            need = "held"
        if need == "stale":
            stale.append(pending)
        counts[need] += 1
        if need == "restored":
            restored[pending.case_id] = pending.fingerprint
        if need == "retried" and state:
            pending = _tried_before(pending, state.attempts)
        if need in asked.wanted:
            _sort_in(pending, cases, refused)
    why = _why_stale(ledger, stale)
    return Plan(name, tuple(cases), tuple(refused), restored, tuple(verdicts), counts, why)


def _is_held(programme: str, selection: Selection, paused: Collection[str]) -> bool:
    """Tell whether a case waits because its lane is paused; refusing a study needs no scanner in control."""
    if not paused or not selection.roles:
        return False
    first = selection.roles[min(selection.roles)]  # as charts do: results keep their roles sorted
    return lane_of(programme, first.header).lane_id in paused


def _why_stale(ledger: Ledger, stale: Sequence[Case | ResultRecord]) -> Counter[str]:
    earlier = {record.case_id: record for record in ledger.results_of([pending.case_id for pending in stale])}
    found = (reasons(earlier[pending.case_id], pending) for pending in stale if pending.case_id in earlier)
    return Counter(reason for several in found for reason in several)


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
        fingerprint = recipe.refusal_fingerprint(refused=selection.reason, detail=selection.detail, sources=sources)
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
