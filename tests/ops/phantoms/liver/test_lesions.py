from __future__ import annotations

import numpy as np
import pytest

from ops.diseases.liver_lesion.measurement import LESION, LIVER, measure
from ops.phantoms.lattice import centred_grid
from ops.phantoms.liver.abdomen import sample_abdomen, scan, scan_grid
from ops.phantoms.liver.lesions import (
    LESION_LABEL,
    LIVER_LABEL,
    Lesion,
    label_map,
    sample_lesions,
    truth,
)
from ops.phantoms.participant import sample_participant

LESION_OF_30 = Lesion(np.zeros(3), (15.0, 9.0, 12.0), 35.0, -40.0)


def test_labels_are_those_of_the_measurement() -> None:
    assert (LIVER_LABEL, LESION_LABEL) == (LIVER, LESION)


def test_truth_is_that_of_an_ellipsoid() -> None:
    found = truth([LESION_OF_30])
    assert found["lesion_1_longest_diameter"] == 30
    assert found["lesion_1_short_axis"] == 18
    assert found["lesion_volume"] == pytest.approx(4 / 3 * np.pi * 15 * 9 * 12 / 1000)
    assert truth([]) == {"lesion_count": 0, "lesion_volume": 0}


def test_voxels_fill_the_ellipsoid() -> None:
    labels = label_map([LESION_OF_30], centred_grid((1, 2, 3), (50, 50, 50), (0.5, 0.5, 0.5)))
    volume = (labels.voxels == LESION).sum() * labels.grid.voxel_volume / 1000
    assert volume == pytest.approx(LESION_OF_30.volume, rel=0.01)


def test_lesions_lie_apart_within_the_liver() -> None:
    rng = np.random.default_rng(1)
    abdomen = sample_abdomen(sample_participant(rng), rng, 2)
    lesions = [lesion for _ in range(4) for lesion in sample_lesions(abdomen, rng)]
    assert lesions
    for lesion in lesions:
        centre = tuple(np.float32(c).reshape(1) for c in lesion.centre)
        assert abdomen.liver.distance(centre)[0] < -max(lesion.semi_axes)


def test_a_scan_shows_its_lesions() -> None:
    rng = np.random.default_rng(2)
    abdomen = sample_abdomen(sample_participant(rng), rng, 0)
    (place,) = abdomen.free_positions([15.0], rng)
    lesion = Lesion(place, (15.0, 12.0, 13.0), 20.0, -40.0)
    grid = scan_grid(abdomen, 5.0, matrix=160)
    labels = label_map([lesion], grid, abdomen)
    ct = scan(abdomen, grid, 10.0, rng, [lesion.body(abdomen.liver_hu)]).voxels
    assert measure(labels)["lesion_1_volume"] == pytest.approx(lesion.volume, rel=0.15)
    assert ct[labels.voxels == LESION].mean() < ct[labels.voxels == LIVER].mean() - 20
