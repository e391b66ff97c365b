"""Lanes of a screening programme: their control charts, and which of them are paused.

Charts and the position up to which results are charted change in one transaction, so a result never counts twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Row,
    Select,
    Text,
    and_,
    cast,
    delete,
    exists,
    func,
    or_,
    select,
    text,
    update,
)

from ops.control_charts import Chart, chart_from_dict, chart_to_dict
from ops.verdict import ResultStatus
from storage import _schema as db
from storage._engine import read, write
from storage._queries import is_of
from storage._statements import insert_missing, upsert
from storage.records import storable_text, utc_now

# Results a page, and the number of places in the sweep from which each page takes its share (see `Lanes.pages`).
PAGE_RESULTS = 1000
PAGE_PLACES = 50

_RECIPE = ("programme_version", "policy", "models", "stages")


@dataclass(frozen=True)
class Lane:
    """Programme × scanner × kernel × site: results of one lane should look alike from week to week."""

    lane_id: str
    programme: str
    scanner: str
    kernel: str
    site: str


@dataclass(frozen=True)
class LaneRecord(Lane):
    """A lane and how it stands.

    Attributes
    ----------
    paused_at
        Since when it is paused; None while it runs.
    reason
        Why it is paused, for people.
    """

    paused_at: str | None = None
    reason: str = ""


class ChartKey(NamedTuple):
    """Which chart: of a lane, for results of one recipe, of one measurement (or of the refusals)."""

    lane_id: str
    recipe: str
    name: str


@dataclass(frozen=True)
class ChartedResult:
    """What control charts need of a result.

    Attributes
    ----------
    is_counted
        Whether an earlier result of the case, of the same programme version and policy, or an attempt at this one that
        failed has been counted among refused and not refused already.
    recipe
        Programme version, policy, models and stages: what may change numbers without any drift.
    header
        The asked keywords of the series in its first role; of a study refused without roles, of its largest series.
    numbers
        Measurement name → number, of those that were asked for and measured.
    """

    result_id: int
    case_id: str
    status: ResultStatus
    is_counted: bool
    recipe: Mapping[str, Any]
    header: Mapping[str, Any]
    numbers: Mapping[str, float]


class Lanes:
    """Lanes and control charts in the ledger's database; reached as ``Ledger.lanes``.

    Parameters
    ----------
    engine
        Of an opened ledger.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # ---- lanes ---------------------------------------------------------------------------------------

    def all(self, programme: str | None = None) -> list[LaneRecord]:
        """Lanes of one programme or of all, in order of programme, scanner, kernel and site."""
        table = db.lane
        query = select(table).order_by(table.c.programme, table.c.scanner, table.c.kernel, table.c.site)
        if programme is not None:
            query = query.where(table.c.programme == programme)
        rows = read(self._engine, lambda connection: connection.execute(query).mappings().all())
        return [LaneRecord(**row) for row in rows]

    def pause(self, lane_id: str, reason: str) -> None:
        """Pause a lane; one that is paused already keeps its first reason.

        Raises
        ------
        KeyError
            There is no such lane.
        """
        self.get(lane_id)
        write(self._engine, lambda connection: _pause(connection, lane_id, reason))

    def resume(self, lane_id: str, rebaseline: bool = False) -> None:
        """Let a lane run again and watch it anew.

        Parameters
        ----------
        lane_id
            Of a lane; one that is not paused is watched anew, too.
        rebaseline
            Forget what was usual and learn it from the next results, as after a change that is there to stay.

        Raises
        ------
        KeyError
            There is no such lane.
        """
        programme = self.get(lane_id).programme

        def resumed(connection: Connection) -> None:
            _hold_position(connection, programme)
            connection.execute(update(db.lane).where(db.lane.c.lane_id == lane_id).values(paused_at=None, reason=""))
            if rebaseline:
                connection.execute(delete(db.control_chart).where(db.control_chart.c.lane_id == lane_id))
                return
            charts = _charts(connection, db.control_chart.c.lane_id == lane_id)
            _store_charts(connection, {key: chart.cleared() for key, chart in charts.items()})

        write(self._engine, resumed)

    def get(self, lane_id: str) -> LaneRecord:
        """Return the lane of this id.

        Raises
        ------
        KeyError
            There is none.
        """
        query = select(db.lane).where(db.lane.c.lane_id == lane_id)
        row = read(self._engine, lambda connection: connection.execute(query).mappings().first())
        if row is None:
            raise KeyError(f"there is no lane {lane_id!r}; `popscan lanes list` shows them")
        return LaneRecord(**row)

    # ---- charts --------------------------------------------------------------------------------------

    def charts(self, programme: str) -> dict[ChartKey, Chart]:
        """All charts of all lanes of a programme."""
        return read(self._engine, lambda connection: _charts(connection, _of_programme(programme)))

    def position(self, programme: str) -> int:
        """Return the result id up to which a programme is charted; 0 before the first."""
        table = db.chart_position
        query = select(table.c.result_id).where(table.c.programme == programme)
        return read(self._engine, lambda connection: connection.execute(query).scalar()) or 0

    def newest_result(self) -> int:
        """Newest result id of all programmes; 0 without results. What is committed later has a greater one."""

        def newest(connection: Connection) -> int:
            if connection.dialect.name == "postgresql":
                # Ids are drawn before they are committed: wait for the writers that hold a smaller one.
                connection.execute(text("LOCK TABLE result IN SHARE MODE"))
            return connection.execute(select(func.max(db.result.c.result_id))).scalar() or 0

        return write(self._engine, newest)  # to lock a table; and a look at the state before the lock would be stale

    def pages(
        self, programme: str, after: int, upto: int, keywords: Collection[str], measurements: Collection[str]
    ) -> Iterator[list[ChartedResult]]:
        """Yield the results after one id up to another, a page at a time.

        One that failed is met once, however often it fails again, and once more when it has succeeded.

        Every page draws on `PAGE_PLACES` places spread over the whole range, and is in order of case id, a digest.
        A run commits its refusals before the cases it has to compute, and those in order of study: neither is an
        order of time, and taken for one, the refusals would look like a scanner gone wrong.

        Parameters
        ----------
        programme
            Whose results.
        after, upto
            Result ids: from the first to come after ``after``, to ``upto`` itself.
        keywords, measurements
            Of the header, and of the numbers.
        """
        stride, share = -(-(upto - after) // PAGE_PLACES), PAGE_RESULTS // PAGE_PLACES
        for offset in range(0, stride, share):
            ranges = [
                (start + offset + 1, min(start + offset + share, start + stride, upto))
                for start in range(after, upto, stride)
            ]
            page = partial(_page, programme=programme, ranges=ranges, keywords=keywords, measurements=measurements)
            yield read(self._engine, page)

    def record(
        self,
        programme: str,
        after: int,
        upto: int,
        lanes: Collection[Lane],
        earlier: Mapping[ChartKey, Chart],
        charts: Mapping[ChartKey, Chart],
        alarms: Mapping[str, str],
    ) -> bool:
        """Store charts and the position they go to, and pause lanes, all in one transaction.

        Parameters
        ----------
        programme
            Whose results were charted.
        after, upto
            Position before and now.
        lanes
            Those that were met; new ones are added.
        earlier, charts
            Charts of the programme as they were read, and those that changed.
        alarms
            Lane id → why it has to pause.

        Returns
        -------
        bool
            False when position or charts have changed since they were read: nothing is stored then; begin again.
        """

        def store(connection: Connection) -> bool:
            insert_missing(connection, db.chart_position, [{"programme": programme, "result_id": 0}])
            held = _hold_position(connection, programme)
            if held != after or _charts(connection, _of_programme(programme)) != earlier:
                return False
            insert_missing(connection, db.lane, [{**vars(lane), "reason": ""} for lane in lanes])
            _store_charts(connection, charts)
            for lane_id, reason in alarms.items():
                _pause(connection, lane_id, reason)
            upsert(connection, db.chart_position, [{"programme": programme, "result_id": upto}], ["programme"])
            return True

        return write(self._engine, store)


def _pause(connection: Connection, lane_id: str, reason: str) -> None:
    running = update(db.lane).where(db.lane.c.lane_id == lane_id, db.lane.c.paused_at.is_(None))
    connection.execute(running.values(paused_at=utc_now(), reason=storable_text(reason)))


def _hold_position(connection: Connection, programme: str) -> int | None:
    """Position of a programme; whoever else changes its charts waits until this transaction is over."""
    table = db.chart_position
    query = select(table.c.result_id).where(table.c.programme == programme).with_for_update()
    held: int | None = connection.execute(query).scalar()
    return held


def _of_programme(programme: str) -> Any:
    return db.control_chart.c.lane_id.in_(select(db.lane.c.lane_id).where(db.lane.c.programme == programme))


def _charts(connection: Connection, condition: Any) -> dict[ChartKey, Chart]:
    table = db.control_chart
    query = select(table.c.lane_id, table.c.recipe, table.c.name, table.c.state).where(condition)
    return {ChartKey(*key): chart_from_dict(state) for *key, state in connection.execute(query)}


def _store_charts(connection: Connection, charts: Mapping[ChartKey, Chart]) -> None:
    now = utc_now()
    rows = [{**key._asdict(), "state": chart_to_dict(chart), "updated_at": now} for key, chart in charts.items()]
    upsert(connection, db.control_chart, rows, list(ChartKey._fields))


def _page(
    connection: Connection,
    programme: str,
    ranges: Collection[tuple[int, int]],
    keywords: Collection[str],
    measurements: Collection[str],
) -> list[ChartedResult]:
    # Sorted here: to have the order from an index, SQLite would walk all results for every page.
    found = connection.execute(_page_query(programme, ranges))
    rows = sorted(found, key=lambda row: (row.case_id, row.result_id))
    headers = _headers(connection, rows, keywords)
    numbers = _numbers(connection, [row.result_id for row in rows], measurements)
    return [
        ChartedResult(
            result_id=row.result_id,
            case_id=row.case_id,
            status=ResultStatus(row.status),
            is_counted=row.is_counted,
            recipe={name: row._mapping[name] for name in _RECIPE},
            header=headers.get(row.result_id, {}),
            numbers=numbers[row.result_id],
        )
        for row in rows
    ]


def _page_query(programme: str, ranges: Collection[tuple[int, int]]) -> Select[Any]:
    result, case = db.result, db.screening_case
    columns = [result.c[name] for name in ("result_id", "case_id", "status", "roles", *_RECIPE)]
    return (
        select(case.c.study_uid, _is_counted().label("is_counted"), *columns)
        .join(case, case.c.case_id == result.c.case_id)
        .where(is_of(programme))
        .where(or_(*(result.c.result_id.between(first, last) for first, last in ranges)))
    )


def _is_counted() -> ColumnElement[bool]:
    result, earlier = db.result.c, db.result.alias("earlier")
    same_grounds = (
        earlier.c.case_id == result.case_id,
        earlier.c.programme_version == result.programme_version,
        cast(earlier.c.policy, Text) == cast(result.policy, Text),  # the JSON is canonical
    )
    has_earlier = exists().where(*same_grounds, earlier.c.result_id < result.result_id)
    # A success takes the place of the failure, with a new id: only its attempts tell that there was one.
    return or_(has_earlier, and_(result.status != ResultStatus.FAILED.value, result.attempts > 1))


def _headers(
    connection: Connection, results: Collection[Row[Any]], keywords: Collection[str]
) -> dict[int, dict[str, Any]]:
    """Read the asked keywords of each result's series; the rest of a header (UIDs of all slices) stays where it is."""
    table = db.series
    values = [table.c.header[keyword].label(keyword) for keyword in keywords]
    query = select(table.c.study_uid, table.c.series_uid, table.c.n_instances, *values)
    by_study = defaultdict(list)
    for series in connection.execute(query.where(table.c.study_uid.in_({row.study_uid for row in results}))):
        by_study[series.study_uid].append(series)
    headers = {}
    for row in results:
        first = row.roles[min(row.roles)] if row.roles else ""
        candidates = sorted((s.series_uid == first, s.n_instances, s.series_uid, s) for s in by_study[row.study_uid])
        if candidates:
            headers[row.result_id] = {keyword: candidates[-1][-1]._mapping[keyword] for keyword in keywords}
    return headers


def _numbers(
    connection: Connection, result_ids: Collection[int], names: Collection[str]
) -> defaultdict[int, dict[str, float]]:
    table = db.measurement
    query = select(table.c.result_id, table.c.name, table.c.number).where(
        table.c.result_id.in_(result_ids), table.c.name.in_(names), table.c.number.is_not(None)
    )
    numbers: defaultdict[int, dict[str, float]] = defaultdict(dict)
    for result_id, name, number in connection.execute(query):
        numbers[result_id][name] = number
    return numbers
