from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from pydicom.config import disable_value_validation
from pydicom.uid import generate_uid
from scipy.spatial import KDTree

from ops.dicom.assemble import build_volume
from ops.dicom.geometry import assess
from ops.dicom.headers import read_header
from ops.dicom.series import group_into_series
from ops.dicom.series_header import series_header
from ops.volume import Grid, Volume
from storage.segmentation import CORONARY_ARTERIES, CORONARY_CALCIUM, SourceSeries, encode, segmentation

SHAPE = (9, 14, 11)
TOLERANCE_MM = 1e-4

Points = npt.NDArray[np.float64]


def grid(name: str) -> Grid:
    """Grids of every kind a scanner or a reformat can give; columns are the steps of k, j, i."""
    axial = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]], dtype=float)
    angles = np.deg2rad([17, -31, 8])
    cosines, sines = np.cos(angles), np.sin(angles)
    rotation = (
        np.array([[1, 0, 0], [0, cosines[0], -sines[0]], [0, sines[0], cosines[0]]])
        @ np.array([[cosines[1], 0, sines[1]], [0, 1, 0], [-sines[1], 0, cosines[1]]])
        @ np.array([[cosines[2], -sines[2], 0], [sines[2], cosines[2], 0], [0, 0, 1]])
    )
    directions = {
        "axial": axial,
        "oblique": rotation @ axial,
        "oblique, slices reversed": rotation @ axial * (-1, 1, 1),
        "rows reversed": axial * (1, -1, 1),
        "columns and slices reversed": axial * (-1, 1, -1),
        "coronal": np.array([[0, 0, 1], [1, 0, 0], [0, -1, 0]], dtype=float),
    }[name]
    affine = np.eye(4)
    affine[:3, :3] = directions * (2.5, 0.7, 0.45)
    affine[:3, 3] = (-151.3, 42.7, -1203.9)
    return Grid(SHAPE, affine)


GRIDS = ["axial", "oblique", "oblique, slices reversed", "rows reversed", "columns and slices reversed", "coronal"]


def labels_on(where: Grid) -> Volume:
    """Blobs of labels 1, 2 and 4 without any symmetry; 3 is described but absent."""
    voxels = np.zeros(where.shape, np.uint8)
    voxels[1, 2, 3:7] = 1
    voxels[1:4, 5, 9] = 2
    voxels[4, 1:6, 8] = 2
    voxels[-1, -1, -1] = 4
    return Volume(voxels, where, units="1")


def source_on(where: Grid) -> SourceSeries:
    ct = "1.2.840.10008.5.1.4.1.1.2"
    instances = [generate_uid() for _ in range(where.shape[0])]
    return SourceSeries(generate_uid(), generate_uid(), generate_uid(), ct, "CT", where, instances)


def reopened(labels: Volume, source: SourceSeries) -> pydicom.Dataset:
    return pydicom.dcmread(io.BytesIO(encode(segmentation(labels, CORONARY_CALCIUM, source, "f1"))))


