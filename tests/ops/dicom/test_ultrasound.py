from __future__ import annotations

import io
import math
from typing import Any

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from ops.dicom.headers import parse
from ops.dicom.kinds import RefusedSeriesError
from ops.dicom.ultrasound import UltrasoundRegion, frame_times_ms, read_regions, tissue_region

TISSUE: dict[str, Any] = {
    "RegionSpatialFormat": 1,
    "RegionDataType": 1,
    "RegionFlags": 3,
    "RegionLocationMinX0": 27,
    "RegionLocationMinY0": 48,
    "RegionLocationMaxX1": 548,
    "RegionLocationMaxY1": 391,
    "PhysicalUnitsXDirection": 3,
    "PhysicalUnitsYDirection": 3,
    "PhysicalDeltaX": 0.06,
    "PhysicalDeltaY": 0.05,
}


def image(*regions: dict[str, Any], **attributes: Any) -> Dataset:
    dataset = Dataset()
    dataset.Rows, dataset.Columns = 456, 576
    dataset.SequenceOfUltrasoundRegions = [Dataset() for _ in regions]
    for item, values in zip(dataset.SequenceOfUltrasoundRegions, regions, strict=True):
        for keyword, value in values.items():
            if value is not None:
                setattr(item, keyword, value)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def reason(dataset: Dataset) -> str:
    with pytest.raises(RefusedSeriesError) as caught:
        tissue_region(dataset)
    assert str(caught.value)
    return caught.value.reason


def test_centimetres_become_millimetres() -> None:
    region = tissue_region(image(TISSUE))
    assert region.bounds == (48, 27, 391, 548)
    assert region.spacing_mm == pytest.approx((0.5, 0.6))
    assert region.directions == (1, 1)


@pytest.mark.parametrize(
    ("x", "y", "directions"), [(-0.06, 0.05, (1, -1)), (0.06, -0.05, (-1, 1)), (-0.06, -0.05, (-1, -1))]
)
def test_negative_delta_is_a_direction_and_no_size(x: float, y: float, directions: tuple[int, int]) -> None:
    region = tissue_region(image(TISSUE | {"PhysicalDeltaX": x, "PhysicalDeltaY": y}))
    assert region.spacing_mm == pytest.approx((0.5, 0.6))
    assert region.directions == directions


@pytest.mark.parametrize(
    ("expected", "change"),
    [
        ("doppler_region", {"RegionSpatialFormat": 3, "RegionDataType": 3}),
        ("doppler_region", {"RegionDataType": 2}),
        ("doppler_region", {"RegionSpatialFormat": 3, "RegionDataType": 4}),
        ("not_a_tissue_image", {"RegionSpatialFormat": 2}),
        ("not_a_tissue_image", {"RegionSpatialFormat": 0, "RegionDataType": 0}),
        ("not_a_tissue_image", {"RegionSpatialFormat": None}),
        ("wrong_physical_units", {"PhysicalUnitsXDirection": 4}),
        ("wrong_physical_units", {"PhysicalUnitsYDirection": 0}),
        ("wrong_physical_units", {"PhysicalUnitsYDirection": None}),
        ("bad_physical_delta", {"PhysicalDeltaX": 0.0}),
        ("bad_physical_delta", {"PhysicalDeltaY": math.nan}),
        ("bad_physical_delta", {"PhysicalDeltaY": None}),
        ("region_outside_image", {"RegionLocationMinX0": 600, "RegionLocationMaxX1": 700}),
        ("region_outside_image", {"RegionLocationMaxY1": None}),
    ],
)
def test_uncalibrated_regions(expected: str, change: dict[str, Any]) -> None:
    dataset = image(TISSUE | change)
    assert reason(dataset) == expected
    (region,) = read_regions(dataset)
    assert region.reason == expected
    assert region.spacing_mm is None


def test_no_region() -> None:
    assert reason(image()) == "no_ultrasound_region"
    assert reason(Dataset()) == "no_ultrasound_region"
    assert read_regions(Dataset()) == ()


def test_tissue_among_others() -> None:
    screen = TISSUE | {"RegionSpatialFormat": 0, "RegionDataType": 0}
    waveform = TISSUE | {"RegionSpatialFormat": 4, "RegionDataType": 10}
    assert tissue_region(image(screen, TISSUE, waveform)).bounds == (48, 27, 391, 548)
    # The reason is that of the tissue image, not of the screen around it.
    assert reason(image(screen, TISSUE | {"PhysicalUnitsXDirection": 0})) == "wrong_physical_units"


def test_two_images_side_by_side() -> None:
    assert reason(image(TISSUE, TISSUE | {"RegionLocationMinX0": 300})) == "several_tissue_regions"


def test_size_in_place_of_the_last_index() -> None:
    region = tissue_region(image(TISSUE | {"RegionLocationMaxX1": 576, "RegionLocationMaxY1": 456}))
    assert region.bounds == (48, 27, 455, 575)


def as_read(dataset: Dataset) -> Dataset:
    """The same header as a file gives it."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.3.1"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return parse(buffer.getvalue())


def test_from_a_file() -> None:
    read = as_read(image(TISSUE, NumberOfFrames=3, FrameTime="40.0"))
    region = tissue_region(read)
    assert region == UltrasoundRegion((48, 27, 391, 548), region.spacing_mm, (1, 1))
    assert region.spacing_mm == pytest.approx((0.5, 0.6))
    assert frame_times_ms(read) == (0.0, 40.0, 80.0)


# Most scanners write 0 before the first frame; in either case it says nothing.
@pytest.mark.parametrize("before_first", [0.0, 33.0])
def test_uneven_frame_times(before_first: float) -> None:
    read = as_read(image(NumberOfFrames=4, FrameTimeVector=[before_first, 33.0, 50.0, 33.0], FrameTime=20.0))
    assert frame_times_ms(read) == (0.0, 33.0, 83.0, 116.0)


@pytest.mark.parametrize(
    ("expected", "attributes"),
    [
        ("no_frame_time", {"NumberOfFrames": 4}),
        ("no_frame_time", {"NumberOfFrames": 4, "CineRate": 30}),
        ("bad_frame_time", {"NumberOfFrames": 4, "FrameTime": 0}),
        ("bad_frame_time", {"NumberOfFrames": 4, "FrameTime": -33}),
        ("bad_frame_time", {"NumberOfFrames": 4, "FrameTime": 33, "FrameTimeVector": [0, 33, 33]}),
        ("bad_frame_time", {"NumberOfFrames": 4, "FrameTime": 33, "FrameTimeVector": [0, 33, 0, 33]}),
        ("bad_frame_time", {"NumberOfFrames": 4, "FrameTime": 33, "FrameTimeVector": None}),
    ],
)
def test_bad_frame_times(expected: str, attributes: dict[str, Any]) -> None:
    with pytest.raises(RefusedSeriesError) as caught:
        frame_times_ms(as_read(image(**attributes)))
    assert caught.value.reason == expected


def test_single_frame() -> None:
    assert frame_times_ms(as_read(image(FrameTime=33.0))) == (0.0,)
