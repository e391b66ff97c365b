from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ops.diseases.aneurysm.measurement import AneurysmPolicy, measure, measure_mesh
from ops.measure.record import MeasurementRecord
from ops.verdict import ResultStatus
from ops.volume import Grid, Volume
from tests.ops.diseases.aneurysm.sacs import cap_truth, ellipsoid_cap, side_wall_labels

TRUTH = cap_truth(3.0, 4.5)
OBLIQUE = Rotation.from_euler("xyz", [20, -35, 50], degrees=True).as_matrix()


def check_shape(record: MeasurementRecord, rel: float, undulation: float = 0.04) -> None:
    assert record.status is ResultStatus.OK
    assert record["diameter_3d"] == pytest.approx(6, rel=rel)
    assert record["diameter_section"] == pytest.approx(6, rel=rel)
    assert record["height"] == pytest.approx(4.5, rel=rel)
    assert record["neck_diameter_mean_radius"] == pytest.approx(TRUTH["neck"], rel=1.5 * rel)
    assert record["volume"] == pytest.approx(TRUTH["V"], rel=rel)
    assert record["surface_area"] == pytest.approx(TRUTH["S"], rel=rel)
    assert record["nonsphericity_index"] == pytest.approx(0.0562, abs=0.02)
    assert record["undulation_index"] == pytest.approx(0, abs=undulation)
    assert record["parent_diameter"] == pytest.approx(3, rel=0.06)
    assert record["size_ratio"] == pytest.approx(1.5, rel=0.09)
    assert record["parent_branches"] == 2


@pytest.mark.parametrize(
    ("spacing", "undulation"),
    # Steps of thick slices stand out of the hull's sides: the counted volume then falls short of it.
    [((0.4, 0.4, 0.4), 0.04), ((0.3, 0.5, 0.4), 0.04), ((0.8, 0.4, 0.4), 0.07)],
)
@pytest.mark.parametrize("turn", [np.eye(3), OBLIQUE])
def test_cap_on_a_vessel(spacing, undulation, turn):
    check_shape(measure(side_wall_labels(spacing, turn=turn)), rel=0.07, undulation=undulation)


def test_axes_of_the_grid_do_not_matter():
    check_shape(measure(side_wall_labels((0.4, 0.4, 0.4), directions=OBLIQUE)), rel=0.07)
    one = side_wall_labels((0.5, 0.5, 0.5))
    affine = one.grid.affine.copy()
    affine[:3, 3] = one.grid.index_to_patient((one.grid.shape[0] - 1, 0, 0))
    affine[:3, 0] *= -1
    flipped = Volume(one.voxels[::-1], Grid(one.grid.shape, affine), "label")
    for name in ("surface_area", "height", "neck_diameter_hydraulic"):
        assert measure(flipped)[name] == pytest.approx(measure(one)[name], rel=0.01)


def test_record_names_policy_inputs_and_class():
    record = measure(side_wall_labels((0.5, 0.5, 0.5)), inputs=("1.2.3",))
    assert record["size_class"] == "5-<7"
    assert record.policy["surface_estimator"] == "humphrey"
    assert record.inputs == ("1.2.3",)
    assert record.flags == ()
    assert MeasurementRecord.from_json(record.to_json()) == record


def test_policy_changes_values():
    labels = side_wall_labels((0.5, 0.5, 0.5))
    default = measure(labels)
    raw = measure(labels, AneurysmPolicy(surface_estimator="marching_cubes"))
    assert raw["surface_area"] > 1.05 * default["surface_area"]
    hydraulic = measure(labels, AneurysmPolicy(neck_convention="hydraulic"))
    assert hydraulic["aspect_ratio"] == pytest.approx(default["height"] / default["neck_diameter_hydraulic"])
    assert default["aspect_ratio"] == pytest.approx(default["height"] / default["neck_diameter_mean_radius"])
    assert "low_confidence" in measure(labels, AneurysmPolicy(low_confidence_voxels=20)).flags


