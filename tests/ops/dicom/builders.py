"""Small DICOM series made in memory, valid unless a test breaks them on purpose."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from ops.dicom.geometry import Assessment, assess
from ops.dicom.headers import read_header
from ops.dicom.series import SeriesHeaders, group_into_series

STUDY_UID = "1.2.826.0.1.1"
SERIES_UID = "1.2.826.0.1.1.2"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

Change = Callable[[int, Dataset], None]


def pixels(number: int, shape: tuple[int, int] = (6, 5)) -> np.ndarray:
    """Values that tell every slice, row and column apart."""
    return (1000 * number + np.arange(shape[0] * shape[1]).reshape(shape)).astype(np.int16)


def instance(number: int, spacing: float = 2.0, change: Change | None = None) -> Dataset:
    """CT slice ``number`` at z = number · spacing."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{SERIES_UID}.{number + 1}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = STUDY_UID, SERIES_UID
    dataset.FrameOfReferenceUID = "1.2.826.0.1.9"
    dataset.Modality, dataset.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "Doe^Jane", "MRN12345", "19290304"
    dataset.StudyDate, dataset.InstitutionName, dataset.PatientSex = "20240301", "General Hospital", "F"
    dataset.SeriesNumber, dataset.InstanceNumber, dataset.AcquisitionNumber = 3, number + 1, 1
    dataset.KVP, dataset.SliceThickness, dataset.ConvolutionKernel = 120, spacing, "Qr36"
    dataset.ImagePositionPatient = [-10.0, -20.0, spacing * number]
    dataset.ImageOrientationPatient = list(AXIAL)
    dataset.PixelSpacing = [0.5, 0.7]
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    set_pixels(dataset, pixels(number))
    if change is not None:
        change(number, dataset)
    return dataset


def set_pixels(dataset: Dataset, array: np.ndarray) -> None:
    """Store ``array`` uncompressed."""
    dataset.Rows, dataset.Columns = array.shape[-2:]
    dataset.PixelData = array.tobytes()


def to_bytes(dataset: Dataset) -> bytes:
    """Write as a DICOM file."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def files(count: int = 4, change: Change | None = None, **options: float) -> dict[str, bytes]:
    """Name → bytes of a series of ``count`` slices."""
    return {f"/in/{n:03d}.dcm": to_bytes(instance(n, change=change, **options)) for n in range(count)}


def group(sources: dict[str, bytes] | Iterable[tuple[str, bytes]]) -> list[SeriesHeaders]:
    """Read and group."""
    return group_into_series(read_header(data, name) for name, data in dict(sources).items())


def only(sources: dict[str, bytes]) -> tuple[SeriesHeaders, Assessment]:
    """Read, group and judge what must be one series."""
    (series,) = group(sources)
    return series, assess(series)


def setting(**values: object) -> Change:
    """Set the same attributes in every slice; None deletes."""

    def change(_number: int, dataset: Dataset) -> None:
        for keyword, value in values.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)

    return change
