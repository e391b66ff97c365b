"""A `SimulatedStudy` as DICOM datasets: CT and MR slices, enhanced MR, ultrasound clips, radiographs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import singledispatch
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from ops.phantoms.dicom.common import Identity, common_attributes, decimal_string, file_meta
from ops.phantoms.dicom.enhanced import enhanced_series
from ops.phantoms.study import Radiograph, SimulatedStudy, SliceSeries, UltrasoundClip
from ops.volume import Volume

MANUFACTURER, MODEL = "Popscan", "Phantom"
CENTIMETRES = 3  # PhysicalUnitsXDirection, PS3.3 C.8.5.5.1.15
TISSUE = 1  # RegionDataType, PS3.3 C.8.5.5.1.14
TWO_DIMENSIONAL = 1  # RegionSpatialFormat, PS3.3 C.8.5.5.1.13


def study_datasets(study: SimulatedStudy, identity: Identity) -> Iterator[tuple[str, Dataset]]:
    """Folder name (``S1``, ``S2`` …) and dataset of every instance, one series of the study after another."""
    for number, series in enumerate(study.series, start=1):
        for dataset in _series_datasets(series, identity, number):
            dataset.StudyDescription = study.description
            dataset.SeriesDescription = series.description
            yield f"S{number}", dataset


@singledispatch
def _series_datasets(series: object, identity: Identity, number: int) -> Iterator[Dataset]:
    raise TypeError(f"no DICOM object for a {type(series).__name__}")


@_series_datasets.register
def _(series: SliceSeries, identity: Identity, number: int) -> Iterator[Dataset]:
    if series.encoding == "classic":
        yield from _classic(series, identity, number)
        return
    if series.modality != "MR":
        raise ValueError(f"{series.role}: only MR is written as an enhanced object, got {series.modality}")
    ds = _header(identity, series.modality, EnhancedMRImageStorage, number)
    del ds.Laterality
    enhanced_series(ds, series, identity, number)
    _set_attributes(ds, series.attributes)
    yield _finish(ds, identity, number, 0)


def _classic(series: SliceSeries, identity: Identity, number: int) -> Iterator[Dataset]:
    sop_class = CTImageStorage if series.modality == "CT" else MRImageStorage
    instance = 0
    for acquisition, stack in enumerate(series.stacks, start=1):
        for k in range(stack.volume.grid.shape[0]):
            ds = _header(identity, series.modality, sop_class, number)
            ds.AcquisitionNumber = acquisition
            ds.InstanceNumber = instance + 1
            _place(ds, stack.volume, k)
            _modality_attributes(ds, series.modality)
            _set_attributes(ds, {**series.attributes, **stack.attributes})
            _keep_consistent(ds)
            yield _finish(ds, identity, number, instance)
            instance += 1


@_series_datasets.register
def _(clip: UltrasoundClip, identity: Identity, number: int) -> Iterator[Dataset]:
    ds = _header(identity, "US", UltrasoundMultiFrameImageStorage, number)
    del ds.FrameOfReferenceUID, ds.PositionReferenceIndicator
    ds.ImageType = ["ORIGINAL", "PRIMARY", "", "0001"]
    ds.InstanceNumber = 1
    ds.PatientOrientation = ""
    ds.NumberOfFrames = len(clip.frames)
    ds.FrameTime = decimal_string(clip.frame_time_ms)
    ds.FrameIncrementPointer = tag_for_keyword("FrameTime")
    ds.LossyImageCompression = "00"
    top, left, bottom, right = clip.region
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = TWO_DIMENSIONAL, TISSUE, 0
    region.RegionLocationMinX0, region.RegionLocationMinY0 = left, top
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = right, bottom
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = CENTIMETRES
    region.PhysicalDeltaY, region.PhysicalDeltaX = (step / 10 for step in clip.spacing_mm)
    ds.SequenceOfUltrasoundRegions = [region]
    _pixels(ds, clip.frames)
    yield _finish(ds, identity, number, 0)


@_series_datasets.register
def _(image: Radiograph, identity: Identity, number: int) -> Iterator[Dataset]:
    ds = _header(identity, "DX", DigitalXRayImageStorageForPresentation, number)
    del ds.FrameOfReferenceUID, ds.PositionReferenceIndicator, ds.Laterality
    ds.ImageType = ["ORIGINAL", "PRIMARY", ""]
    ds.InstanceNumber = 1
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.BodyPartExamined = image.body_part
    ds.AnatomicRegionSequence = [_REGIONS[image.body_part]]
    ds.ImageLaterality, ds.ViewPosition = image.laterality, image.view
    ds.PatientOrientation = list(image.orientation)
    ds.PositionerType = "NONE"
    ds.ImagerPixelSpacing = [decimal_string(step) for step in image.spacing_mm]
    ds.DetectorType, ds.DetectorID = "DIRECT", "PHANTOM"
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    ds.PresentationLUTShape = "IDENTITY"
    ds.BurnedInAnnotation, ds.LossyImageCompression = "NO", "00"
    ds.AcquisitionContextSequence = []
    low, high = (float(value) for value in np.percentile(image.pixels, (1, 99)))
    ds.WindowCenter, ds.WindowWidth = decimal_string((low + high) / 2), decimal_string(max(high - low, 1.0))
    _pixels(ds, image.pixels)
    yield _finish(ds, identity, number, 0)


def _header(identity: Identity, modality: str, sop_class: UID, number: int) -> Dataset:
    ds = common_attributes(identity, modality, sop_class, number)
    ds.Manufacturer, ds.ManufacturerModelName = MANUFACTURER, MODEL
    ds.DeviceSerialNumber, ds.SoftwareVersions = "1", "1"
    ds.InstitutionName, ds.StationName = "Simulated Hospital", "PHANTOM"
    ds.FrameOfReferenceUID = identity.uid("frame")
    ds.PositionReferenceIndicator = ""
    ds.PatientPosition = "HFS"
    ds.Laterality = ""
    return ds


def _finish(ds: Dataset, identity: Identity, number: int, instance: int) -> Dataset:
    ds.SOPInstanceUID = identity.uid(number, "instance", instance)
    ds.file_meta = file_meta(ds.SOPClassUID, ds.SOPInstanceUID, ExplicitVRLittleEndian)
    return ds


def _keep_consistent(ds: Dataset) -> None:
    """Adapt what depends on the attributes that a series brings (PS3.3 C.7.3.1, C.8.3.1)."""
    if "BodyPartExamined" in ds:
        del ds.Laterality
    if "TriggerTime" in ds:
        ds.ScanOptions = "CG"
    if "InversionTime" in ds:
        ds.ScanningSequence = ["GR", "IR"]


def _set_attributes(ds: Dataset, attributes: Mapping[str, Any]) -> None:
    for keyword, value in attributes.items():
        if tag_for_keyword(keyword) is None:
            raise ValueError(f"{keyword!r} is no DICOM keyword")
        setattr(ds, keyword, value)


def _place(ds: Dataset, volume: Volume, k: int) -> None:
    """Geometry and pixels of slice ``k``; any orientation."""
    dz, dy, dx = volume.grid.spacing
    ds.ImagePositionPatient = [decimal_string(v) for v in volume.grid.index_to_patient((k, 0, 0))]
    ds.ImageOrientationPatient = [decimal_string(v) for v in volume.grid.directions[:, [2, 1]].T.ravel()]
    ds.PixelSpacing = [decimal_string(dy), decimal_string(dx)]
    ds.SliceThickness = decimal_string(dz)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL" if ds.Modality == "CT" else "M"]
    if ds.Modality == "CT" or (volume.slope, volume.intercept) != (1.0, 0.0):
        ds.RescaleIntercept, ds.RescaleSlope = decimal_string(volume.intercept), decimal_string(volume.slope)
        ds.RescaleType = "HU" if ds.Modality == "CT" else "US"
    _pixels(ds, volume.voxels[k])


def _modality_attributes(ds: Dataset, modality: str) -> None:
    """Set what the classic CT and MR modules require (PS3.3 C.8.2.1, C.8.3.1); a series overwrites what it knows."""
    if modality == "CT":
        ds.KVP = "120"
        return
    ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions = "GR", "NONE", ""
    ds.MRAcquisitionType, ds.RepetitionTime, ds.EchoTime, ds.EchoTrainLength = "2D", "", "", "1"
    ds.MagneticFieldStrength = "1.5"


def _pixels(ds: Dataset, pixels: npt.NDArray[np.generic]) -> None:
    """Store 8- or 16-bit integers ``(rows, columns)`` or ``(frames, rows, columns)`` as they are."""
    if pixels.dtype.kind not in "iu" or pixels.dtype.itemsize > 2:
        raise ValueError(f"pixels of type {pixels.dtype} cannot be stored; integers of 8 or 16 bits can")
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape[-2:]
    ds.BitsAllocated = ds.BitsStored = 8 * pixels.dtype.itemsize
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    ds["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item


# PS3.16 Annex L.
_REGIONS = {"WRIST": _code("74670003", "Wrist joint"), "HIP": _code("24136001", "Hip joint")}
