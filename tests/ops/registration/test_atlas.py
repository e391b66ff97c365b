"""A chest as an atlas of other chests: is the heart in the picture, and where?"""

from __future__ import annotations

import numpy as np
import pytest

from ops.phantoms.chest.protocol import chest_protocol
from ops.phantoms.chest.scan import simulate_scan
from ops.phantoms.chest.thorax import label_map, thorax
from ops.phantoms.labels import TERRITORY_LABELS
from ops.phantoms.participant import sample_participant
from ops.registration.atlas import OrganInView, organs_in_view
from ops.registration.linear import LinearModel
from ops.registration.register import RegistrationPlan, register
from ops.registration.similarity import Metric
from ops.registration.transforms import Affine
from ops.volume import Grid, Volume

HEART = TERRITORY_LABELS["heart"]
HEART_PARTS = [TERRITORY_LABELS[name] for name in ("heart", "LM", "LAD", "LCX", "RCA", "valve")]
PLAN = RegistrationPlan(LinearModel.AFFINE, Metric.MI, spacings_mm=(8.0, 4.0))


def chest(seed: int) -> tuple[Volume, Volume]:
    """CT of a chest and its label map, with the heart as one label; voxels of 4 mm."""
    rng = np.random.default_rng(seed)
    body = thorax(sample_participant(rng))
    grid = Grid.from_spacing((80, 84, 100), (4.0, 4.0, 4.0), (-198.0, -166.0, -170.0))
    scan = simulate_scan(body, chest_protocol(rng, body.participant.bmi), rng, grid=grid).volume
    labels = label_map(body, grid)
    labels[np.isin(labels, HEART_PARTS)] = HEART
    return scan, Volume(labels, grid, "label")


@pytest.fixture(scope="module")
def atlas() -> tuple[Volume, Volume]:
    return chest(1)


def heart_in(atlas: tuple[Volume, Volume], scan: Volume) -> OrganInView:
    return organs_in_view(atlas[1], register(atlas[0], scan, PLAN).transform, scan.grid)[HEART]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("seed", [2, 3])
def test_the_heart_is_found_and_a_missing_one_is_noticed(atlas: tuple[Volume, Volume], seed: int) -> None:
    scan, labels = chest(seed)
    index = np.argwhere(labels.voxels == HEART)
    heart = heart_in(atlas, scan)
    assert heart.inside > 0.98
    assert np.linalg.norm(np.subtract(heart.centre_mm, scan.grid.index_to_patient(index).mean(0))) < 30
    faces = np.array([heart.start, heart.stop]) - [index.min(0), index.max(0) + 1]
    assert np.abs(faces * scan.grid.spacing).max() < 45
    nz, ny, nx = scan.grid.shape
    assert heart_in(atlas, scan.crop((0, 0, 0), (round(0.4 * nz), ny, nx))).inside < 0.6  # 4 to 12 % are there


def test_exact_for_a_known_map() -> None:
    grid = Grid.from_spacing((13, 12, 14), (3.0, 2.0, 1.0))  # two slabs
    voxels = np.zeros(grid.shape, np.uint8)
    voxels[2:6, 3:9, 4:8], voxels[12, 11, 13] = 7, 8
    shift = Affine.rigid([0, 0, 0], [5.0, 0.0, 0.0])
    image = Grid.from_spacing((4, 12, 14), (3.0, 2.0, 1.0))
    found = organs_in_view(Volume(voxels, grid, "label"), shift, image)
    assert found[7].inside == pytest.approx(2 / 4)  # slices 2 and 3 of 2 to 5
    assert (found[7].start, found[7].stop) == ((2, 3, 9), (4, 9, 13))
    assert found[7].centre_mm == pytest.approx((5.5 + 5, 2 * 5.5, 3 * 3.5))
    assert (found[8].inside, found[8].start, found[8].stop) == (0.0, (0, 0, 0), (0, 0, 0))


@pytest.mark.parametrize(
    "voxels", [np.zeros((3, 3, 3), np.uint8), np.ones((3, 3, 3), np.float32), np.full((3, 3, 3), -1, np.int16)]
)
def test_what_is_no_label_map_is_refused(voxels: np.ndarray) -> None:
    grid = Grid.from_spacing((3, 3, 3), (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="label map"):
        organs_in_view(Volume(voxels, grid, "label"), Affine(np.eye(4)), grid)
