"""Keypoints: the closed-form map, the turned copies, and the shipped network on simulated heads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.inference.onnx import OnnxPredictor
from ops.measure.errors import NotEvaluableError
from ops.phantoms.head.anatomy import HEAD_HU, Head, HeadTissue, sample_head
from ops.phantoms.participant import sample_participant
from ops.registration.keypoints import (
    QUANTILES,
    SIDE,
    SPACING_MM,
    KeypointInitialiser,
    Keypoints,
    find_keypoints,
    keypoint_index,
    match_keypoints,
    mean_index,
    network_field,
    quarter_turns,
    rigid_fit,
    turned,
)
from ops.registration.quality import RegistrationPolicy
from ops.registration.register import RegistrationPlan, register
from ops.registration.transforms import Affine, chain
from ops.volume import Grid, Volume
from storage.models import ModelBundle, QuantileWindow, list_bundles, load_bundle
from tests.ops.registration.blobs import OBLIQUE, make_grid

vectors = st.tuples(*[st.floats(-180, 180)] * 3)
clouds = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).normal(scale=50, size=(9, 3)))


@settings(max_examples=60, deadline=None)
@given(clouds, vectors, vectors)
def test_a_rigid_map_is_found_from_its_points(points, turn, shift):
    truth = Affine.rigid(turn, shift)
    found = rigid_fit(points, truth.apply(points), np.linspace(0.1, 3, len(points)))
    np.testing.assert_allclose(found.matrix, truth.matrix, atol=1e-7)


@settings(max_examples=60, deadline=None)
@given(clouds, clouds)
def test_whatever_the_points_the_map_is_a_rotation_and_never_a_reflection(first, second):
    for target in (second, first * [1, 1, -1]):
        found = rigid_fit(first, target, np.ones(len(first)))
        assert found.is_rigid
        assert np.linalg.det(found.matrix[:3, :3]) > 0


def test_no_rigid_map_fits_better():
    rng = np.random.default_rng(0)
    first, second, weights = rng.normal(size=(12, 3)), rng.normal(size=(12, 3)), rng.uniform(0.1, 1, 12)

    def cost(transform):
        return (weights * ((transform.apply(first) - second) ** 2).sum(1)).sum()

    best = rigid_fit(first, second, weights)
    for _ in range(200):
        assert cost(chain(best, Affine.rigid(rng.normal(size=3) * 5, rng.normal(size=3) * 0.1))) >= cost(best)


def test_points_without_weight_do_not_count():
    points = np.random.default_rng(1).normal(size=(8, 3))
    truth = Affine.rigid([10, 20, 30], [1, 2, 3])
    target = truth.apply(points)
    target[0] += 100
    found = rigid_fit(points, target, np.array([1e-12] + [1] * 7))
    np.testing.assert_allclose(found.matrix, truth.matrix, atol=1e-7)


LINE = np.outer(np.arange(6.0), [1, 2, 3])


@pytest.mark.parametrize(
    "points", [LINE, np.zeros((6, 3)), LINE[:2], np.full((6, 3), np.nan), LINE + [[0, 0, 1e-3]] * np.eye(6)[:, :1]]
)
def test_points_that_leave_the_rotation_open_are_refused(points):
    other = np.random.default_rng(0).normal(size=points.shape)
    for pair in ((points, other), (other, points)):
        with pytest.raises(NotEvaluableError) as refusal:
            rigid_fit(*pair, np.ones(len(points)))
        assert refusal.value.reason == "degenerate_keypoints"


def test_points_in_a_plane_are_enough():
    plane = np.random.default_rng(2).normal(size=(6, 3)) * [10, 10, 0]
    truth = Affine.rigid([50, -100, 70], [5, 6, 7])
    np.testing.assert_allclose(rigid_fit(plane, truth.apply(plane), np.ones(6)).matrix, truth.matrix, atol=1e-9)


def test_keypoints_on_which_the_copies_disagreed_count_less():
    points = np.random.default_rng(3).normal(scale=40, size=(10, 3))
    truth = Affine.rigid([0, 0, 90], [1, 2, 3])
    target = truth.apply(points)
    target[:2] += 60
    sure, unsure = np.ones(10), np.array([500.0] * 2 + [1.0] * 8)
    blind = match_keypoints(Keypoints(points, sure, 9), Keypoints(target, sure, 9))
    aware = match_keypoints(Keypoints(points, sure, 9), Keypoints(target, unsure, 9))
    assert aware.residual_mm < 1 < blind.residual_mm
    assert chain(aware.transform.inverse(), truth).rotation_angle_deg < 0.1


def test_centres_of_mass_of_heat_maps():
    logits = torch.full((1, 2, 4, 6, 8), -60.0)
    logits[0, 0, 1, 2, 3] = 5
    logits[0, 1, 0, 0, 0] = logits[0, 1, 2, 4, 6] = 3
    np.testing.assert_allclose(keypoint_index(logits)[0], [[1, 2, 3], [1, 2, 3]], atol=1e-5)
    assert torch.isfinite(mean_index(torch.zeros(1, 3, 3, 3))).all()


def test_quarter_turns_are_a_group_and_turn_images_as_points():
    turns = quarter_turns()
    assert len({turn.tobytes() for turn in turns}) == 24
    image = torch.rand(5, 5, 5, generator=torch.Generator().manual_seed(0))
    for turn in turns:
        assert any((turn @ other == np.eye(3)).all() for other in turns)
        place = np.array([1, 3, 4])
        seen_at = turn @ (place - 2) + 2
        assert turned(image, turn)[tuple(place)] == image[tuple(seen_at)]


class Guessing:
    """A network whose keypoints are anywhere, whatever it sees."""

    device = "nowhere"

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def predict(self, batch: np.ndarray) -> np.ndarray:
        logits = np.full((len(batch), 8, *batch.shape[2:]), -60, np.float32)
        for heat in logits.reshape(-1, *batch.shape[2:]):
            heat[tuple(self._rng.integers(0, SIDE, 3))] = 5
        return logits


def test_keypoints_that_disagree_give_no_guess_but_the_shift_between_the_centres():
    first = box(make_grid((60, 60, 60), 4.0))
    moved = Affine.rigid([0, 0, 0], [12, -24, 36])
    second = Volume(first.voxels, Grid(first.grid.shape, moved.matrix @ first.grid.affine), "a.u.")
    initialise = KeypointInitialiser(Guessing())
    with pytest.raises(NotEvaluableError) as refusal:
        initialise.match(first, second)
    assert refusal.value.reason == "keypoints_disagree"
    np.testing.assert_allclose(initialise(first, second).matrix, moved.matrix, atol=1e-3)


def box(grid: Grid, units: str = "a.u.") -> Volume:
    """A bright box of 60 × 90 × 120 mm about (20, 10, −30)."""
    points = grid.index_to_patient(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1))
    inside = (np.abs(points - [20, 10, -30]) <= [30, 45, 60]).all(-1)
    return Volume(np.where(inside, 100, -1000).astype(np.int16), grid, units)


@pytest.mark.parametrize("shape", [(60, 60, 60), (90, 40, 70), (20, 80, 80)])
def test_the_field_lies_about_the_centre_of_mass(shape):
    field = network_field(box(make_grid(shape, 4.0)))
    assert field.voxels.shape == (SIDE,) * 3
    assert field.grid.spacing == pytest.approx((SPACING_MM,) * 3)
    assert field.voxels.min() == 0
    assert field.voxels.max() == 1
    middle = field.grid.index_to_patient([(SIDE - 1) / 2] * 3)
    bright = field.grid.index_to_patient(np.argwhere(field.voxels > 0.5)).mean(0)
    assert np.abs(bright - middle).max() < SPACING_MM


def test_a_field_keeps_the_lattice_of_an_oblique_image():
    oblique = network_field(box(make_grid((60, 60, 60), 4.0, oblique=True)))
    np.testing.assert_allclose(oblique.grid.directions, OBLIQUE[:3, [2, 1, 0]], atol=1e-9)


def test_a_flat_image_has_an_empty_field_and_no_guess():
    flat = Volume(np.full((30, 30, 30), 7, np.int16), make_grid((30, 30, 30), 4.0), "a.u.")
    assert not network_field(flat).voxels.any()
    np.testing.assert_allclose(KeypointInitialiser(Guessing())(flat, flat).matrix, np.eye(4), atol=1e-9)


# --- the shipped network --------------------------------------------------------------------------------------------

# Of the guess, for a simulated head as CT and as MR: below, a registration converges (`ops.registration.starts`).
GUESS_DEG, GUESS_MM = 15.0, 15.0
# Brightness of a T1-weighted image where it differs from that of a CT.
T1 = {
    HeadTissue.AIR: 0, HeadTissue.SOFT_TISSUE: 400, HeadTissue.FAT: 900, HeadTissue.BONE: 60, HeadTissue.DIPLOE: 350,
    HeadTissue.CSF: 120, HeadTissue.VENTRICLE: 110, HeadTissue.GREY: 480, HeadTissue.WHITE: 680,
    HeadTissue.DEEP_GREY: 560, HeadTissue.CEREBELLUM: 520, HeadTissue.BRAINSTEM: 620,
}  # fmt: skip


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    (folder,) = [path for path in list_bundles() if path.name.startswith("head-keypoints-")]
    return load_bundle(folder)


@pytest.fixture(scope="module")
def initialiser(bundle) -> KeypointInitialiser:
    return KeypointInitialiser(OnnxPredictor(bundle.weights, threads=1))


@pytest.fixture(scope="module")
def head() -> Head:
    rng = np.random.default_rng(4_000_000)
    return sample_head(sample_participant(rng), rng)


def painted(head: Head, values: dict[HeadTissue, float], units: str, pose: Affine | None = None) -> Volume:
    """The head at 4 mm, on a lattice that stays where it is when ``pose`` moves the head."""
    grid = make_grid((60, 60, 60), 4.0)
    source = grid if pose is None else Grid(grid.shape, pose.inverse().matrix @ grid.affine)
    table = np.zeros(len(HeadTissue))
    for tissue, value in values.items():
        table[tissue] = value
    image = head.fields(source).paint(table, edge_mm=4.0)
    return Volume((image + np.random.default_rng(0).normal(scale=20, size=image.shape)).astype(np.int16), grid, units)


def test_the_manifest_says_what_the_code_does(bundle):
    manifest = bundle.manifest
    assert manifest.input.window == QuantileWindow(quantiles=QUANTILES)
    assert manifest.input.spacing_mm == (SPACING_MM,) * 3
    assert manifest.input.patch_shape == (SIDE,) * 3
    assert len(bundle.weights) < 1_000_000
    logits = OnnxPredictor(bundle.weights, threads=1).predict(np.zeros((2, 1, SIDE, SIDE, SIDE), np.float32))
    assert logits.shape == (2, len(manifest.output.labels), SIDE, SIDE, SIDE)


@pytest.mark.parametrize("turn", [(0, 0, 90), (0, 90, 0), (-90, 0, 0), (87, -87, 87)])
def test_a_turned_head_is_found_between_ct_and_mr(head, initialiser, turn):
    truth = Affine.rigid(turn, [10, -12, 8])
    guess = initialiser.match(painted(head, HEAD_HU, "HU"), painted(head, T1, "a.u.", truth)).transform
    assert chain(guess.inverse(), truth).rotation_angle_deg < GUESS_DEG
    assert np.linalg.norm(guess.apply(head.centre) - truth.apply(head.centre)) < GUESS_MM


def test_a_registration_with_the_guess_finds_a_large_turn(head, initialiser):
    truth = Affine.rigid([0, 150, 0], [5, 5, 5])
    pair = painted(head, HEAD_HU, "HU"), painted(head, T1, "a.u.", truth)
    plan, policy = RegistrationPlan(spacings_mm=(8.0,)), RegistrationPolicy(largest_rotation_deg=180)
    found = register(*pair, plan, policy=policy, initialiser=initialiser)
    points = head.to_patient(np.random.default_rng(1).uniform(-60, 60, (50, 3)))
    assert np.linalg.norm(found.transform.apply(points) - truth.apply(points), axis=1).mean() < 4
    with pytest.raises(NotEvaluableError):
        register(*pair, plan, initialiser=initialiser)  # refused by the usual limit of 45°


def test_the_guess_turns_with_the_image(head, initialiser):
    """A quarter turn of the voxels is one of the 24 copies: the keypoints are the same but for rounding."""
    image = painted(head, HEAD_HU, "HU")
    quarter = Affine.rigid([0, 0, 90], [0, 0, 0])
    moved = Volume(image.voxels, Grid(image.grid.shape, quarter.matrix @ image.grid.affine), "HU")
    gap = chain(initialiser(image, moved), quarter.inverse())
    assert gap.rotation_angle_deg < 3
    assert np.linalg.norm(gap.apply(head.centre) - head.centre) < 3


def test_keypoints_say_how_many_copies_agreed(head, bundle):
    found = find_keypoints(network_field(painted(head, HEAD_HU, "HU")), OnnxPredictor(bundle.weights, threads=1))
    assert found.points.shape == (len(bundle.manifest.output.labels), 3)
    assert 3 <= found.copies <= 24
    assert found.deviations_mm.max() < 30


def test_what_is_no_head_gives_no_guess(initialiser):
    noise = np.random.default_rng(0).normal(size=(2, 40, 40, 40)).astype(np.float32)
    first, second = (Volume(voxels, make_grid((40, 40, 40), 5.0), "a.u.") for voxels in noise)
    with pytest.raises(NotEvaluableError):
        initialiser.match(first, second)
    shift = initialiser(first, second).matrix
    np.testing.assert_array_equal(shift[:3, :3], np.eye(3))
