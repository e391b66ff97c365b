"""Transforms: closed-form points, inverses, composition, records, conventions against SimpleITK."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.measure.errors import NotEvaluableError
from ops.registration.records import from_record, to_record
from ops.registration.transforms import Affine, Chain, Displacement, Velocity, chain
from tests.ops.registration.blobs import landmarks, make_grid, positions

GRID = make_grid((24, 26, 28), 5.0, oblique=True)


def wave(grid, size: float) -> np.ndarray:
    """A smooth field, ``(3, z, y, x)`` mm, that fades towards the border."""
    p = positions(grid)
    fade = np.exp(-0.5 * ((p / 35) ** 2).sum(-1))
    turns = [np.sin(p[..., 1] / 21), np.cos(p[..., 2] / 25), np.sin(p[..., 0] / 19 + 1)]
    return np.stack([size * fade * t for t in turns]).astype(np.float32)


def test_rigid_turns_by_the_right_hand_about_its_centre():
    turned = Affine.rigid([0, 0, 90], [1, 2, 3], centre_mm=(10, 0, 0))
    np.testing.assert_allclose(turned.apply([[11, 0, 0], [10, 0, 0]]), [[11, 3, 3], [11, 2, 3]], atol=1e-12)
    assert turned.is_rigid
    assert turned.rotation_angle_deg == pytest.approx(90)


def test_stretches_of_a_scaling():
    scaled = Affine.about(np.diag([1.1, 0.9, 1.0]), (0, 0, 0), (5, 5, 5))
    np.testing.assert_allclose(scaled.stretches, [1.1, 1.0, 0.9])
    assert not scaled.is_rigid
    assert scaled.rotation_angle_deg == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("matrix", [np.diag([-1.0, 1, 1, 1]), np.eye(3), np.full((4, 4), np.nan), np.eye(4) * 2])
def test_refuses_a_matrix_that_is_no_affine_map(matrix):
    with pytest.raises(ValueError, match="affine"):
        Affine(matrix)


@pytest.mark.parametrize("kind", [Displacement, Velocity])
def test_refuses_vectors_that_do_not_fit(kind):
    with pytest.raises(ValueError, match="do not fit"):
        kind(GRID, np.zeros((3, 2, 2, 2), np.float32))
    with pytest.raises(ValueError, match="finite float32"):
        kind(GRID, np.full((3, *GRID.shape), np.nan, np.float32))


@settings(max_examples=30, deadline=None)
@given(*[st.tuples(*[st.floats(-60, 60)] * 3)] * 3)
def test_rigid_maps_invert_and_keep_distances(rotation, shift, centre):
    moved = Affine.rigid(rotation, shift, centre)
    points = landmarks()
    np.testing.assert_allclose(moved.inverse().apply(moved.apply(points)), points, atol=1e-9)
    before, after = (np.linalg.norm(p - p[0], axis=1) for p in (points, moved.apply(points)))
    np.testing.assert_allclose(after, before, atol=1e-9)


def test_a_constant_velocity_flows_by_itself():
    vectors = np.broadcast_to(np.float32([3, -2, 5])[:, None, None, None], (3, *GRID.shape)).copy()
    np.testing.assert_allclose(Velocity(GRID, vectors).apply([[1, 2, 3]]), [[4, 0, 8]], atol=1e-4)


def test_a_linear_velocity_flows_exponentially():
    """v(p) = a p has the flow p → eᵃ p."""
    vectors = (0.2 * positions(GRID)).astype(np.float32)
    flow = Velocity(GRID, np.ascontiguousarray(np.moveaxis(vectors, -1, 0)))
    inner = landmarks(20.0)
    np.testing.assert_allclose(flow.apply(inner), np.exp(0.2) * inner, atol=0.02)


def test_velocity_and_its_opposite_cancel():
    flow = Velocity(GRID, wave(GRID, 8.0))
    points = landmarks()
    assert np.linalg.norm(flow.apply(points) - points, axis=1).max() > 4
    error = np.linalg.norm(flow.inverse().apply(flow.apply(points)) - points, axis=1)
    assert error.max() < 0.3  # mm, on a lattice of 5 mm


def test_a_displacement_is_inverted_by_iteration():
    field = Displacement(GRID, wave(GRID, 6.0))
    points = landmarks()
    error = np.linalg.norm(field.inverse().apply(field.apply(points)) - points, axis=1)
    assert error.max() < 0.2


def test_a_folding_displacement_has_no_inverse():
    with pytest.raises(NotEvaluableError) as refusal:
        Displacement(GRID, wave(GRID, 60.0)).inverse()
    assert refusal.value.reason == "not_invertible"


def test_chain_applies_the_first_first_and_merges_affine_maps():
    shift, turn = Affine.rigid([0, 0, 0], [10, 0, 0]), Affine.rigid([0, 0, 90], [0, 0, 0])
    both = chain(shift, turn)
    assert isinstance(both, Affine)
    np.testing.assert_allclose(both.apply([[0, 0, 0]]), [[0, 10, 0]], atol=1e-12)
    whole = chain(Velocity(GRID, wave(GRID, 5.0)), chain(shift, turn))
    assert isinstance(whole, Chain)
    assert len(whole.parts) == 2
    points = landmarks()
    np.testing.assert_allclose(whole.inverse().apply(whole.apply(points)), points, atol=0.2)


def test_records_survive_json():
    whole = chain(
        Velocity(GRID, wave(GRID, 5.0)), Affine.rigid([1, 2, 3], [4, 5, 6]), Displacement(GRID, wave(GRID, 2))
    )
    description, arrays = to_record(whole)
    again = from_record(json.loads(json.dumps(description)), arrays)
    points = landmarks()
    np.testing.assert_array_equal(again.apply(points), whole.apply(points))
    with pytest.raises(ValueError, match="unknown kind"):
        from_record({"parts": [{"kind": "spline"}]}, {})


def test_simpleitk_agrees_on_affine_and_displacement():
    sitk = pytest.importorskip("SimpleITK")
    affine = Affine.rigid([10, -20, 5], [3, 4, 5], (7, 8, 9))
    peer = sitk.AffineTransform(affine.matrix[:3, :3].ravel().tolist(), affine.matrix[:3, 3].tolist())
    field = Displacement(GRID, wave(GRID, 6.0))
    vectors = sitk.GetImageFromArray(np.moveaxis(field.vectors, 0, -1).astype(np.float64), isVector=True)
    vectors.SetOrigin(GRID.origin.tolist())
    vectors.SetSpacing(GRID.spacing[::-1])
    vectors.SetDirection(GRID.directions[:, ::-1].ravel().tolist())
    peer_field = sitk.DisplacementFieldTransform(vectors)
    for ours, theirs in ((affine, peer), (field, peer_field)):
        expected = [theirs.TransformPoint(p) for p in landmarks().tolist()]
        np.testing.assert_allclose(ours.apply(landmarks()), expected, atol=1e-4)
