"""What every simulated DICOM object carries: who and when, and the file meta information."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID

from ops.phantoms.participant import Participant

IMPLEMENTATION = "2.25.318862135463452398174059623917645920317"


@dataclass(frozen=True)
class Identity:
    """Who and when; every UID follows from ``key``.

    Attributes
    ----------
    key
        Any string that names the study; same key, same UIDs.
    participant
        Age and sex in the header come from here.
    date, time
        DICOM DA and TM.
    """

    key: str
    participant: Participant
    date: str = "20260115"
    time: str = "101500"

    def uid(self, *parts: object) -> UID:
        """Deterministic UID under 2.25 for a part of this study."""
        text = "/".join([self.key, *map(str, parts)])
        return UID("2.25." + str(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")))

    @property
    def study_uid(self) -> UID:
        """StudyInstanceUID."""
        return self.uid("study")


def file_meta(sop_class: UID, instance: UID, transfer_syntax: UID) -> FileMetaDataset:
    """File meta information of an object written by the simulator."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = instance
    meta.TransferSyntaxUID = transfer_syntax
    meta.ImplementationClassUID = UID(IMPLEMENTATION)
    meta.ImplementationVersionName = "POPSCAN_PHANTOM"
    return meta


def common_attributes(identity: Identity, modality: str, sop_class: UID, number: int) -> Dataset:
    """Patient, study and series attributes; ``number`` is SeriesNumber and part of the series' UIDs."""
    person = identity.participant
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID = sop_class
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = ds.AcquisitionDate = identity.date
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = ds.AcquisitionTime = identity.time
    code = hashlib.sha256(identity.key.encode()).hexdigest()[:8].upper()
    ds.AccessionNumber = "A" + code
    ds.Modality = modality
    ds.PatientName = f"Phantom^{code}"
    ds.PatientID = "P" + code
    ds.PatientBirthDate = f"{int(identity.date[:4]) - person.age:04d}0101"
    ds.PatientSex = person.sex
    ds.PatientAge = f"{person.age:03d}Y"
    ds.PatientSize = f"{person.height:.2f}"
    ds.PatientWeight = f"{person.bmi * person.height**2:.1f}"
    ds.ReferringPhysicianName = ""
    ds.StudyID = code
    ds.StudyInstanceUID = identity.study_uid
    ds.SeriesInstanceUID = identity.uid(number, "series")
    ds.SeriesNumber = number
    return ds


def decimal_string(value: float) -> str:
    """Return a value as DICOM DS, to a millionth."""
    return f"{value:.6f}".rstrip("0").rstrip(".")
