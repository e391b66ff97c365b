"""What may stay of a DICOM header: an allow-list of technical attributes, nothing that names a person or a place.

Everything not listed is dropped: names, identifiers, dates, institutions, staff, device serial numbers, private
elements (compare PS3.15 annex E, basic profile). Kept although the basic profile would clean them: descriptions,
because gating and protocol are told by them: parts of the patient's name and identifiers are cut out first. Ages above
89 are stated as 90 (HIPAA safe harbour, 45 CFR 164.514(b)(2)(i)(C)).

Scanner and site stay as pseudonyms, so that one scanner's drift can be told from another's: eight digits of a digest,
which point to no person. They are no secret from those who know what to look for: a list of candidate institutions can
be digested and compared. Who must not even disclose where a scan was made removes InstitutionName, DeviceSerialNumber
and StationName before the files arrive; the pseudonyms are absent then.
"""

from __future__ import annotations

import hashlib
import math
import re
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

KEPT_KEYWORDS = (
    "SOPClassUID", "Modality", "ImageType", "Manufacturer", "ManufacturerModelName", "SoftwareVersions",
    "BodyPartExamined", "PatientSex", "EthnicGroup", "PatientSize", "PatientWeight", "PatientPosition", "Laterality",
    "ScanOptions", "KVP", "XRayTubeCurrent", "Exposure", "ExposureTime", "ExposureModulationType", "CTDIvol",
    "FilterType", "FilterMaterial", "ConvolutionKernel", "ReconstructionDiameter", "DataCollectionDiameter",
    "GantryDetectorTilt", "TableHeight", "RotationDirection", "RevolutionTime", "SpiralPitchFactor",
    "SingleCollimationWidth", "TotalCollimationWidth", "SliceThickness", "SpacingBetweenSlices", "PixelSpacing",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "WindowCenter", "WindowWidth", "RescaleType", "Units",
    "DecayCorrection", "BurnedInAnnotation", "LossyImageCompression", "LossyImageCompressionRatio",
    "CardiacSynchronizationTechnique", "CardiacSignalSource", "CardiacRRIntervalSpecified", "CardiacNumberOfImages",
    "TriggerTime", "HeartRate", "NominalPercentageOfCardiacPhase", "RRIntervalTimeNominal", "LowRRValue",
    "HighRRValue", "IntervalsAcquired", "BeatRejectionFlag",
    "ContrastBolusAgent", "ContrastBolusRoute", "ContrastBolusVolume", "ContrastBolusIngredient",
    "MagneticFieldStrength", "EchoTime", "RepetitionTime", "InversionTime", "FlipAngle", "ScanningSequence",
    "SequenceVariant", "MRAcquisitionType", "SequenceName", "DiffusionBValue", "EchoTrainLength",
    "SeriesNumber", "AcquisitionNumber", "BitsStored", "PixelRepresentation",
)  # fmt: skip
DESCRIPTIONS = ("StudyDescription", "SeriesDescription", "ProtocolName")
OLDEST_STATED_AGE = 90
# Shorter fragments of a name ("Li", "Max") would blank technical words without protecting anyone.
_MIN_NAME_PART = 3
_MAX_TEXT = 256
# 32 bits: among a thousand scanners the chance that any two share a pseudonym is 0.01 %.
_PSEUDONYM_DIGITS = 8
_IDENTIFIERS = ("PatientID", "AccessionNumber", "StudyID", "PatientBirthDate", "OtherPatientIDs")
_NAMES = ("PatientName", "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "OtherPatientNames")
# Six digits in a row in a free text are a date or a number of a person or visit, not a technical value.
_LONG_NUMBER = re.compile(r"\d{6,}")


def deidentify(dataset: Dataset) -> dict[str, Any]:
    """Return the allowed attributes, keyword → text, number, or list of them; and who scanned, as pseudonyms.

    ``ScannerPseudonym``
        Of manufacturer, model and DeviceSerialNumber (else StationName); absent when neither is stated.
    ``SitePseudonym``
        Of InstitutionName, in whatever case and spacing; absent when it is not stated.

    Attributes that an enhanced multi-frame object keeps in its shared functional groups are looked up there.

    Parameters
    ----------
    dataset
        Header of one instance of a series.
    """
    datasets = [dataset, *_shared_groups(dataset)]
    header: dict[str, Any] = {}
    for keyword in KEPT_KEYWORDS:
        value = next((v for d in datasets if (v := _plain(_value(d, keyword))) is not None), None)
        if value is not None:
            header[keyword] = value
    for keyword in DESCRIPTIONS:
        if description := _plain(_value(dataset, keyword)):
            header[keyword] = _scrubbed(str(description), dataset)
    if age := _age(dataset):
        header["PatientAge"] = age
    return header | _pseudonyms(dataset)


def _pseudonyms(dataset: Dataset) -> dict[str, str]:
    device = _folded(dataset, "DeviceSerialNumber") or _folded(dataset, "StationName")
    scanner = [_folded(dataset, "Manufacturer"), _folded(dataset, "ManufacturerModelName"), device]
    site = _folded(dataset, "InstitutionName")
    named = {"ScannerPseudonym": "|".join(scanner) if device else "", "SitePseudonym": site}
    return {
        keyword: hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()[:_PSEUDONYM_DIGITS]
        for keyword, name in named.items()
        if name
    }


def _folded(dataset: Dataset, keyword: str) -> str:
    """Text of an element, so that differences of case and spacing do not matter; ``""`` when absent."""
    return " ".join(str(_plain(_value(dataset, keyword)) or "").casefold().split())


def _shared_groups(dataset: Dataset) -> list[Dataset]:
    """Items of the shared functional groups, one level deep: KVP, kernel and echo time live there."""
    found = []
    for shared in _value(dataset, "SharedFunctionalGroupsSequence") or []:
        for element in shared:
            if element.VR == "SQ" and not element.tag.is_private:
                found.extend(element.value)
    return found


def _value(dataset: Dataset, keyword: str) -> Any:
    """Value of an element; None when absent or unreadable."""
    try:
        return dataset.get(keyword)
    except Exception:  # pydicom converts on access, and a damaged value may raise anything
        return None


def _plain(value: Any) -> Any:
    """JSON-able form; None for what is empty, not finite, or no text or number."""
    if isinstance(value, MultiValue | list | tuple):
        parts = [_plain(part) for part in value]
        return parts if parts and None not in parts else None
    if isinstance(value, bool | bytes) or value is None:
        return None
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) or hasattr(value, "original_string"):
        return float(value) if math.isfinite(float(value)) else None
    if isinstance(value, str):
        return value.strip(" \0")[:_MAX_TEXT] or None
    return None


