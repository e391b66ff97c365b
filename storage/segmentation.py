"""Label volumes as DICOM Segmentation objects that lie exactly on the images they describe."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Self

import highdicom as hd
import numpy as np
from highdicom.sr.coding import CodedConcept
from pydicom import Dataset
from pydicom.config import disable_value_validation
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from ops.volume import Grid, Volume

MANUFACTURER = "Popscan"

# SNOMED CT codes of SPEC §14 and of CID 7150 (category) and 7162 (algorithm family); all of them are in the
# PS3.16 dictionary that pydicom 3.0.2 ships.
MORPHOLOGIC_ABNORMALITY = CodedConcept("49755003", "SCT", "Morphologically Abnormal Structure")
PATHOLOGIC_CALCIFICATION = CodedConcept("18115005", "SCT", "Pathologic calcification")
CORONARY_ARTERIES = {
    "LM": CodedConcept("3227004", "SCT", "Left main coronary artery"),
    "LAD": CodedConcept("59438005", "SCT", "Left anterior descending coronary artery"),
    "LCX": CodedConcept("57396003", "SCT", "Circumflex coronary artery"),
    "RCA": CodedConcept("13647002", "SCT", "Right coronary artery"),
}

# What the header of a stored volume must hold for a SEG to refer to its images, in the order of `SourceSeries`.
# ``SOPInstanceUIDs`` is no DICOM keyword: one SOPInstanceUID per slice in order of k.
SOURCE_KEYWORDS = (
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "SOPClassUID",
    "Modality",
    "SOPInstanceUIDs",
)

# Series number of what Popscan adds to a study; scanners number their own from 1.
SERIES_NUMBER = 9001


@dataclass(frozen=True)
class Segment:
    """What one label value means.

    Attributes
    ----------
    name
        Shown to a person.
    category, kind
        Segmented property category and type.
    region
        Anatomic region it lies in.
    """

    name: str
    category: CodedConcept
    kind: CodedConcept
    region: CodedConcept


# Label values 1 LM, 2 LAD, 3 LCX, 4 RCA, in this order.
CORONARY_CALCIUM = tuple(
    Segment(f"{artery} calcium", MORPHOLOGIC_ABNORMALITY, PATHOLOGIC_CALCIFICATION, region)
    for artery, region in CORONARY_ARTERIES.items()
)


@dataclass(frozen=True)
class SourceSeries:
    """The series a segmentation was derived from.

    Attributes
    ----------
    grid
        Of the whole series.
    sop_instance_uids
        One per slice, in order of k.
    """

    study_uid: str
    series_uid: str
    frame_of_reference_uid: str
    sop_class_uid: str
    modality: str
    grid: Grid
    sop_instance_uids: Sequence[str]

    @classmethod
    def from_header(cls, header: Mapping[str, Any], grid: Grid) -> Self:
        """Take what is needed from the header stored with a volume on ``grid``.

        Raises
        ------
        ValueError
            The header lacks one of `SOURCE_KEYWORDS`, or the source is a multi-frame object.
        """
        missing = [keyword for keyword in SOURCE_KEYWORDS if not header.get(keyword)]
        if missing:
            raise ValueError(f"the stored header has no {', '.join(missing)}; ingest the series again")
        study, series, frame_of_reference, sop_class, modality, instances = (header[key] for key in SOURCE_KEYWORDS)
        if len(set(instances)) < len(instances):
            raise ValueError(f"series {series} is multi-frame; only single-frame sources are supported")
        return cls(study, series, frame_of_reference, sop_class, modality, grid, instances)


def segmentation(labels: Volume, segments: Sequence[Segment], source: SourceSeries, fingerprint: str) -> Dataset:
    """Make a binary DICOM SEG of ``labels``, one segment per label value.

    Parameters
    ----------
    labels
        uint8 ``(z, y, x)``; 0 is background, value n means ``segments[n - 1]``. On the source's grid or any
        crop of it: its own grid says where it lies (LPS mm).
    segments
        Meaning of the label values 1, 2, …
    source
        The images, for the references.
    fingerprint
        Of the result this belongs to. The object's UIDs follow from it, so that the same result published
        twice is the same object.

    Returns
    -------
    pydicom.Dataset
        Valid and complete; `encode` gives its bytes.

    Raises
    ------
    ValueError
        No voxel is labelled (an empty mask is not published), a label has no segment, the grid is sheared, or
        the source does not have one instance per slice.
    """
    _check(labels, segments, source)
    grid = labels.grid
    placed = hd.Volume(
        labels.voxels,
        affine=grid.affine,
        coordinate_system="PATIENT",
        frame_of_reference_uid=source.frame_of_reference_uid,
    )
    entropy = [source.series_uid, fingerprint]
    # A reference must say what the image says, and real images have UIDs that are not valid.
    with disable_value_validation():
        return hd.seg.Segmentation(
            source_images=_source_images(source),
            pixel_array=placed,
            segmentation_type="BINARY",
            segment_descriptions=[_description(number, segment) for number, segment in enumerate(segments, start=1)],
            series_instance_uid=generate_uid(entropy_srcs=[*entropy, "series"]),
            series_number=SERIES_NUMBER,
            sop_instance_uid=generate_uid(entropy_srcs=[*entropy, "instance"]),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=MANUFACTURER,
            software_versions=_version(),
            device_serial_number=fingerprint[:16],
            transfer_syntax_uid=ExplicitVRLittleEndian,
            content_label="SEGMENTATION",
            series_description="Popscan segmentation (research use)",
        )


def encode(dataset: Dataset) -> bytes:
    """Return ``dataset`` as the bytes of a DICOM file."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _check(labels: Volume, segments: Sequence[Segment], source: SourceSeries) -> None:
    if labels.voxels.dtype != np.uint8:
        raise ValueError(f"labels must be uint8, got {labels.voxels.dtype}")
    highest = int(labels.voxels.max())
    if highest == 0:
        raise ValueError("no voxel is labelled: an empty segmentation is not published")
    if highest > len(segments):
        raise ValueError(f"label {highest} has no segment: {len(segments)} are described")
    if not labels.grid.is_orthogonal:
        raise ValueError("labels lie on a sheared grid (gantry tilt), which a DICOM SEG volume cannot hold")
    if len(source.sop_instance_uids) != source.grid.shape[0]:
        raise ValueError(
            f"series {source.series_uid}: {len(source.sop_instance_uids)} instances for {source.grid.shape[0]} slices"
        )


