"""Finding the heart: facts and verdicts on shapes of known size, in any orientation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ops.inference.inferer import WindowInferer
from ops.inference.locate import (
    HeartLocation,
    NetworkContract,
    cut_fraction,
    heart_verdict,
    largest_piece,
    locate_territories,
    lung_contact,
)
from ops.inference.sliding_window import Tiling
from ops.volume import Grid, Volume
from tests.ops.preprocess.test_orientation import reoriented

CONTRACT = NetworkContract((3.0, 3.0, 3.0), (-250.0, 350.0), (32, 32, 32), heart_labels=(1,), aorta_label=2)
LUNG, HEART, AORTA = -850, 40, 200


class ByIntensity:
    """A stand-in network that calls soft tissue heart and bright tissue aorta."""

    device = "cpu"

    def predict(self, batch):
        hu = batch[:, 0] * 600 - 250
        return np.stack([0 * hu, np.where((hu > -50) & (hu < 120), 6, -6), np.where(hu >= 120, 6, -6)], axis=1)


NETWORK = WindowInferer(ByIntensity(), Tiling(CONTRACT.patch_shape))


def scan(centre=(60.0, 90.0, 80.0), radius=45.0, around=LUNG) -> Volume:
    """A ball of heart and a bar of aorta in lung; ``centre`` in mm ``(z, y, x)`` of a 120 × 180 × 168 mm field."""
    grid = Grid.from_spacing((60, 120, 140), (2.0, 1.5, 1.2))
    z, y, x = (np.arange(n) * s for n, s in zip(grid.shape, grid.spacing, strict=True))
    voxels = np.full(grid.shape, around, np.int16)
    voxels[:, 105:115, 110:125] = AORTA
    ball = ((z - centre[0]) ** 2)[:, None, None] + ((y - centre[1]) ** 2)[:, None] + (x - centre[2]) ** 2 < radius**2
    voxels[ball] = HEART
    return Volume(voxels, grid)


def test_a_ball_is_found_with_its_volume_and_no_cut():
    territories, location = locate_territories(scan(), NETWORK, CONTRACT)
    assert location.heart_ml == pytest.approx(4 / 3 * np.pi * 4.5**3, rel=0.12)  # the rim is half lung
    assert location.share > 0.95  # the rim of the bar has the HU of heart
    assert location.cut_fraction == 0
    assert location.confidence > 0.9
    assert location.lung_contact > 0.5
    assert 0.5 < location.aorta_ml / (120 * 15 * 18 / 1000) < 1  # its rim is half lung
    assert territories.voxels.dtype == np.uint8
    assert territories.grid.spacing == pytest.approx((3, 3, 3))
    assert heart_verdict(location).status == "accepted"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("flips", [(False, False, True), (True, True, False), (True, True, True)])
def test_the_answer_does_not_depend_on_how_the_axes_are_stored(order, flips):
    volume = scan()
    expected, facts = locate_territories(volume, NETWORK, CONTRACT)
    found, same_facts = locate_territories(reoriented(volume, order, flips), NETWORK, CONTRACT)
    assert found.grid.matches(expected.grid)
    assert (found.voxels == expected.voxels).mean() > 0.999
    assert same_facts.heart_ml == pytest.approx(facts.heart_ml, rel=0.01)


@pytest.mark.parametrize(
    ("centre", "face"),
    [
        ((10.0, 90.0, 80.0), "inferior"),
        ((110.0, 90.0, 80.0), "superior"),
        ((60.0, 15.0, 80.0), "anterior"),
        ((60.0, 90.0, 15.0), "right"),
    ],
)
def test_a_cut_heart_is_truncated_and_the_side_is_named(centre, face):
    _, location = locate_territories(scan(centre), NETWORK, CONTRACT)
    assert location.cut_faces[0] == face
    verdict = heart_verdict(location)
    assert verdict.reason == "heart_truncated"
    assert face in verdict.detail


def test_padding_cuts_like_a_border():
    volume = scan()
    volume.voxels[..., :60] = -2000  # reconstruction circle ends inside the heart
    _, location = locate_territories(volume, NETWORK, CONTRACT)
    assert location.cut_faces[0] == "right"
    assert heart_verdict(location).reason == "heart_truncated"


def test_the_same_ball_in_muscle_is_no_heart():
    _, location = locate_territories(scan(around=-120), NETWORK, CONTRACT)
    verdict = heart_verdict(location)
    assert verdict.reason == "heart_not_found"
    assert "lung" in verdict.detail


def test_an_empty_scan_has_no_heart():
    grid = Grid.from_spacing((10, 20, 20), (3.0, 3.0, 3.0))
    territories, location = locate_territories(Volume(np.full(grid.shape, -1000), grid), NETWORK, CONTRACT)
    assert not territories.voxels.any()
    assert location == HeartLocation(0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, ())
    assert heart_verdict(location).reason == "heart_not_found"


def test_a_second_smaller_heart_is_removed_from_the_labels():
    volume = scan(radius=35.0)
    volume.voxels[5:15, 5:20, 120:135] = HEART
    territories, location = locate_territories(volume, NETWORK, CONTRACT)
    assert location.share < 1
    pieces = territories.voxels == 1
    assert (largest_piece(pieces) == pieces).all()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"heart_ml": 199.0}, "heart_not_found"),
        ({"heart_ml": 2001.0}, "heart_not_found"),
        ({"confidence": 0.54}, "heart_not_found"),
        ({"lung_contact": 0.11}, "heart_not_found"),
        ({"aorta_ml": 14.0}, "heart_not_found"),
        ({"cut_fraction": 0.16}, "heart_truncated"),
        ({"cut_fraction": 0.16, "heart_ml": 61.0}, "heart_truncated"),
        ({"cut_fraction": 0.16, "heart_ml": 59.0}, "heart_not_found"),
        ({"cut_fraction": 0.15}, ""),
    ],
)
def test_each_gate_on_both_sides(change, reason):
    good = HeartLocation(600.0, 1.0, 0.9, 0.1, 0.4, 100.0, 0.0, ("inferior",))
    assert heart_verdict(good).reason == ""
    assert heart_verdict(replace(good, **change)).reason == reason


def test_only_hounsfield_units_are_taken():
    volume = replace(scan(), units="a.u.")
    with pytest.raises(ValueError, match="HU"):
        locate_territories(volume, NETWORK, CONTRACT)


def test_cut_fraction_counts_the_silhouette():
    mask = np.zeros((4, 4, 4), bool)
    mask[2:4, 0:2, 1:3] = True
    nothing = np.zeros_like(mask)
    assert cut_fraction(mask, nothing, 0, +1) == 1
    assert cut_fraction(mask, nothing, 0, -1) == 0
    mask[1, 2, 1:3] = True  # two more columns that do not reach the border
    assert cut_fraction(mask, nothing, 0, +1) == pytest.approx(4 / 6)


def test_lung_contact_leaves_padding_out():
    heart = np.zeros((9, 9, 9), bool)
    heart[4, 4, 4] = True
    values = np.full(heart.shape, -850.0)
    values[:, :, 5:] = -1024
    assert lung_contact(heart, values, (3.0, 3.0, 3.0)) == 1
    values[:, :, 5:] = 40
    assert 0.3 < lung_contact(heart, values, (3.0, 3.0, 3.0)) < 0.7
