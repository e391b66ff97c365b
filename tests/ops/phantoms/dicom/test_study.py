from __future__ import annotations

import io
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from ops.phantoms.dicom.common import Identity
from ops.phantoms.dicom.study import study_datasets
from ops.phantoms.participant import sample_participant
from ops.phantoms.sdf import rotation
from ops.phantoms.study import Radiograph, SimulatedSeries, SimulatedStudy, SliceSeries, Stack, UltrasoundClip
from ops.volume import Grid, Volume

RNG = np.random.default_rng(0)
PERSON = sample_participant(RNG)
SHAPE = (3, 16, 20)


def oblique() -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = (rotation(20, 30, -10) @ np.diag([0.7, 0.8, 2.5]))[:, ::-1]
    affine[:3, 3] = (-12.5, 33.25, 7.0)
    return Grid(SHAPE, affine)


def ct() -> Volume:
    return Volume(RNG.integers(-1000, 1000, SHAPE).astype(np.int16), oblique())


def mr() -> Volume:
    return Volume(RNG.integers(0, 4000, SHAPE).astype(np.uint16), oblique(), "a.u.")


CT = SliceSeries("ct", "CT", "native", (Stack(ct()),), attributes={"KVP": "100"})
ABDOMEN = SliceSeries("ct", "CT", "abdomen", (Stack(ct()),), attributes={"BodyPartExamined": "ABDOMEN"})
CINE = SliceSeries(
    "cine",
    "MR",
    "sax",
    tuple(Stack(mr(), {"TriggerTime": t}) for t in (0.0, 40.0)),
    attributes={"EchoTime": "1.5", "InversionTime": "300"},
)
DWI = SliceSeries("dwi", "MR", "dwi", tuple(Stack(mr(), {"DiffusionBValue": b}) for b in (0.0, 1000.0)), "enhanced")
ECHO = UltrasoundClip(
    "a4c", "A4C", RNG.integers(0, 256, (4, 60, 80)).astype(np.uint8), (0.5, -0.4), 33.3, (5, 6, 50, 70)
)
WRIST = Radiograph(
    "pa", "Wrist PA", RNG.integers(0, 4000, (60, 50)).astype(np.uint16), (0.15, 0.14), "WRIST", "PA", ("L", "H"), "L"
)
EVERY_SERIES = (CT, ABDOMEN, CINE, DWI, ECHO, WRIST)


def written(*series: SimulatedSeries) -> list[pydicom.FileDataset]:
    study = SimulatedStudy(PERSON, "a study", series, {}, {})
    datasets = []
    for folder, dataset in study_datasets(study, Identity("test", PERSON)):
        buffer = io.BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        buffer.seek(0)
        datasets.append(pydicom.dcmread(buffer))
        assert folder == f"S{datasets[-1].SeriesNumber}"
    return datasets


def assert_in_place(grid: Grid, k: int, position: Any, orientation: Any, spacing: Any) -> None:
    """A pixel in the middle of slice ``k`` lies where PS3.3 C.7.6.2.1.1 says it lies."""
    row, column = 7, 11
    x, y = np.reshape(np.array(orientation, dtype=float), (2, 3))
    place = np.array(position, dtype=float) + x * float(spacing[1]) * column + y * float(spacing[0]) * row
    np.testing.assert_allclose(place, grid.index_to_patient((k, row, column)), atol=1e-3)


@pytest.mark.parametrize("series", [CT, CINE])
def test_classic_slices(series: SliceSeries) -> None:
    datasets = written(series)
    slices = [(stack, k) for stack in series.stacks for k in range(SHAPE[0])]
    for dataset, (stack, k) in zip(datasets, slices, strict=True):
        physical = dataset.pixel_array * float(dataset.get("RescaleSlope", 1)) + float(
            dataset.get("RescaleIntercept", 0)
        )
        np.testing.assert_array_equal(physical, stack.volume.voxels[k])
        grid = stack.volume.grid
        assert_in_place(grid, k, dataset.ImagePositionPatient, dataset.ImageOrientationPatient, dataset.PixelSpacing)
        for keyword, value in {**series.attributes, **stack.attributes}.items():
            assert float(dataset[keyword].value) == float(value)
        assert (dataset.StudyDescription, dataset.SeriesDescription) == ("a study", series.description)
    assert len({dataset.SOPInstanceUID for dataset in datasets}) == len(datasets)


