"""Size classes and risk scores of intracranial aneurysms: PHASES and ELAPSS (SPEC §3.5).

Evidence marks: [S] read in a secondary source, [R] recalled and not re-read, [U] uncertain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ops.measure.errors import NotEvaluableError, OutOfModelRangeError

Population = Literal["north_america", "europe", "finland", "japan", "china"]
Site = Literal["ICA", "MCA", "ACA", "ACom", "PCom", "posterior"]
AgeStep = Literal["bounds", "floor", "ceil"]

# Largest 3-D diameter in mm; left-closed but for the top, where 25 still belongs below (SPEC §3.5, IA-16; convention).
SIZE_CLASSES = ((3.0, "<3"), (5.0, "3-<5"), (7.0, "5-<7"), (10.0, "7-<10"))
GIANT_ABOVE_MM = 25.0

# PHASES, Greving 2014 Lancet Neurol 13:59: structure [S], points and risks [R]. ACA includes ACom.
PHASES_POPULATION = {"north_america": 0, "europe": 0, "japan": 3, "finland": 5}
PHASES_SITE = {"ICA": 0, "MCA": 2, "ACA": 4, "ACom": 4, "PCom": 4, "posterior": 4}
PHASES_SIZE = ((20.0, 10), (10.0, 6), (7.0, 3), (0.0, 0))
PHASES_OLD_AGE = 70
# 5-year risk of rupture in %, by the lowest points of each row.
PHASES_RISK = (
    (12, 17.8),
    (11, 7.2),
    (10, 5.3),
    (9, 4.3),
    (8, 3.2),
    (7, 2.4),
    (6, 1.7),
    (5, 1.3),
    (4, 0.9),
    (3, 0.7),
    (0, 0.4),
)

# ELAPSS, Backes 2017 Neurology 88:1600, table as printed by UpToDate [S]. Unlike PHASES, PCom goes with posterior.
ELAPSS_POPULATION = {"north_america": 0, "europe": 0, "china": 0, "japan": 1, "finland": 7}
ELAPSS_SITE = {"ICA": 0, "ACA": 0, "ACom": 0, "MCA": 3, "PCom": 5, "posterior": 5}
ELAPSS_SIZE = ((10.0, 22), (7.0, 13), (5.0, 10), (3.0, 4), (1.0, 0))
ELAPSS_AGE, ELAPSS_AGE_STEP = 60, 5
# Growth after 3 and 5 years in %, by the lowest points of each row.
ELAPSS_GROWTH = (
    (25, 42.7, 60.8),
    (20, 25.8, 39.9),
    (15, 17.5, 28.1),
    (10, 11.7, 19.3),
    (5, 7.8, 13.0),
    (0, 5.0, 8.4),
)

OLDEST = 120


@dataclass(frozen=True)
class PhasesScore:
    """PHASES points 0–22 and risk of rupture within five years in %."""

    points: int
    rupture_5y: float


@dataclass(frozen=True)
class ElapssScore:
    """ELAPSS points and risk of growth in %.

    Attributes
    ----------
    points
        Lowest and highest possible; they differ only inside a 5-year step of age.
    growth_3y, growth_5y
        Risk of growth after 3 and 5 years in %.
    """

    points: tuple[int, int]
    growth_3y: float
    growth_5y: float


def size_class(diameter_mm: float) -> str:
    """Class of the largest diameter: <3, 3-<5, 5-<7, 7-<10, 10-25 or >25 mm; a giant aneurysm is above 25.

    Raises
    ------
    NotEvaluableError
        ``size_not_plausible``: not a positive number.
    """
    _require_size(diameter_mm)
    for bound, name in SIZE_CLASSES:
        if diameter_mm < bound:
            return name
    return ">25" if diameter_mm > GIANT_ABOVE_MM else "10-25"


def phases(
    population: Population,
    hypertension: bool,
    age: float,
    size_mm: float,
    earlier_sah: bool,
    site: Site,
) -> PhasesScore:
    """PHASES score of an unruptured aneurysm (Greving 2014; points and risks [R]).

    Parameters
    ----------
    population
        ``north_america`` and ``europe`` (other than Finnish) 0, ``japan`` 3, ``finland`` 5; no other was studied.
    hypertension
        1 point.
    age
        Years; 70 and above 1 point.
    size_mm
        Largest diameter: below 7 → 0, below 10 → 3, below 20 → 6, else 10. Not rounded.
    earlier_sah
        From another aneurysm; 1 point.
    site
        ICA 0, MCA 2, others 4.

    Raises
    ------
    OutOfModelRangeError
        ``population_not_in_model``, ``site_not_in_model``.
    NotEvaluableError
        ``age_not_plausible``, ``size_not_plausible``, ``not_known`` for a yes-or-no that is neither.
    """
    points = _look_up(PHASES_POPULATION, population, "population") + _look_up(PHASES_SITE, site, "site")
    _require_age(age)
    _require_size(size_mm)
    points += _yes_or_no(hypertension, "hypertension") + _yes_or_no(earlier_sah, "earlier_sah")
    points += (age >= PHASES_OLD_AGE) + int(_row(PHASES_SIZE, size_mm)[1])
    return PhasesScore(points, _row(PHASES_RISK, points)[1])


def elapss(
    earlier_sah: bool,
    site: Site,
    age: float,
    population: Population,
    size_mm: float,
    irregular: bool,
    age_step: AgeStep = "bounds",
) -> ElapssScore:
    """ELAPSS score of an unruptured aneurysm (Backes 2017 [S]).

    Parameters
    ----------
    earlier_sah
        From another aneurysm: **yes 0, no 1**. One public page prints it inverted.
    site
        ICA, ACA, ACom 0; MCA 3; PCom, posterior 5.
    age
        Years; up to 60 → 0, above 1 point per 5 years.
    population
        ``japan`` 1, ``finland`` 7, ``north_america``, ``china``, ``europe`` 0.
    size_mm
        Largest diameter: from 1 → 0, 3 → 4, 5 → 10, 7 → 13, 10 → 22. Not rounded.
    irregular
        Lobulated or with a bleb: 4 points.
    age_step
        What an age between two full steps (61–64, 66–69 …) counts; the published table does not say [U]. ``bounds``
        (default) takes both the lower and the higher step and answers only when both lie in one row of risk, so that
        nothing is made up; ``floor`` and ``ceil`` choose one.

    Raises
    ------
    OutOfModelRangeError
        ``population_not_in_model``, ``site_not_in_model``, ``size_not_in_model`` below 1 mm.
    NotEvaluableError
        ``age_step_undefined`` when the rows differ; ``age_not_plausible``, ``size_not_plausible``, ``not_known``.
    """
    if age_step not in ("bounds", "floor", "ceil"):
        raise ValueError(f"age_step must be bounds, floor or ceil, got {age_step!r}")
    points = _look_up(ELAPSS_POPULATION, population, "population") + _look_up(ELAPSS_SITE, site, "site")
    _require_age(age)
    _require_size(size_mm)
    if size_mm < ELAPSS_SIZE[-1][0]:
        raise OutOfModelRangeError("size_not_in_model", f"{size_mm:g} mm; the score begins at 1 mm")
    points += (1 - _yes_or_no(earlier_sah, "earlier_sah")) + 4 * _yes_or_no(irregular, "irregular")
    points += int(_row(ELAPSS_SIZE, size_mm)[1])
    steps = max(age - ELAPSS_AGE, 0) / ELAPSS_AGE_STEP
    low, high = points + math.floor(steps), points + math.ceil(steps)
    if age_step != "bounds":
        low = high = low if age_step == "floor" else high
    _, growth_3y, growth_5y = _row(ELAPSS_GROWTH, low)
    if _row(ELAPSS_GROWTH, high)[2] != growth_5y:
        raise NotEvaluableError(
            "age_step_undefined",
            f"age {age:g} gives {low} or {high} points, in different rows of risk; choose age_step floor or ceil",
        )
    return ElapssScore((low, high), growth_3y, growth_5y)


def _row(table: tuple[tuple[float, ...], ...], value: float) -> tuple[float, ...]:
    """First row whose lower bound ``value`` reaches."""
    return next(row for row in table if value >= row[0])


def _look_up(points: dict[str, int], name: str, what: str) -> int:
    if name not in points:
        raise OutOfModelRangeError(f"{what}_not_in_model", f"{what} {name!r} was not studied, only {sorted(points)}")
    return points[name]


def _require_age(age: float) -> None:
    if not (math.isfinite(age) and 0 < age <= OLDEST):
        raise NotEvaluableError("age_not_plausible", f"age is {age} years; expected above 0 and up to {OLDEST}")


def _require_size(size_mm: float) -> None:
    if not (math.isfinite(size_mm) and size_mm > 0):
        raise NotEvaluableError("size_not_plausible", f"the largest diameter is {size_mm} mm; it must be above 0")


def _yes_or_no(value: bool, name: str) -> int:
    """1 or 0; an unknown is refused, as it would count as no."""
    if value is not True and value is not False:
        raise NotEvaluableError("not_known", f"{name} is {value!r}; the score needs yes or no")
    return int(value)