@pytest.mark.parametrize(
    "change",
    [{"surface_estimator": "crofton"}, {"neck_convention": "area"}, {"low_confidence_voxels": 0.5}],
)
def test_unknown_policy(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        AneurysmPolicy(**change)


def test_coarse_voxels_are_flagged_and_measured():
    record = measure(side_wall_labels((1.2, 1.2, 1.2)))
    assert "low_confidence" in record.flags
    assert record["voxels_across"] < 6
    assert record["volume"] == pytest.approx(TRUTH["V"], rel=0.15)


def test_another_sac_of_the_study_is_left_out():
    labels = side_wall_labels((0.5, 0.5, 0.5))
    other = labels.voxels.copy()
    other[labels.voxels == 2] = 3
    other[2:5, 2:5, 2:5] = 2
    assert measure(replace(labels, voxels=other), sac_label=3)["volume"] == measure(labels)["volume"]


def test_strays_are_ignored_and_said():
    labels = side_wall_labels((0.5, 0.5, 0.5))
    stray = labels.voxels.copy()
    sac = np.argwhere(stray == 2)
    stray[tuple(sac.min(axis=0) - (0, 0, 3))] = 2
    record = measure(replace(labels, voxels=stray))
    assert "stray_voxels_ignored" in record.flags
    assert record["volume"] == measure(labels)["volume"]


def with_voxels(change):
    labels = side_wall_labels((0.5, 0.5, 0.5))
    voxels = labels.voxels.copy()
    change(voxels)
    return replace(labels, voxels=voxels)


def erase(voxels, label):
    voxels[voxels == label] = 0


def keep_few(voxels):
    sac = np.argwhere(voxels == 2)
    voxels[tuple(sac[5:].T)] = 0


def to_border(voxels):
    voxels[:, voxels.shape[1] // 2, voxels.shape[2] // 2] = 2


def lift(voxels):
    sac = np.argwhere(voxels == 2)
    voxels[tuple(sac.T)] = 0
    voxels[tuple((sac + np.array([3, 0, 0])).T)] = 2


def double(voxels):
    voxels[2:8, 2:8, 2:8] = 2


LABELS = side_wall_labels((0.5, 0.5, 0.5))
SHEARED = LABELS.grid.affine + np.pad([[0.0, 0.2, 0], [0, 0, 0], [0, 0, 0]], ((0, 1), (0, 1)))


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (with_voxels(lambda v: erase(v, 2)), "empty_mask"),
        (with_voxels(lambda v: erase(v, 1)), "no_neck"),
        (with_voxels(lift), "no_neck"),
        (with_voxels(keep_few), "too_small"),
        (with_voxels(to_border), "touches_border"),
        (with_voxels(double), "several_sacs"),
        (replace(LABELS, units="HU"), "not_a_label_map"),
        (replace(LABELS, voxels=LABELS.voxels.astype(np.float32)), "not_a_label_map"),
        (replace(LABELS, voxels=-LABELS.voxels.astype(np.int16)), "not_a_label_map"),
        (replace(LABELS, grid=Grid(LABELS.grid.shape, SHEARED)), "gantry_tilt"),
        (replace(LABELS, grid=Grid.from_spacing(LABELS.grid.shape, (5.0, 0.5, 0.5))), "anisotropic"),
    ],
)
def test_bad_labels(labels, reason):
    record = measure(labels)
    assert record.status is ResultStatus.NOT_EVALUABLE
    assert record.reason == reason
    assert record.policy["largest_anisotropy"] == 4.0


def test_sac_label_must_not_be_the_vessel():
    assert measure(LABELS, sac_label=1).reason == "bad_sac_label"


def test_short_vessel_leaves_the_shape():
    record = measure(side_wall_labels((0.5, 0.5, 0.5), size_mm=11))
    assert record.status is ResultStatus.OK
    assert record["size_ratio"] is None
    assert record.measurement("size_ratio").reason == "no_parent_vessel"
    assert record["volume"] > 0


def test_mesh():
    record = measure_mesh(ellipsoid_cap(3, 3, 0.5))
    assert record["diameter_3d"] == pytest.approx(6, rel=1e-3)
    assert record["conicity"] == pytest.approx(0.5 - 1.5 / 4.5, abs=0.02)
    assert record.measurement("size_ratio").reason == "no_parent_vessel"


def test_bent_neck_that_makes_the_index_negative_is_flagged():
    """Volume below the neck plane that no surface bounds: the neck is drawn down into the vessel at its middle."""
    mesh = ellipsoid_cap(3, 3, 0, rings=30, spokes=40)
    wave = np.cos(2 * np.arctan2(mesh.vertices[:, 1], mesh.vertices[:, 0]))
    mesh.vertices[:, 2] += np.where(mesh.vertices[:, 2] < 2.5, 1.2 * wave * (1 - mesh.vertices[:, 2] / 2.5), 0)
    record = measure_mesh(mesh)
    assert ("negative_nonsphericity" in record.flags) == (record["nonsphericity_index"] < 0)


def test_closed_mesh_has_no_neck():
    import trimesh

    assert measure_mesh(trimesh.creation.icosphere(2)).reason == "no_neck"