def test_enhanced_frames() -> None:
    (dataset,) = written(DWI)
    frames = [(stack, k) for stack in DWI.stacks for k in range(SHAPE[0])]
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for frame, pixels, (stack, k) in zip(
        dataset.PerFrameFunctionalGroupsSequence, dataset.pixel_array, frames, strict=True
    ):
        np.testing.assert_array_equal(pixels, stack.volume.voxels[k])
        assert frame.MRDiffusionSequence[0].DiffusionBValue == stack.attributes["DiffusionBValue"]
        assert_in_place(
            stack.volume.grid,
            k,
            frame.PlanePositionSequence[0].ImagePositionPatient,
            shared.PlaneOrientationSequence[0].ImageOrientationPatient,
            shared.PixelMeasuresSequence[0].PixelSpacing,
        )


def test_echo_clip() -> None:
    (dataset,) = written(ECHO)
    np.testing.assert_array_equal(dataset.pixel_array, ECHO.frames)
    region = dataset.SequenceOfUltrasoundRegions[0]
    assert (region.PhysicalDeltaY, region.PhysicalDeltaX) == pytest.approx((0.05, -0.04))
    assert (region.RegionLocationMinY0, region.RegionLocationMinX0) == ECHO.region[:2]
    assert (region.RegionLocationMaxY1, region.RegionLocationMaxX1) == ECHO.region[2:]
    assert dataset.FrameTime == pytest.approx(33.3)


def test_radiograph() -> None:
    (dataset,) = written(WRIST)
    np.testing.assert_array_equal(dataset.pixel_array, WRIST.pixels)
    assert dataset.ImagerPixelSpacing == pytest.approx([0.15, 0.14])
    assert (dataset.ViewPosition, dataset.ImageLaterality, dataset.BodyPartExamined) == ("PA", "L", "WRIST")


def test_objects_conform_to_the_standard(tmp_path: Path) -> None:
    validator = shutil.which("dciodvfy")
    if validator is None:
        if os.environ.get("CI") == "true":
            pytest.fail("dciodvfy (Debian dicom3tools) is missing")
        pytest.skip("dciodvfy (Debian dicom3tools) is not installed")
    datasets = written(*EVERY_SERIES)
    first = {dataset.SeriesInstanceUID: dataset for dataset in reversed(datasets)}
    assert len(first) == len(EVERY_SERIES)
    for dataset in first.values():
        file = tmp_path / f"{dataset.Modality}{dataset.SeriesNumber}.dcm"
        dataset.save_as(file)
        said = subprocess.run([validator, str(file)], capture_output=True, text=True, check=False).stderr
        assert "Error" not in said, said


@pytest.mark.parametrize(
    ("series", "message"),
    [
        (replace(CT, encoding="enhanced"), "only MR"),
        (replace(CT, attributes={"NoSuchThing": 1}), "no DICOM keyword"),
        (replace(DWI, stacks=(Stack(mr(), {"EchoTime": 3.0}),)), "no functional group"),
        (replace(DWI, stacks=(Stack(mr()), Stack(replace(mr(), slope=2.0)))), "must agree"),
        (replace(CT, stacks=(Stack(replace(ct(), voxels=np.zeros(SHAPE))),)), "float64 cannot be stored"),
        (replace(DWI, stacks=(Stack(replace(mr(), voxels=np.zeros(SHAPE))),)), "float64 cannot be stored"),
    ],
)
def test_what_cannot_be_written_is_an_error(series: SliceSeries, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        written(series)
