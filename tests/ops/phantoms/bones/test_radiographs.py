from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest

from ops.phantoms.bones import radiographs
from ops.phantoms.bones.hip import Hip, sample_hip
from ops.phantoms.bones.projection import Break, Projection, ray_sum
from ops.phantoms.bones.radiographs import BOX_MARGIN_MM, TECHNIQUES, fracture_box, radiograph, sample_study
from ops.phantoms.bones.wrist import Wrist, sample_wrist
from ops.phantoms.dicom.common import Identity
from ops.phantoms.dicom.study import study_datasets
from ops.phantoms.participant import sample_participant
from ops.phantoms.study import Radiograph

ROLES = tuple(TECHNIQUES)
WRIST_ROLES = ("wrist_pa", "wrist_lateral")
COARSE_MM = 0.8
# Grey values by which noise and display processing differ at most when only the fracture does.
VISIBLE_GREY = 60


def limb_of(role: str, seed: int, is_broken: bool = True) -> Wrist | Hip:
    rng = np.random.default_rng(seed)
    person = sample_participant(rng)
    if role in WRIST_ROLES:
        return sample_wrist(rng, person.sex, person.age, is_broken)
    return sample_hip(rng, person.sex, person.age, person.bmi, is_broken)


def broken(limb: Wrist | Hip) -> Break:
    assert limb.broken is not None
    return limb.broken


def field_of(role: str, pixel_mm: float) -> Projection:
    return replace(TECHNIQUES[role].field, pixel_mm=pixel_mm)


def grey(limb: Wrist | Hip, role: str, field: Projection, laterality: radiographs.Laterality = "L") -> npt.NDArray:
    return radiograph(limb, role, laterality, field, np.random.default_rng(1)).pixels.astype(np.float64)


def box_of(limb: Wrist | Hip, role: str, field: Projection, side: radiographs.Laterality = "L") -> npt.NDArray:
    return np.array(fracture_box(limb, role, side, field))


def bone_depth(limb: Wrist | Hip, field: Projection) -> npt.NDArray[np.float32]:
    cortex, inside = (np.zeros(field.shape, dtype=np.float32) for _ in range(2))
    for bone in limb.bones():
        ray_sum(bone, field, cortex, inside)
    return cortex + inside


