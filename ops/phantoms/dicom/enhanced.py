"""Enhanced MR objects: all stacks of a series as the frames of one instance (PS3.3 A.36)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from ops.phantoms.dicom.common import Identity, decimal_string
from ops.phantoms.study import SliceSeries, Stack
from ops.volume import Volume

# Functional group of the attributes that may tell stacks apart (PS3.3 C.7.6.16.2, C.8.13.5).
GROUPS = {
    "DiffusionBValue": "MRDiffusionSequence",
    "NominalCardiacTriggerDelayTime": "CardiacSynchronizationSequence",
}


# Functional groups that an original MR frame must have (PS3.3 A.36.3.4), as little as they must say.
ACQUISITION: dict[str, dict[str, Any]] = {
    "MRImageFrameTypeSequence": {
        "FrameType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        "PixelPresentation": "MONOCHROME",
        "VolumetricProperties": "VOLUME",
        "VolumeBasedCalculationTechnique": "NONE",
        "ComplexImageComponent": "MAGNITUDE",
        "AcquisitionContrast": "UNKNOWN",
    },
    "MRTimingAndRelatedParametersSequence": {
        "RepetitionTime": 25.0,
        "FlipAngle": 20.0,
        "EchoTrainLength": 1,
        "RFEchoTrainLength": 0,
        "GradientEchoTrainLength": 1,
    },
    "MRFOVGeometrySequence": {
        "InPlanePhaseEncodingDirection": "ROW",
        "MRAcquisitionFrequencyEncodingSteps": 256,
        "MRAcquisitionPhaseEncodingStepsInPlane": 256,
        "MRAcquisitionPhaseEncodingStepsOutOfPlane": 1,
        "PercentSampling": 100.0,
        "PercentPhaseFieldOfView": 100.0,
    },
    "MREchoSequence": {"EffectiveEchoTime": 4.0},
    "MRModifierSequence": {
        "InversionRecovery": "NO",
        "FlowCompensation": "NONE",
        "Spoiling": "NONE",
        "T2Preparation": "NO",
        "SpectrallySelectedExcitation": "NONE",
        "SpatialPresaturation": "NONE",
        "PartialFourier": "NO",
        "ParallelAcquisition": "NO",
    },
    "MRImagingModifierSequence": {
        "MagnetizationTransfer": "NONE",
        "BloodSignalNulling": "NO",
        "Tagging": "NONE",
        "TransmitterFrequency": 63.87,
        "PixelBandwidth": 200.0,
    },
    "MRReceiveCoilSequence": {
        "ReceiveCoilName": "PHANTOM",
        "ReceiveCoilManufacturerName": "",
        "ReceiveCoilType": "VOLUME",
        "QuadratureReceiveCoil": "YES",
    },
    "MRTransmitCoilSequence": {
        "TransmitCoilName": "PHANTOM",
        "TransmitCoilManufacturerName": "",
        "TransmitCoilType": "BODY",
    },
    "MRAveragesSequence": {"NumberOfAverages": 1.0},
}


def enhanced_series(ds: Dataset, series: SliceSeries, identity: Identity, number: int) -> None:
    """Fill ``ds`` (patient, study and series are there) with the frames of ``series``: stack by stack, slice by slice.

    Raises
    ------
    ValueError
        An attribute of a stack has no functional group here, or the stacks differ in grid, type or rescale.
    """
    first = series.stacks[0].volume
    _check_alike(series.stacks)
    ds.InstanceNumber = 1
    ds.ContentQualification, ds.BurnedInAnnotation, ds.LossyImageCompression = "RESEARCH", "NO", "00"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.PixelPresentation, ds.VolumetricProperties, ds.VolumeBasedCalculationTechnique = "MONOCHROME", "VOLUME", "NONE"
    ds.PresentationLUTShape = "IDENTITY"
    ds.AcquisitionContextSequence = []
    ds.AcquisitionDateTime = identity.date + identity.time
    ds.AcquisitionDuration = 1.0
    ds.AcquisitionNumber = 1
    _magnetic_resonance(ds)
    _dimensions(ds, identity, number)
    ds.SharedFunctionalGroupsSequence = [_shared(first)]
    ds.PerFrameFunctionalGroupsSequence = [
        _frame(stack, s, k, identity) for s, stack in enumerate(series.stacks) for k in range(first.grid.shape[0])
    ]
    _pixels(ds, series.stacks)


def _check_alike(stacks: tuple[Stack, ...]) -> None:
    first = stacks[0].volume
    for stack in stacks:
        volume = stack.volume
        same = (volume.voxels.dtype, volume.slope, volume.intercept) == (
            first.voxels.dtype,
            first.slope,
            first.intercept,
        )
        if not (same and volume.grid.matches(first.grid)):
            raise ValueError("the stacks of an enhanced series must agree in grid, pixel type and rescale")


def _item(**attributes: Any) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def _magnetic_resonance(ds: Dataset) -> None:
    """Enhanced MR Image and MR Pulse Sequence (PS3.3 C.8.13.1, C.8.13.4), as little as the standard asks for."""
    ds.ComplexImageComponent, ds.AcquisitionContrast = "MAGNITUDE", "UNKNOWN"
    ds.PulseSequenceName, ds.MRAcquisitionType, ds.EchoPulseSequence = "PHANTOM", "3D", "GRADIENT"
    ds.MultiPlanarExcitation, ds.PhaseContrast = "NO", "NO"
    ds.TimeOfFlightContrast, ds.SteadyStatePulseSequence = "NO", "NONE"
    ds.EchoPlanarPulseSequence, ds.SaturationRecovery, ds.SpectrallySelectedSuppression = "NO", "NO", "NONE"
    ds.OversamplingPhase, ds.GeometryOfKSpaceTraversal, ds.SegmentedKSpaceTraversal = "NONE", "RECTILINEAR", "SINGLE"
    ds.RectilinearPhaseEncodeReordering, ds.CoverageOfKSpace, ds.NumberOfKSpaceTrajectories = "LINEAR", "FULL", 1
    ds.ResonantNucleus, ds.KSpaceFiltering, ds.MagneticFieldStrength = "1H", "NONE", 1.5
    ds.ApplicableSafetyStandardAgency = "IEC"


def _dimensions(ds: Dataset, identity: Identity, number: int) -> None:
    organisation = identity.uid(number, "dimensions")
    ds.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=organisation)]
    ds.DimensionIndexSequence = [
        _item(
            DimensionOrganizationUID=organisation,
            DimensionIndexPointer=_tag(keyword),
            FunctionalGroupPointer=_tag("FrameContentSequence"),
        )
        for keyword in ("TemporalPositionIndex", "InStackPositionNumber")
    ]


def _tag(keyword: str) -> BaseTag:
    return Tag(tag_for_keyword(keyword) or 0)


def _shared(volume: Volume) -> Dataset:
    dz, dy, dx = volume.grid.spacing
    shared = _item(
        PixelMeasuresSequence=[
            _item(
                SliceThickness=decimal_string(dz),
                SpacingBetweenSlices=decimal_string(dz),
                PixelSpacing=[decimal_string(dy), decimal_string(dx)],
            )
        ],
        PlaneOrientationSequence=[
            _item(ImageOrientationPatient=[decimal_string(v) for v in volume.grid.directions[:, [2, 1]].T.ravel()])
        ],
        PixelValueTransformationSequence=[
            _item(
                RescaleIntercept=decimal_string(volume.intercept),
                RescaleSlope=decimal_string(volume.slope),
                RescaleType="US",
            )
        ],
        FrameVOILUTSequence=[_window(volume)],
        FrameAnatomySequence=[_item(FrameLaterality="U", AnatomicRegionSequence=[_region()])],
    )
    for sequence, attributes in ACQUISITION.items():
        setattr(shared, sequence, [_item(**attributes)])
    timing = shared.MRTimingAndRelatedParametersSequence[0]
    timing.OperatingModeSequence = [_item(OperatingModeType="STATIC FIELD", OperatingMode="IEC_NORMAL")]
    absorption = _item(SpecificAbsorptionRateDefinition="IEC_WHOLE_BODY", SpecificAbsorptionRateValue=0.1)
    timing.SpecificAbsorptionRateSequence = [absorption]
    return shared


def _window(volume: Volume) -> Dataset:
    low, high = (float(v) for v in np.percentile(volume.voxels.astype(np.float32), (1, 99)))
    low, high = low * volume.slope + volume.intercept, high * volume.slope + volume.intercept
    return _item(WindowCenter=decimal_string((low + high) / 2), WindowWidth=decimal_string(max(high - low, 1.0)))


def _region() -> Dataset:
    return _item(CodeValue="38266002", CodingSchemeDesignator="SCT", CodeMeaning="Entire body")


def _frame(stack: Stack, s: int, k: int, identity: Identity) -> Dataset:
    frame = _item(
        FrameContentSequence=[
            _item(
                StackID="1",
                InStackPositionNumber=k + 1,
                TemporalPositionIndex=s + 1,
                DimensionIndexValues=[s + 1, k + 1],
                FrameAcquisitionDateTime=identity.date + identity.time,
                FrameReferenceDateTime=identity.date + identity.time,
                FrameAcquisitionDuration=1.0,
            )
        ],
        PlanePositionSequence=[
            _item(ImagePositionPatient=[decimal_string(v) for v in stack.volume.grid.index_to_patient((k, 0, 0))])
        ],
    )
    _tell_apart(frame, stack.attributes)
    return frame


def _tell_apart(frame: Dataset, attributes: Mapping[str, Any]) -> None:
    for keyword, value in attributes.items():
        if keyword not in GROUPS:
            raise ValueError(f"no functional group is known for {keyword!r}; known: {sorted(GROUPS)}")
        group = _item(**{keyword: value})
        if keyword == "DiffusionBValue":
            group.DiffusionDirectionality = "ISOTROPIC" if value else "NONE"
        setattr(frame, GROUPS[keyword], [group])


def _pixels(ds: Dataset, stacks: tuple[Stack, ...]) -> None:
    voxels = np.concatenate([stack.volume.voxels for stack in stacks])
    if voxels.dtype.kind not in "iu" or voxels.dtype.itemsize != 2:
        raise ValueError(f"pixels of type {voxels.dtype} cannot be stored; integers of 16 bits can")
    ds.NumberOfFrames, ds.Rows, ds.Columns = voxels.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, int(voxels.dtype.kind == "i")
    ds.PixelData = voxels.astype(voxels.dtype.newbyteorder("<")).tobytes()
    ds["PixelData"].VR = "OW"