def _description(number: int, segment: Segment) -> Any:
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.name,
        segmented_property_category=segment.category,
        segmented_property_type=segment.kind,
        anatomic_regions=[segment.region],
        algorithm_type="AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=MANUFACTURER, version=_version(), family=CodedConcept("123110", "DCM", "Artificial Intelligence")
        ),
    )


def _source_images(source: SourceSeries) -> list[Dataset]:
    """Headers of the source, one per slice: what highdicom copies and refers to. Patient attributes stay empty."""
    grid = source.grid
    down, right = grid.directions[:, 1], grid.directions[:, 2]  # patient directions of increasing j, i
    dz, dy, dx = grid.spacing
    images = []
    for k, sop_instance_uid in enumerate(source.sop_instance_uids):
        image = Dataset()
        image.SOPClassUID, image.SOPInstanceUID = source.sop_class_uid, UID(sop_instance_uid)
        image.StudyInstanceUID, image.SeriesInstanceUID = source.study_uid, source.series_uid
        image.FrameOfReferenceUID, image.Modality = source.frame_of_reference_uid, source.modality
        image.PatientID = image.PatientName = image.PatientBirthDate = image.PatientSex = ""
        image.StudyDate = image.StudyTime = image.StudyID = image.AccessionNumber = image.ReferringPhysicianName = ""
        image.PositionReferenceIndicator = None
        image.Rows, image.Columns = grid.shape[1:]
        image.ImageOrientationPatient = [_decimal(value) for value in (*right, *down)]
        image.ImagePositionPatient = [_decimal(value) for value in grid.index_to_patient((k, 0, 0))]
        image.PixelSpacing = [_decimal(dy), _decimal(dx)]
        image.SliceThickness = _decimal(dz)
        images.append(image)
    return images


def _decimal(value: float) -> str:
    """DICOM decimal string: at most 16 characters."""
    return f"{value:.10g}"


def _version() -> str:
    try:
        return metadata.version("popscan")
    except metadata.PackageNotFoundError:  # run from a checkout that was not installed
        return "unreleased"