def written_points(dataset: pydicom.Dataset) -> dict[int, Points]:
    """LPS position of every labelled pixel by segment, from the file alone (PS3.3 C.7.6.2.1.1), not by highdicom."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    right, down = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    found: dict[int, list[Points]] = {}
    for frame, groups in zip(dataset.pixel_array, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        corner = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        rows, columns = np.nonzero(frame)
        points = corner + np.outer(columns * between_columns, right) + np.outer(rows * between_rows, down)
        found.setdefault(int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber), []).append(points)
    return {number: np.concatenate(points) for number, points in found.items()}


def original_points(labels: Volume) -> dict[int, Points]:
    present = np.unique(labels.voxels)[1:].tolist()
    return {value: labels.grid.index_to_patient(np.argwhere(labels.voxels == value)) for value in present}


def worst_distance(left: dict[int, Points], right: dict[int, Points]) -> float:
    """Largest distance in mm from any point of one to the nearest of the same segment in the other, both ways."""
    assert left.keys() == right.keys()
    assert {key: len(points) for key, points in left.items()} == {key: len(points) for key, points in right.items()}
    pairs = [(left[key], right[key]) for key in left] + [(right[key], left[key]) for key in left]
    return max(float(KDTree(a).query(b)[0].max()) for a, b in pairs)


@pytest.mark.parametrize("name", GRIDS)
def test_every_labelled_voxel_lies_where_it_lay(name: str) -> None:
    labels = labels_on(grid(name))
    dataset = reopened(labels, source_on(grid(name)))
    assert worst_distance(original_points(labels), written_points(dataset)) < TOLERANCE_MM


@pytest.mark.parametrize("name", GRIDS)
def test_a_crop_lies_where_it_lay(name: str) -> None:
    labels = labels_on(grid(name)).crop((1, 1, 2), (9, 14, 11))
    dataset = reopened(labels, source_on(grid(name)))
    assert (dataset.Rows, dataset.Columns) == (13, 9)
    assert worst_distance(original_points(labels), written_points(dataset)) < TOLERANCE_MM


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 2)], ids=["k", "j", "i", "k and i"])
def test_the_comparison_notices_a_mirrored_object(axes: Sequence[int]) -> None:
    labels = labels_on(grid("oblique"))
    mirrored = Volume(np.flip(labels.voxels, axes), labels.grid, units="1")
    written = written_points(reopened(mirrored, source_on(labels.grid)))
    assert worst_distance(original_points(labels), written) > 0.4


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_comparison_notices_a_shift_by_one_voxel(axis: int) -> None:
    labels = labels_on(grid("oblique"))
    shifted = Volume(np.roll(labels.voxels, 1, axis), labels.grid, units="1")
    written = written_points(reopened(shifted, source_on(labels.grid)))
    assert worst_distance(original_points(labels), written) > 0.4


@pytest.mark.parametrize("name", GRIDS)
def test_each_frame_refers_to_the_instance_of_its_slice(name: str) -> None:
    labels, source = labels_on(grid(name)), source_on(grid(name))
    dataset = reopened(labels, source)
    assert (dataset.StudyInstanceUID, dataset.FrameOfReferenceUID) == (source.study_uid, source.frame_of_reference_uid)
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        corner = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        k = round(float(source.grid.patient_to_index(corner)[0]))
        referenced = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert referenced == source.sop_instance_uids[k]


def test_segments_carry_the_codes_of_their_arteries() -> None:
    dataset = reopened(labels_on(grid("axial")), source_on(grid("axial")))
    assert len(dataset.SegmentSequence) == 4
    for segment, (artery, code) in zip(dataset.SegmentSequence, CORONARY_ARTERIES.items(), strict=True):
        assert segment.SegmentLabel == f"{artery} calcium"
        assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "18115005"
        assert segment.AnatomicRegionSequence[0].CodeValue == code.CodeValue


def test_the_same_result_is_the_same_object() -> None:
    labels, source = labels_on(grid("axial")), source_on(grid("axial"))
    uids = [segmentation(labels, CORONARY_CALCIUM, source, f).SOPInstanceUID for f in ("f1", "f1", "f2")]
    assert uids[0] == uids[1] != uids[2]


def test_source_is_taken_from_the_stored_header() -> None:
    source = source_on(grid("axial"))
    header = {
        "StudyInstanceUID": source.study_uid,
        "SeriesInstanceUID": source.series_uid,
        "FrameOfReferenceUID": source.frame_of_reference_uid,
        "SOPClassUID": source.sop_class_uid,
        "Modality": "CT",
        "SOPInstanceUIDs": source.sop_instance_uids,
        "KVP": 120.0,
    }
    assert SourceSeries.from_header(header, source.grid) == source
    with pytest.raises(ValueError, match="only single-frame"):
        SourceSeries.from_header({**header, "SOPInstanceUIDs": [source.sop_instance_uids[0]] * 9}, source.grid)
    del header["SOPInstanceUIDs"]
    with pytest.raises(ValueError, match="stored header has no SOPInstanceUIDs; ingest the series again"):
        SourceSeries.from_header(header, source.grid)


def test_invalid_instance_uids_are_referred_to_as_they_are() -> None:
    labels, valid = labels_on(grid("axial")), source_on(grid("axial"))
    invalid = [f"1.2.840.007.{k}" for k in range(SHAPE[0])]  # a component with leading zeros: seen in real sets
    dataset = reopened(labels, replace(valid, sop_instance_uids=invalid))
    with disable_value_validation():
        references = {
            groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
            for groups in dataset.PerFrameFunctionalGroupsSequence
        }
    assert references == {invalid[k] for k in np.flatnonzero(labels.voxels.any(axis=(1, 2)))}


def test_no_patient_attribute_is_invented() -> None:
    dataset = reopened(labels_on(grid("axial")), source_on(grid("axial")))
    assert [dataset[name].value for name in ("PatientID", "PatientName", "PatientBirthDate")] == ["", "", ""]


def test_what_cannot_be_published_is_refused() -> None:
    labels, source = labels_on(grid("axial")), source_on(grid("axial"))
    empty = Volume(np.zeros(SHAPE, np.uint8), labels.grid)
    with pytest.raises(ValueError, match="no voxel is labelled"):
        segmentation(empty, CORONARY_CALCIUM, source, "f1")
    with pytest.raises(ValueError, match="label 4 has no segment: 2 are described"):
        segmentation(labels, CORONARY_CALCIUM[:2], source, "f1")
    with pytest.raises(ValueError, match="must be uint8"):
        segmentation(Volume(labels.voxels.astype(float), labels.grid), CORONARY_CALCIUM, source, "f1")
    sheared = labels.grid.affine.copy()
    sheared[1, 0] = 0.5
    with pytest.raises(ValueError, match="sheared"):
        segmentation(Volume(labels.voxels, Grid(SHAPE, sheared)), CORONARY_CALCIUM, source, "f1")
    other = source_on(Grid.from_spacing((4, 14, 11), (1, 1, 1)))
    wrong = replace(other, grid=labels.grid)
    with pytest.raises(ValueError, match="4 instances for 9 slices"):
        segmentation(labels, CORONARY_CALCIUM, wrong, "f1")


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["hitachi/anatomical/001", "generic/anatomical/002_non_isotropic", "anatomical/001"])
def test_real_images_and_their_segmentation_agree_pixel_by_pixel(realdata: Path, name: str) -> None:
    """From files to volume to SEG and back: each frame must lie on, and show, the very file it refers to."""
    paths = sorted((realdata / "dicom2nifti" / name).glob("*.dcm"))
    (series,) = group_into_series([read_header(path.read_bytes(), str(path)) for path in paths])
    assessment = assess(series)
    volume = build_volume(series, assessment, lambda source: Path(source).read_bytes())
    physical = volume.physical(np.float64)
    threshold = float(np.percentile(physical, 90))
    labels = Volume((physical > threshold).astype(np.uint8), volume.grid, units="1")
    header = series_header(series, assessment, Path(series.instances[0].source).read_bytes())

    dataset = reopened(labels, SourceSeries.from_header(header, volume.grid))

    files = {str(file.SOPInstanceUID): file for file in map(pydicom.dcmread, paths)}
    assert dataset.NumberOfFrames == labels.voxels.any(axis=(1, 2)).sum() > 0
    frames = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for frame, groups in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        file = files[groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID]
        shown = file.pixel_array * float(file.get("RescaleSlope", 1)) + float(file.get("RescaleIntercept", 0))
        near = np.abs(shown - threshold) < 1e-3 * np.ptp(shown)  # slices with rescales of their own were rounded
        np.testing.assert_array_equal(frame[~near], shown[~near] > threshold)
        for written, own in [
            (groups.PlanePositionSequence[0].ImagePositionPatient, file.ImagePositionPatient),
            (shared.PlaneOrientationSequence[0].ImageOrientationPatient, file.ImageOrientationPatient),
            (shared.PixelMeasuresSequence[0].PixelSpacing, file.PixelSpacing),
        ]:
            np.testing.assert_allclose(np.array(written, float), np.array(own, float), atol=1e-3)
