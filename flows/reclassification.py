"""Who changed category when results were replaced, how many crossed each edge, and why."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from flows.programmes.programme import Programme
from flows.staleness import reasons
from ops.agreement import LimitsOfAgreement, RunningLimits
from ops.verdict import ResultStatus
from storage.changes import Replacement
from storage.ledger import Ledger
from storage.records import ResultRecord

CASES_PER_CELL = 20
"""Cases that are named under each change of category, so that the whole stays small for any population."""


@dataclass(frozen=True, order=True)
class Category:
    """What a result comes to, in the order of tables: categories from low to high, then why there is none.

    Attributes
    ----------
    rank
        0 for a category, then not evaluable, out of model range, failed, and no result at all.
    scheme
        Place of the measurement that gives the category among those of its programme.
    number, bound
        First number in its label, −1 without any, and whether that is an upper (−1) or lower (1) bound: 1-10 comes
        before 11-100, and >400 last.
    label
        For people.
    """

    rank: int
    scheme: int = 0
    number: float = -1.0
    bound: int = 0
    label: str = "no result"


NO_RESULT = Category(4)
_RANKS = {ResultStatus.NOT_EVALUABLE: 1, ResultStatus.OUT_OF_MODEL_RANGE: 2, ResultStatus.FAILED: 3}


def category_of(record: ResultRecord | None, names: Sequence[str]) -> Category:
    """Category of a result.

    Parameters
    ----------
    record
        The result; None where there was none.
    names
        Text measurements that class a result (`Programme.categories`); labels of all but the first name their scheme.
    """
    if record is None:
        return NO_RESULT
    if record.status is ResultStatus.FAILED:
        return Category(_RANKS[record.status], label="failed")
    if record.status is not ResultStatus.OK:
        return Category(_RANKS[record.status], label=f"{record.status.value.replace('_', ' ')}: {record.reason}")
    values = {m.name: m.value for m in record.measurements if isinstance(m.value, str)}
    for scheme, name in enumerate(names):
        if name in values:
            prefix = name.removesuffix("_class").replace("_", " ") + " " if scheme else ""
            return Category(0, scheme, *_number(values[name]), prefix + values[name])
    return Category(0, len(names), label="evaluated")


def _number(label: str) -> tuple[float, int]:
    found = re.search(r"\d+(\.\d+)?", label)
    bound = -1 if label[:1] in "<≤" else 1 if label[:1] in ">≥" else 0
    return (float(found[0]) if found else -1.0), bound


@dataclass(frozen=True)
class Cell:
    """Cases that went from one category to another (or stayed).

    Attributes
    ----------
    earlier, present
        Labels of the categories.
    n
        How many.
    cases
        Ids of the first `CASES_PER_CELL` of them.
    reasons
        Why their results were replaced → how many; a case may have several reasons.
    """

    earlier: str
    present: str
    n: int
    cases: tuple[str, ...]
    reasons: Mapping[str, int]


@dataclass(frozen=True)
class Edge:
    """Border between two neighbouring categories, and how many crossed it upwards and downwards."""

    below: str
    above: str
    up: int
    down: int


@dataclass(frozen=True)
class ValueChange:
    """How a measurement changed where both results have it.

    Attributes
    ----------
    name, unit
        The measurement.
    n
        Cases in which both results have a value.
    fell, unchanged, rose
        How many.
    largest_fall, largest_rise
        (case id, change) of the greatest changes; None where there is none.
    limits
        Bias and 95 % limits of present minus earlier.
    """

    name: str
    unit: str
    n: int
    fell: int
    unchanged: int
    rose: int
    largest_fall: tuple[str, float] | None
    largest_rise: tuple[str, float] | None
    limits: LimitsOfAgreement


@dataclass(frozen=True)
class Reclassification:
    """Results of a programme against those they replaced.

    Attributes
    ----------
    programme, since
        Whose results; since when they were made, None for all.
    categories
        Labels that occur, in clinical order, then why there is none.
    cells
        Every change that occurs, in order of the categories.
    edges
        Between neighbouring categories that occur.
    values
        Change of each charted measurement.
    """

    programme: str
    since: str | None
    categories: tuple[str, ...]
    cells: tuple[Cell, ...]
    edges: tuple[Edge, ...]
    values: tuple[ValueChange, ...]

    @property
    def replaced(self) -> int:
        """Cases that had a result before."""
        return sum(cell.n for cell in self.cells if cell.earlier != NO_RESULT.label)

    @property
    def first(self) -> int:
        """Cases that had none."""
        return sum(cell.n for cell in self.cells if cell.earlier == NO_RESULT.label)

    @property
    def moved(self) -> tuple[Cell, ...]:
        """Changes to another category of cases that had a result before, the most frequent first."""
        moved = [cell for cell in self.cells if cell.earlier not in (NO_RESULT.label, cell.present)]
        return tuple(sorted(moved, key=lambda cell: -cell.n))

    @property
    def reasons(self) -> dict[str, int]:
        """Why results were replaced → how many, the most frequent first."""
        total: Counter[str] = Counter()
        for cell in self.cells:
            total.update(cell.reasons)
        return dict(total.most_common())

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it; a bias or limit that takes more cases than there are is None."""
        document = {**asdict(self), "replaced": self.replaced, "first": self.first, "reasons": self.reasons}
        document["moved"] = sum(cell.n for cell in self.moved)
        for value in document["values"]:
            value["limits"] = {key: None if number != number else number for key, number in value["limits"].items()}
        return document