def _scrubbed(description: str, dataset: Dataset) -> str:
    """Cut parts of names, identifiers and long numbers out of a description."""
    names = [part for keyword in _NAMES for part in re.split(r"[\W_]+", str(_value(dataset, keyword) or ""))]
    secrets = [*names, *(str(_value(dataset, keyword) or "") for keyword in _IDENTIFIERS)]
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) >= _MIN_NAME_PART:
            description = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "*", description, flags=re.IGNORECASE)
    return _LONG_NUMBER.sub("*", description)


def _age(dataset: Dataset) -> str:
    """PatientAge (VR AS), from the birth date when it is not stated; ``""`` when unknown."""
    stated = str(_value(dataset, "PatientAge") or "").strip()
    if re.fullmatch(r"\d{3}[DWM]", stated):
        return stated
    years = int(stated[:-1]) if re.fullmatch(r"\d{1,3}Y", stated) else _years_between(dataset)
    return "" if years is None else f"{min(years, OLDEST_STATED_AGE):03d}Y"


def _years_between(dataset: Dataset) -> int | None:
    birth, study = (str(_value(dataset, keyword) or "") for keyword in ("PatientBirthDate", "StudyDate"))
    if not (re.fullmatch(r"\d{8}", birth) and re.fullmatch(r"\d{8}", study)) or study < birth:
        return None
    return int(study[:4]) - int(birth[:4]) - (study[4:] < birth[4:])
