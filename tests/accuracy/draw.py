"""One comparison of a measurement with the truth of a simulated participant."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Draw:
    """Truth against measurement.

    Attributes
    ----------
    quantity
        Name of the measurement, as in its record.
    unit
        UCUM.
    resolution
        What changes from row to row of the table, e.g. ``0.5 mm``; from fine to coarse in the order of appearance.
    truth
        From the closed form or the parameters of the phantom, never from the code under test.
    measured
        None when the measurement refused; then ``reason`` says why.
    """

    quantity: str
    unit: str
    resolution: str
    truth: float
    measured: float | None
    reason: str = ""