def corners_of(changed: npt.NDArray[np.bool_]) -> npt.NDArray:
    rows, columns = np.nonzero(changed)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole studies in a tenth of a second."""
    for role, technique in TECHNIQUES.items():
        monkeypatch.setitem(
            radiographs.TECHNIQUES, role, replace(technique, field=replace(technique.field, pixel_mm=2.0))
        )


@pytest.mark.parametrize("role", ROLES)
def test_same_seed_same_image(role: str) -> None:
    limb, field = limb_of(role, 0), field_of(role, 1.5)
    first, second, other = (radiograph(limb, role, "L", field, np.random.default_rng(s)).pixels for s in (3, 3, 4))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()
    assert first.shape == field.shape
    assert first.dtype == np.uint16
    assert first.max() < 4095
    assert first[bone_depth(limb, field) > 0].min() > 0, "only air is cut off"


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_fracture_changes_the_image_within_its_box_only(role: str, seed: int) -> None:
    """Undisplaced, so that the bones beside it are the same."""
    limb, field = limb_of(role, seed), field_of(role, COARSE_MM)
    limb = replace(limb, broken=replace(broken(limb), shift=(0.0, 0.0, 0.0), gap=2.0))
    changed = np.abs(grey(limb, role, field) - grey(replace(limb, broken=None), role, field)) > VISIBLE_GREY
    box, tight = box_of(limb, role, field), np.array(fracture_box(limb, role, "L", field, margin_mm=0))
    x0, y0, x1, y1 = corners_of(changed)
    assert (np.array([x0, y0]) >= np.floor(box[:2])).all()
    assert (np.array([x1, y1]) <= np.ceil(box[2:])).all()
    # The cleft reaches from side to side of the bone.
    np.testing.assert_allclose([x0, y0, x1, y1], tight, atol=2.5 / COARSE_MM)
    assert np.count_nonzero(changed) > 0.1 * np.prod(box[2:] - box[:2])


@pytest.mark.parametrize("role", ROLES)
def test_the_box_of_a_displaced_fracture_holds_both_surfaces(role: str) -> None:
    """A wider cleft changes both broken surfaces, where they lie, and nothing else."""
    limb, field = limb_of(role, 2), field_of(role, COARSE_MM)
    shift = (4.0, 0.0, 9.0) if role == "hip_ap" else (-3.0, -6.0, 5.0)
    narrow, wide = (replace(limb, broken=replace(broken(limb), shift=shift, gap=gap)) for gap in (0.5, 2.5))
    changed = np.abs(bone_depth(narrow, field) - bone_depth(wide, field)) > 0.1
    tight = np.array(fracture_box(wide, role, "L", field, margin_mm=0))
    found = corners_of(changed)
    assert (found[:2] >= np.floor(tight[:2]) - 1).all()
    assert (found[2:] <= np.ceil(tight[2:]) + 1).all()
    assert np.prod(found[2:] - found[:2]) > 0.7 * np.prod(tight[2:] - tight[:2])


@pytest.mark.parametrize("role", ROLES)
def test_boxes_lie_inside_the_image(role: str) -> None:
    for seed in range(30):
        field = TECHNIQUES[role].field
        field = replace(field, turn=field.turn + float(np.random.default_rng(seed).normal(0, 5)))
        limb = limb_of(role, seed)
        x0, y0, x1, y1 = box_of(limb, role, field, "R")
        rows, columns = field.shape
        assert 0 < x0 < x1 < columns, "not cut off at the side"
        assert 0 < y0 < y1 < rows
        # As large as a bone and no larger.
        assert 5 < (x1 - x0) * field.pixel_mm - 2 * BOX_MARGIN_MM < 60
        assert 1 < (y1 - y0) * field.pixel_mm - 2 * BOX_MARGIN_MM < 60


def test_a_box_is_cut_off_at_the_image() -> None:
    limb, field = limb_of("wrist_pa", 0), TECHNIQUES["wrist_pa"].field
    x0, _, x1, y1 = box_of(limb, "wrist_pa", field)
    low_z = field.high[1] - (y1 - 2 * BOX_MARGIN_MM / field.pixel_mm) * field.pixel_mm
    cut = replace(field, low=(field.low[0], low_z))
    assert box_of(limb, "wrist_pa", cut) == pytest.approx([x0, box_of(limb, "wrist_pa", field)[1], x1, cut.shape[0]])


@pytest.mark.parametrize("role", ROLES)
def test_no_box_without_a_fracture(role: str) -> None:
    assert fracture_box(limb_of(role, 0, is_broken=False), role, "L", TECHNIQUES[role].field) is None


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("side", ["L", "R"])
def test_boxes_scale_with_the_pixels(role: str, side: radiographs.Laterality) -> None:
    limb = limb_of(role, 1)
    fine = box_of(limb, role, field_of(role, 0.1), side) * 0.1
    for pixel_mm in (0.2, 0.45):
        field = field_of(role, pixel_mm)
        np.testing.assert_allclose(box_of(limb, role, field, side) * pixel_mm, fine, atol=pixel_mm)
        assert field.shape == pytest.approx(np.array(field_of(role, 0.1).shape) * 0.1 / pixel_mm, abs=1)


@pytest.mark.parametrize("role", ROLES)
def test_anatomy_scales_with_the_pixels(role: str) -> None:
    """Means of 2 × 2 fine pixels are the coarse ones, but for the blur of the coarse steps along the ray."""
    limb = limb_of(role, 1)
    fine, coarse = (bone_depth(limb, field_of(role, pixel_mm)) for pixel_mm in (0.5, 1.0))
    rows, columns = coarse.shape
    binned = fine[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2).mean(axis=(1, 3))
    assert binned.sum() == pytest.approx(coarse.sum(), rel=0.01)
    assert np.abs(binned - coarse).mean() < 0.1 * coarse.mean()


@pytest.mark.parametrize(("role", "is_mirrored"), [("wrist_pa", True), ("hip_ap", True), ("wrist_lateral", False)])
def test_a_right_limb_is_the_mirror_image_but_from_the_side(role: str, is_mirrored: bool) -> None:
    limb, field = limb_of(role, 0), field_of(role, 1.5)
    left, right = (radiograph(limb, role, s, field, np.random.default_rng(1)) for s in ("L", "R"))
    np.testing.assert_array_equal(right.pixels, left.pixels[:, ::-1] if is_mirrored else left.pixels)
    x0, y0, x1, y1 = box_of(limb, role, field)
    columns = field.shape[1]
    expected = [columns - x1, y0, columns - x0, y1] if is_mirrored else [x0, y0, x1, y1]
    assert box_of(limb, role, field, "R") == pytest.approx(expected)
    assert (left.laterality, right.laterality) == ("L", "R")


def test_a_left_wrist_has_its_thumb_to_the_right_and_its_fingers_up() -> None:
    limb, field = limb_of("wrist_pa", 0, is_broken=False), field_of("wrist_pa", 1.0)
    image = grey(limb, "wrist_pa", field)
    heads = limb.size * np.array([[46.0, 17.0, 72.0], [-46.0, 17.0, 72.0]])
    (x, y), (mirrored_x, _) = field.to_pixels(heads).astype(int)
    assert y < field.shape[0] / 4
    assert image[y, x] > image[y, mirrored_x] + 300


def test_a_left_hip_has_its_trochanter_to_the_right() -> None:
    limb, field = limb_of("hip_ap", 0, is_broken=False), field_of("hip_ap", 1.5)
    assert isinstance(limb, Hip)
    depth = bone_depth(limb, field)
    shaft = field.to_pixels(np.array([[0.0, 0.0, -140.0]]))[0].astype(int)
    across = depth[shaft[1]] > 0.5
    assert np.flatnonzero(across).min() > shaft[0], "the shaft lies to the side of the head"


def test_a_dorsal_shift_shows_from_the_side_and_not_from_behind() -> None:
    limb = limb_of("wrist_pa", 0)
    moved = {}
    for role in WRIST_ROLES:
        field = field_of(role, COARSE_MM)
        hand = slice(0, field.shape[0] // 4)
        columns = np.arange(field.shape[1])
        centres = []
        for shift in (0.0, -8.0):
            depth = bone_depth(replace(limb, broken=replace(broken(limb), shift=(0.0, shift, 0.0))), field)[hand]
            centres.append((depth.sum(axis=0) * columns).sum() / depth.sum())
        moved[role] = (centres[1] - centres[0]) * COARSE_MM
    assert moved["wrist_pa"] == pytest.approx(0, abs=0.1)
    assert moved["wrist_lateral"] == pytest.approx(-8, abs=0.3), "the palm is to the right"


def test_bone_is_brighter_than_soft_tissue_and_that_than_air() -> None:
    limb, field = limb_of("wrist_pa", 0, is_broken=False), field_of("wrist_pa", 1.0)
    image, depth = grey(limb, "wrist_pa", field), bone_depth(limb, field)
    rows = slice(130, 170)
    bone, air = image[rows][depth[rows] > 0.3], image[rows, :5]
    soft = image[rows, 30:][(depth[rows, 30:] == 0) & (np.arange(30, field.shape[1]) < 90)]
    assert air.mean() + 200 < soft.mean() < bone.mean() - 200


@pytest.mark.usefixtures("coarse")
def test_a_study_and_its_truth() -> None:
    kinds, positive = [], []
    for seed in range(16):
        study = sample_study(np.random.default_rng(seed))
        images = [each for each in study.series if isinstance(each, Radiograph)]
        assert [each.role for each in images] == (["wrist_pa", "wrist_lateral"] if len(images) == 2 else ["hip_ap"])
        assert study.truth == json.loads(json.dumps(study.truth))
        assert set(study.truth["boxes"]) == {each.role for each in images}
        is_broken = study.truth["fracture_call"] == "positive"
        for image in images:
            boxes = study.truth["boxes"][image.role]
            assert len(boxes) == study.truth[f"fracture_box_count_{image.role}"] == is_broken
            rows, columns = image.pixels.shape
            for x0, y0, x1, y1 in boxes:
                assert 0 <= x0 < x1 <= columns
                assert 0 <= y0 < y1 <= rows
        assert study.truth["fracture_box_count"] == len(images) * is_broken
        kinds.append(len(images))
        positive.append(is_broken)
    assert {(kind, each) for kind, each in zip(kinds, positive, strict=True)} == {(1, 0), (1, 1), (2, 0), (2, 1)}


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("seed", [0, 4])
def test_same_seed_same_study(seed: int) -> None:
    first, second = (sample_study(np.random.default_rng(seed)) for _ in range(2))
    assert first.truth == second.truth
    for one, other in zip(first.series, second.series, strict=True):
        assert isinstance(one, Radiograph)
        assert isinstance(other, Radiograph)
        np.testing.assert_array_equal(one.pixels, other.pixels)
        assert (one.laterality, one.view, one.spacing_mm) == (other.laterality, other.view, other.spacing_mm)


@pytest.mark.usefixtures("coarse")
def test_studies_are_written_as_digital_x_ray_images(tmp_path: Path) -> None:
    validator = shutil.which("dciodvfy")
    if validator is None and os.environ.get("CI") == "true":
        pytest.fail("dciodvfy (Debian dicom3tools) is missing")
    views = {}
    for seed in range(8):
        study = sample_study(np.random.default_rng(seed))
        datasets = study_datasets(study, Identity(f"fracture/{seed}", study.participant))
        for image, (_, dataset) in zip(study.series, datasets, strict=True):
            assert isinstance(image, Radiograph)
            buffer = io.BytesIO()
            dataset.save_as(buffer, enforce_file_format=True)
            buffer.seek(0)
            read = pydicom.dcmread(buffer)
            assert (read.Modality, read.SOPClassUID.name) == ("DX", "Digital X-Ray Image Storage - For Presentation")
            assert (read.PhotometricInterpretation, read.PresentationLUTShape) == ("MONOCHROME2", "IDENTITY")
            assert read.PresentationIntentType == "FOR PRESENTATION"
            assert read.ImagerPixelSpacing == [2.0, 2.0]
            assert read.ImageLaterality == image.laterality
            assert (read.SeriesDescription, read.StudyDescription) == (image.description, study.description)
            np.testing.assert_array_equal(read.pixel_array, image.pixels)
            view = "LL" if read.ViewPosition == "RL" and read.ImageLaterality == "R" else read.ViewPosition
            views[image.role] = (read.BodyPartExamined, view, *read.PatientOrientation)
            if validator:
                file = tmp_path / f"{seed}{image.role}.dcm"
                file.write_bytes(buffer.getvalue())
                said = subprocess.run([validator, str(file)], capture_output=True, text=True, check=False).stderr
                assert "Error" not in said, said
    assert views == {
        "wrist_pa": ("WRIST", "PA", "L", "H"),
        "wrist_lateral": ("WRIST", "LL", "A", "H"),
        "hip_ap": ("HIP", "AP", "L", "F"),
    }
