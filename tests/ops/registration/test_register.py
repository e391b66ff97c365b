"""Recover known maps of smooth blobs; refuse what does not belong together."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ops.measure.errors import NotEvaluableError
from ops.registration.deformable import Regularity
from ops.registration.linear import LinearModel
from ops.registration.quality import RegistrationPolicy
from ops.registration.register import Pair, RegistrationPlan, register, register_batch
from ops.registration.similarity import Metric
from ops.registration.starts import any_turns
from ops.registration.transforms import Affine, Velocity, chain
from ops.volume import Volume
from tests.ops.registration.blobs import image, landmarks, make_grid, positions
from tests.ops.registration.test_transforms import wave

FIXED = image(make_grid())
TRUTH = Affine.rigid([9, -8, 7], [10, -12, 8])  # 14°, 17.5 mm
STRETCHED = chain(TRUTH, Affine.about([[1.08, 0.05, 0], [0, 0.94, 0.03], [0.02, 0, 1.05]], (0, 0, 0), (0, 0, 0)))
RIGID = RegistrationPlan(metric=Metric.NCC, spacings_mm=(9.0, 4.5))


def moved_image(truth, oblique: bool = True, contrast=lambda v: v, count: int = 14) -> Volume:
    """Moving image that ``truth`` (fixed → moving) maps the fixed one to."""
    grid = make_grid((46, 50, 54), 2.8, oblique)
    base = image(grid, truth.inverse().apply(positions(grid)), count)
    return Volume(contrast(base.voxels / 1000).astype(np.float32) * 1000, grid, "a.u.")


def tre(found, truth) -> float:
    return float(np.linalg.norm(found.apply(landmarks()) - truth.apply(landmarks()), axis=1).mean())


@pytest.mark.parametrize(
    ("metric", "contrast", "limit_mm"),
    [
        (Metric.SSD, lambda v: v, 0.15),
        (Metric.NCC, lambda v: 3 * v + 1, 0.15),
        (Metric.MI, lambda v: v, 0.15),
        (Metric.MI, lambda v: 2 - v + 0.4 * np.sin(4 * v), 0.4),
    ],
)
def test_recovers_a_rigid_map_in_oblique_lattices(metric, contrast, limit_mm):
    plan = RegistrationPlan(metric=metric, spacings_mm=(9.0, 4.5))
    found = register(FIXED, moved_image(TRUTH, contrast=contrast), plan)
    assert tre(found.transform, TRUTH) < limit_mm
    assert found.transform.is_rigid
    assert found.quality.rotation_deg == pytest.approx(TRUTH.rotation_angle_deg, abs=0.2)
    assert found.quality.improved


def test_recovers_an_affine_map():
    plan = RegistrationPlan(LinearModel.AFFINE, Metric.MI, spacings_mm=(9.0, 4.5))
    found = register(FIXED, moved_image(STRETCHED), plan)
    assert tre(found.transform, STRETCHED) < 0.3
    assert found.quality.largest_stretch == pytest.approx(STRETCHED.stretches[0], abs=0.01)


@pytest.mark.parametrize(("metric", "remaining"), [(Metric.SSD, 0.3), (Metric.LNCC, 0.4), (Metric.MI, 0.8)])
def test_recovers_a_smooth_deformation(metric, remaining):
    field = Velocity(make_grid((40, 44, 48), 3.0), wave(make_grid(), 9.0))
    truth = chain(field, Affine.rigid([3, 2, -4], [3, -2, 4]))
    plan = RegistrationPlan(
        LinearModel.RIGID, Metric.NCC, metric, Regularity(iterations=(30, 30)), spacings_mm=(6.0, 3.0)
    )
    fixed, moving = image(make_grid(), count=60), moved_image(truth, count=60)
    found = register(fixed, moving, plan)
    rigid = register(fixed, moving, RegistrationPlan(metric=Metric.NCC, spacings_mm=(6.0, 3.0)))
    assert tre(found.transform, truth) < remaining * tre(rigid.transform, truth)
    assert found.quality.folded_share == 0
    assert 0 < found.quality.smallest_jacobian < 1 < found.quality.largest_jacobian
    assert found.quality.inverse_consistency_mm < 1.5
    back = found.transform.inverse().apply(found.transform.apply(landmarks()))
    assert np.linalg.norm(back - landmarks(), axis=1).mean() < 0.3


def test_self_similarity_recovers_a_deformation_between_contrasts_where_other_metrics_do_not():
    truth = chain(Velocity(make_grid((40, 44, 48), 3.0), wave(make_grid(), 6.0)), Affine.rigid([3, 2, -4], [3, -2, 4]))
    fixed = image(make_grid(), count=120)
    moving = moved_image(truth, contrast=lambda v: 2 - v + 0.4 * np.sin(4 * v), count=120)
    regularity = Regularity(diffusion_voxels=1.0, iterations=(30, 30))
    errors = {}
    for metric in (Metric.LNCC, Metric.MI, Metric.MIND):
        plan = RegistrationPlan(LinearModel.RIGID, Metric.MI, metric, regularity, spacings_mm=(6.0, 3.0))
        errors[metric] = tre(register(fixed, moving, plan).transform, truth)
    assert errors[Metric.MIND] < 0.6 * min(errors[Metric.LNCC], errors[Metric.MI])


def test_a_batch_of_different_sizes_gives_what_each_pair_gives_alone():
    other = Volume(FIXED.voxels[2:, 3:, :-5], FIXED.grid.crop((2, 3, 0), (40, 44, 43)), "a.u.")
    pairs = [Pair(FIXED, moved_image(TRUTH)), Pair(other, moved_image(TRUTH, oblique=False))]
    together = register_batch(pairs, RIGID)
    for pair, found in zip(pairs, together, strict=True):
        alone = register(pair.fixed, pair.moving, RIGID)
        gap = np.linalg.norm(alone.transform.apply(landmarks()) - found.transform.apply(landmarks()), axis=1)
        assert gap.max() < 0.1


def test_one_bad_pair_does_not_stop_the_others():
    flat = Volume(np.zeros(FIXED.grid.shape, np.float32), FIXED.grid, "a.u.")
    good, bad = register_batch([Pair(FIXED, moved_image(TRUTH)), Pair(FIXED, flat)], RIGID)
    assert tre(good.transform, TRUTH) < 0.3
    assert isinstance(bad, NotEvaluableError)
    assert bad.reason == "flat_image"


def test_a_small_moving_image_within_a_large_fixed_one():
    small = moved_image(TRUTH, oblique=False).crop((12, 10, 12), (36, 40, 42))
    found = register(FIXED, small, RIGID)
    assert tre(found.transform, TRUTH) < 0.5
    assert found.quality.overlap > 0.8


def test_a_field_of_view_too_small_for_mutual_information_is_refused():
    """As MR within PET; the correlation of images of one modality needs less."""
    small = moved_image(TRUTH, oblique=False).crop((15, 15, 15), (33, 37, 39))
    assert refusal(FIXED, small, RegistrationPlan(spacings_mm=(9.0, 4.5))) == "small_field_of_view"
    assert tre(register(FIXED, small, RIGID).transform, TRUTH) < 1.0


def test_the_mask_keeps_a_foreign_object_out():
    moving = moved_image(Affine(np.eye(4)), oblique=False)
    where = positions(moving.grid)[..., 0] < -15
    foreign = Volume(np.where(where, 5000, moving.voxels).astype(np.float32), moving.grid, "a.u.")
    counted = Volume((~where).astype(np.uint8), moving.grid, "label")
    plan = RegistrationPlan(metric=Metric.SSD, spacings_mm=(9.0, 4.5))
    masked = register(FIXED, foreign, plan, moving_mask=counted)
    assert tre(masked.transform, Affine(np.eye(4))) < 0.3


def test_thick_slices():
    grid = make_grid((18, 60, 60), (7.0, 2.2, 2.2))
    found = register(image(grid), moved_image(TRUTH), RIGID)
    assert tre(found.transform, TRUTH) < 0.6


def test_another_frame_of_reference_far_away():
    away = Affine.rigid([0, 0, 0], [600, -400, 900])
    moving = moved_image(TRUTH)
    elsewhere = Volume(moving.voxels, type(moving.grid)(moving.grid.shape, away.matrix @ moving.grid.affine), "a.u.")
    found = register(FIXED, elsewhere, RIGID)
    assert tre(found.transform, chain(TRUTH, away)) < 0.3
    assert np.isnan(found.quality.similarity_before)


def test_an_initialiser_is_tried_beside_the_usual_starts():
    far = Affine.rigid([0, 0, 120], [5, 5, 5])
    asked = []

    def learned(fixed, moving):
        asked.append((fixed, moving))
        return Affine.rigid([0, 0, 112], [0, 0, 0])

    policy = RegistrationPolicy(largest_rotation_deg=180)
    found = register(FIXED, moved_image(far), RIGID, initialiser=learned, policy=policy)
    assert len(asked) == 1
    assert tre(found.transform, far) < 0.3
    bad = register(FIXED, moved_image(TRUTH), RIGID, initialiser=learned)
    assert tre(bad.transform, TRUTH) < 0.3


@pytest.mark.parametrize("turn", [[0, 0, 120], [150, 20, 0], [-60, 100, 120]])
def test_any_turn_is_found_where_any_is_allowed(turn):
    far = Affine.rigid(turn, [5, 5, 5])
    found = register(FIXED, moved_image(far), RIGID, policy=RegistrationPolicy(largest_rotation_deg=180))
    assert tre(found.transform, far) < 0.3


def test_turns_are_spread_evenly_over_all():
    turns = Rotation.from_rotvec(any_turns(300), degrees=True)
    anywhere = Rotation.random(2000, rng=np.random.default_rng(0))
    nearest = np.array([np.rad2deg((one.inv() * turns).magnitude().min()) for one in anywhere])
    assert nearest.max() < 34
    assert np.percentile(nearest, 95) < 28


def refusal(*args, **kwargs) -> str:
    with pytest.raises(NotEvaluableError) as caught:
        register(*args, **kwargs)
    assert caught.value.detail
    return caught.value.reason


def test_unrelated_images_are_refused():
    grid = make_grid((46, 50, 54), 2.8)
    noise = np.random.default_rng(1).normal(size=grid.shape).astype(np.float32)
    assert (
        refusal(FIXED, Volume(noise, grid, "a.u."), RegistrationPlan(spacings_mm=(9.0, 4.5))) == "images_do_not_match"
    )


def test_wrong_input_has_a_reason():
    holes = FIXED.voxels.copy()
    holes[3, 4, 5] = np.nan
    empty = Volume(np.zeros(FIXED.grid.shape, np.uint8), FIXED.grid, "label")
    slice_ = FIXED.crop((20, 0, 0), (21, 44, 48))
    assert refusal(Volume(holes, FIXED.grid, "a.u."), FIXED, RIGID) == "not_finite"
    assert refusal(FIXED, FIXED, RIGID, fixed_mask=empty) == "empty_mask"
    assert refusal(FIXED, slice_, RIGID) == "too_few_slices"
    in_hu = Volume(FIXED.voxels, FIXED.grid, "HU")
    assert refusal(FIXED, in_hu, RegistrationPlan(metric=Metric.SSD)) == "wrong_units"


def test_a_plan_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="cannot use lncc"):
        RegistrationPlan(metric=Metric.LNCC)
    with pytest.raises(ValueError, match="descend"):
        RegistrationPlan(spacings_mm=(2.0, 4.0))
    with pytest.raises(ValueError, match="do not fit 1 levels"):
        RegistrationPlan(deformable=Metric.SSD, spacings_mm=(4.0,))
    with pytest.raises(ValueError, match="positive"):
        Regularity(fluid_voxels=0)