def reclassification(ledger: Ledger, programme: Programme, since: str | None = None) -> Reclassification:
    """Compare current results with those they replaced, in constant memory.

    Parameters
    ----------
    ledger, programme
        Whose results.
    since
        Only current results made then or later, a time as of `storage.records.utc_time`. One that was made current
        again, as after a change that was taken back, counts by when it was made.
    """
    tally = _Tally(programme)
    for replacement in ledger.changes.replacements(programme.name, since):
        tally.add(replacement)
    return tally.result(since)


@dataclass
class _Moved:
    n: int = 0
    cases: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)


class _Tally:
    """Counts so far: as large as the table, whatever the population."""

    def __init__(self, programme: Programme) -> None:
        self._programme = programme
        self._cells: dict[tuple[Category, Category], _Moved] = {}
        self._values = {name: _Values(name) for name in programme.charted}

    def add(self, replacement: Replacement) -> None:
        earlier, current = replacement.earlier, replacement.current
        names = self._programme.categories
        moved = self._cells.setdefault((category_of(earlier, names), category_of(current, names)), _Moved())
        moved.n += 1
        if len(moved.cases) < CASES_PER_CELL:
            moved.cases.append(current.case_id)
        if earlier is not None:
            moved.reasons.update(reasons(earlier, current))
            for values in self._values.values():
                values.add(earlier, current)

    def result(self, since: str | None) -> Reclassification:
        occurring = sorted({category for pair in self._cells for category in pair})
        cells = [
            Cell(a.label, b.label, moved.n, tuple(moved.cases), dict(moved.reasons.most_common()))
            for (a, b), moved in sorted(self._cells.items(), key=lambda item: item[0])
        ]
        return Reclassification(
            programme=self._programme.name,
            since=since,
            categories=tuple(category.label for category in occurring),
            cells=tuple(cells),
            edges=tuple(
                self._edge(a, b)
                for a, b in pairwise(occurring)
                if (a.rank, a.scheme) == (b.rank, b.scheme) and not a.rank
            ),
            values=tuple(values.change() for values in self._values.values() if values.running.n),
        )

    def _edge(self, below: Category, above: Category) -> Edge:
        def is_low(category: Category) -> bool:
            return category <= below

        within = {
            pair: moved.n
            for pair, moved in self._cells.items()
            if all((category.rank, category.scheme) == (0, below.scheme) for category in pair)
        }
        up = sum(n for (earlier, present), n in within.items() if is_low(earlier) and not is_low(present))
        down = sum(n for (earlier, present), n in within.items() if is_low(present) and not is_low(earlier))
        return Edge(below.label, above.label, up, down)


class _Values:
    """Changes of one measurement so far."""

    def __init__(self, name: str) -> None:
        self._name, self._unit = name, ""
        self.running = RunningLimits()
        self._signs: Counter[int] = Counter()
        self._fall: tuple[str, float] | None = None
        self._rise: tuple[str, float] | None = None

    def add(self, earlier: ResultRecord, current: ResultRecord) -> None:
        before, after = _value(earlier, self._name), _value(current, self._name)
        if before is None or after is None:
            return
        self.running.add(before, after)
        change = after - before
        self._signs[(change > 0) - (change < 0)] += 1
        if change < (self._fall[1] if self._fall else 0.0):
            self._fall = current.case_id, change
        if change > (self._rise[1] if self._rise else 0.0):
            self._rise = current.case_id, change
        self._unit = next(m.unit for m in current.measurements if m.name == self._name)

    def change(self) -> ValueChange:
        fell, unchanged, rose = (self._signs[sign] for sign in (-1, 0, 1))
        extremes = (self._fall, self._rise)
        return ValueChange(
            self._name, self._unit, self.running.n, fell, unchanged, rose, *extremes, self.running.limits()
        )


def _value(record: ResultRecord, name: str) -> float | None:
    return next((m.value for m in record.measurements if m.name == name and isinstance(m.value, float)), None)


def reclassification_view(found: Reclassification) -> dict[str, Any]:
    """Return what ``templates/reclassification.html`` shows; it expects it under the name ``reclassification``."""
    counts = {(cell.earlier, cell.present): cell.n for cell in found.cells}
    columns = [label for label in found.categories if any(present == label for _, present in counts)]
    rows = [label for label in found.categories if any(earlier == label for earlier, _ in counts)]
    return {
        "found": found,
        "columns": columns,
        "rows": [_row(row, [(column, counts.get((row, column), 0)) for column in columns]) for row in rows],
        "moved": sum(cell.n for cell in found.moved),
        "edges": [edge for edge in found.edges if edge.up or edge.down],
    }


def _row(earlier: str, counts: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """One row of the table; a first result is no change and has no colour."""
    colours = (
        {} if earlier == NO_RESULT.label else {label: "same" if label == earlier else "off" for label, _ in counts}
    )
    return {"earlier": earlier, "cells": [(n, colours.get(label, "") if n else "") for label, n in counts]}
