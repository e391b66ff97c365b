from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ops.diseases.aneurysm.detection import DetectionPolicy, DetectionScore, find_candidates
from ops.measure.errors import NotEvaluableError
from ops.phantoms.lattice import centred_grid, coordinates, coverage
from ops.phantoms.sdf import rotation
from ops.volume import Grid, Volume

SAC = np.array([3.0, 2.0, 4.5])


def angiogram(
    modality: str = "MR", sac: bool = True, directions: np.ndarray | None = None, spacing: float = 0.6
) -> Volume:
    """A tube that forks, in tissue, with a ball of 5 mm on it at `SAC`."""
    grid = centred_grid((0, 0, 0), (48, 48, 48), (spacing,) * 3)
    if directions is not None:
        affine = np.eye(4)
        affine[:3, :3] = directions * spacing
        affine[:3, 3] = -affine[:3, :3] @ ((np.array(grid.shape) - 1) / 2)
        grid = Grid(grid.shape, affine)
    x, y, z = coordinates(grid)
    tubes = [np.hypot(y - 2, z) - 1.5]
    tubes += [np.maximum(np.hypot(z, (y - 2) - side * (x - 6)) / 1.4 - 1.2, 6 - x) for side in (-1, 1)]
    lumen = np.minimum.reduce([np.broadcast_to(tube, grid.shape) for tube in tubes])
    if sac:
        lumen = np.minimum(lumen, np.sqrt(((np.stack([x, y, z], -1) - SAC) ** 2).sum(-1)) - 2.5)
    head = np.sqrt(x**2 + y**2 + z**2) - 22
    tissue, blood, outside = (100.0, 400.0, 0.0) if modality == "MR" else (40.0, 380.0, -1000.0)
    signal = outside + (tissue - outside) * coverage(head, spacing)
    signal += (blood - signal) * coverage(lumen.astype(np.float32), spacing) * (head < 0)
    signal += np.random.default_rng(0).normal(0, 10, grid.shape)
    return Volume(signal.astype(np.int16), grid, "a.u." if modality == "MR" else "HU")


@pytest.mark.parametrize("modality", ["MR", "CT"])
@pytest.mark.parametrize(("score", "most"), [("shape", 1), ("mip", 2)])
def test_the_sac_is_among_the_first_candidates(modality: str, score: DetectionScore, most: int) -> None:
    """Projections also see the blunt end of a tube at the skull."""
    found = find_candidates(angiogram(modality), modality, DetectionPolicy(score=score))[:most]
    assert min(np.linalg.norm(np.subtract(candidate.centre, SAC)) for candidate in found) < 2.5


def test_in_any_orientation() -> None:
    turned = angiogram(directions=rotation(30, 20, 10)[:, ::-1])
    assert np.linalg.norm(np.subtract(find_candidates(turned, "MR")[0].centre, SAC)) < 2.5


def test_a_vessel_without_a_sac_scores_lower() -> None:
    with_sac, without = (find_candidates(angiogram(sac=sac), "MR") for sac in (True, False))
    assert not without or without[0].score < 0.75 * with_sac[0].score


def test_policy_limits_what_is_returned() -> None:
    image = angiogram()
    every = find_candidates(image, "MR", DetectionPolicy(lowest_score=0.0))
    assert [c.score for c in every] == sorted((c.score for c in every), reverse=True)
    assert find_candidates(image, "MR", DetectionPolicy(lowest_score=0.0, most=1)) == every[:1]
    assert find_candidates(image, "MR", DetectionPolicy(lowest_score=every[0].score + 1e-6)) == []
    for wrong in ({"score": "best"}, {"most": 0}, {"lowest_score": np.nan}):
        with pytest.raises(ValueError, match="must be"):
            DetectionPolicy(**wrong)


def broken() -> Volume:
    image = angiogram()
    voxels = image.voxels.astype(np.float32)
    voxels[3, 3, 3] = np.nan
    return replace(image, voxels=voxels)


@pytest.mark.parametrize(
    ("image", "modality", "reason"),
    [
        (angiogram(), "US", "wrong_modality"),
        (angiogram(), "CT", "wrong_units"),
        (broken(), "MR", "not_finite"),
        (replace(angiogram(), voxels=np.zeros_like(angiogram().voxels)), "MR", "no_vessel"),
        (replace(angiogram("CT"), voxels=np.full_like(angiogram().voxels, 40)), "CT", "no_vessel"),
    ],
)
def test_what_is_no_angiogram_has_a_reason(image: Volume, modality: str, reason: str) -> None:
    with pytest.raises(NotEvaluableError) as caught:
        find_candidates(image, modality)
    assert caught.value.reason == reason
