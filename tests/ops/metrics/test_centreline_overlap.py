from __future__ import annotations

import numpy as np
import pytest

from ops.metrics.centreline_overlap import centreline_overlap

REFERENCE = np.stack([np.zeros(101), np.zeros(101), np.linspace(0, 100, 101)], axis=1)
RADII = np.linspace(2.0, 0.5, 101)


def test_same_line() -> None:
    found = centreline_overlap(REFERENCE, RADII, REFERENCE)
    assert (found.ov, found.of, found.ot) == (1.0, 1.0, 1.0)
    assert found.ai == pytest.approx(0, abs=1e-9)


def test_shift_within_the_radius_costs_accuracy_only() -> None:
    found = centreline_overlap(REFERENCE, np.full(101, 1.0), REFERENCE + np.array([0.4, 0, 0]))
    assert (found.ov, found.of, found.ot) == (1.0, 1.0, 1.0)
    assert found.ai == pytest.approx(0.4, abs=1e-6)


def test_line_that_ends_early() -> None:
    found = centreline_overlap(REFERENCE, RADII, REFERENCE[:51])
    # 50 mm of both lines overlap, and the radius of 1.25 mm at the end; the rest of the reference is missed.
    assert found.ov == pytest.approx((50 + 51.25) / 150, abs=0.005)
    assert found.of == pytest.approx(0.5125, abs=0.005)
    # 1.5 mm wide down to 83.3 mm.
    assert found.ot == pytest.approx((50 + 51.25) / (50 + 83.3), abs=0.005)


def test_error_at_the_start_does_not_end_of() -> None:
    assert centreline_overlap(REFERENCE, RADII, REFERENCE[6:]).of == 1.0
    assert centreline_overlap(REFERENCE, RADII, REFERENCE[9:]).of == pytest.approx(0.05, abs=0.002)


def test_another_vessel_and_a_thin_one() -> None:
    found = centreline_overlap(REFERENCE, RADII, REFERENCE + np.array([30, 0, 0]))
    assert (found.ov, found.ot, found.ai) == (0.0, 0.0, None)
    assert centreline_overlap(REFERENCE, np.full(101, 0.7), REFERENCE).ot is None


@pytest.mark.parametrize(
    ("reference", "radii"),
    [(REFERENCE[:1], [1.0]), (REFERENCE, RADII[:5]), (REFERENCE, -RADII), (REFERENCE * np.nan, RADII)],
)
def test_impossible_input(reference: np.ndarray, radii: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"needed|centreline"):
        centreline_overlap(reference, radii, REFERENCE)
