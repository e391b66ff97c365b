from __future__ import annotations

import math

import numpy as np
import pytest

from ops.metrics.detection import Matches
from ops.metrics.froc import CPM_POINTS, froc
from ops.metrics.intervals import bootstrap


def scan(scores: list[float], hits: list[int], n_true: int) -> Matches:
    return Matches(np.array(scores, dtype=float), np.array(hits, dtype=bool), n_true)


SCANS = [scan([0.9, 0.3], [1, 0], 1), scan([0.8], [0], 1), scan([0.7, 0.2], [1, 1], 2), scan([0.6], [0], 0)]


def test_operating_points_by_hand() -> None:
    found = froc(SCANS)
    assert found.thresholds.tolist() == [0.9, 0.8, 0.7, 0.6, 0.3, 0.2]
    assert found.sensitivity.tolist() == [0.25, 0.25, 0.5, 0.5, 0.5, 0.75]
    assert found.false_positives.tolist() == [0, 0.25, 0.25, 0.5, 0.75, 0.75], "the scan without a lesion counts"
    assert (found.n_lesions, found.n_scans) == (4, 4)


def test_steps_are_not_interpolated() -> None:
    found = froc(SCANS)
    for allowed, expected in ((0.0, 0.25), (0.2499, 0.25), (0.25, 0.5), (0.74, 0.5), (0.75, 0.75), (8, 0.75)):
        assert found.sensitivity_at(allowed) == expected
    assert CPM_POINTS == (0.125, 0.25, 0.5, 1, 2, 4, 8)
    assert found.cpm == pytest.approx((0.25 + 0.5 + 0.5 + 4 * 0.75) / 7)


def test_the_highest_score_may_be_false() -> None:
    found = froc([scan([0.9, 0.8], [0, 1], 1)])
    assert found.sensitivity_at(0.5) == 0
    assert found.sensitivity_at(1) == 1


def test_no_lesion_anywhere_is_undefined() -> None:
    found = froc([scan([0.9], [0], 0)])
    assert math.isnan(found.cpm)
    assert math.isnan(found.sensitivity_at(1))
    assert np.isnan(found.sensitivity).all()


def test_interval_by_resampling_scans() -> None:
    many = SCANS * 10
    interval = bootstrap(lambda rows: froc([many[row] for row in rows]).cpm, np.arange(len(many)), seed=1)
    assert interval.lower < froc(many).cpm < interval.upper
    assert (interval.n_clusters, interval.n_degenerate) == (40, 0)
