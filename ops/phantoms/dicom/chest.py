"""Simulated scans as DICOM datasets, written the way the four large CT vendors write theirs.

Nothing here touches files: every function returns pydicom datasets with their file meta information.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    XRayRadiationDoseSRStorage,
)

from ops.phantoms.chest.protocol import Protocol
from ops.phantoms.dicom.common import Identity, common_attributes, decimal_string, file_meta
from ops.volume import Volume

Encoder = Callable[[npt.NDArray[np.generic]], bytes]


@dataclass(frozen=True)
class VendorStyle:
    """How one vendor names things."""

    manufacturer: str
    models: tuple[str, ...]
    kernels: dict[str, tuple[str, ...]]
    gated_description: str
    chest_description: str
    gated_protocol: str
    scan_options: dict[bool, str]
    image_type: dict[bool, tuple[str, ...]]
    software: str


STYLES = {
    "SIEMENS": VendorStyle(
        "SIEMENS",
        ("SOMATOM Definition Flash", "SOMATOM Force", "SOMATOM go.Top"),
        {"soft": ("B31f",), "medium": ("Qr36d", "2"), "sharp": ("B60f",)},
        "CaScSeq {t:.1f} {k} 70%",
        "Thorax {t:.1f} {k}",
        "CaScoreSeq",
        {True: "", False: ""},
        {
            True: ("ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SEQ"),
            False: ("ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"),
        },
        "syngo CT VA48A",
    ),
    "GE MEDICAL SYSTEMS": VendorStyle(
        "GE MEDICAL SYSTEMS",
        ("LightSpeed VCT", "Revolution CT", "Discovery CT750 HD"),
        {"soft": ("SOFT",), "medium": ("STANDARD",), "sharp": ("LUNG",)},
        "SMARTSCORE {t:.2f}mm",
        "CHEST {t:.2f} {k}",
        "5.1 SMARTSCORE - GATED 0.35 SEC",
        {True: "CINE MODE", False: "HELICAL MODE"},
        {True: ("ORIGINAL", "PRIMARY", "AXIAL"), False: ("ORIGINAL", "PRIMARY", "AXIAL")},
        "vct_2.8.1",
    ),
    "Philips": VendorStyle(
        "Philips",
        ("iCT 256", "Brilliance 64", "Ingenuity CT"),
        {"soft": ("A",), "medium": ("XCB",), "sharp": ("L",)},
        "CALCIUM SCORING {t:.1f}",
        "THORAX {t:.1f} {k}",
        "Calcium Scoring/Cardiac",
        {True: "AXIAL", False: "HELIX"},
        {True: ("ORIGINAL", "PRIMARY", "AXIAL"), False: ("ORIGINAL", "PRIMARY", "AXIAL", "HELIX")},
        "4.1.6.XX0",
    ),
    "Canon Medical Systems": VendorStyle(
        "Canon Medical Systems",
        ("Aquilion ONE", "Aquilion Prime SP"),
        {"soft": ("FC08",), "medium": ("FC12",), "sharp": ("FC52",)},
        "CaScore {t:.1f} Vol.",
        "Chest {t:.1f} {k}",
        "Calcium Score Volume",
        {True: "DVOLUME_CT", False: "HELICAL_CT"},
        {True: ("ORIGINAL", "PRIMARY", "AXIAL"), False: ("ORIGINAL", "PRIMARY", "AXIAL")},
        "V8.4",
    ),
}


def _jpeg2000(pixels: npt.NDArray[np.generic]) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True, level=0))


def _htj2k(pixels: npt.NDArray[np.generic]) -> bytes:
    return bytes(imagecodecs.htj2k_encode(pixels, reversible=True))


def _jpegls(pixels: npt.NDArray[np.generic]) -> bytes:
    return bytes(imagecodecs.jpegls_encode(pixels))


COMPRESSED: dict[UID, Encoder] = {JPEG2000Lossless: _jpeg2000, HTJ2KLossless: _htj2k, JPEGLSLossless: _jpegls}
TRANSFER_SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    JPEGLSLossless,
    JPEG2000Lossless,
    HTJ2KLossless,
)


@dataclass(frozen=True)
class Encoding:
    """How pixels are stored: transfer syntax, and signed HU or unsigned HU + 1024."""

    transfer_syntax: UID = ExplicitVRLittleEndian
    signed: bool = True

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Encoding:
        """Mostly uncompressed; compressed pixels are unsigned, as archives usually hold them."""
        syntax = TRANSFER_SYNTAXES[int(rng.choice(len(TRANSFER_SYNTAXES), p=[0.5, 0.2, 0.06, 0.1, 0.07, 0.07]))]
        plain = syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
        return cls(syntax, bool(plain and rng.uniform() < 0.5))


def dicom_series(
    volume: Volume, protocol: Protocol, identity: Identity, encoding: Encoding | None = None, number: int = 2
) -> Iterator[Dataset]:
    """One CT Image Storage dataset per slice, feet to head, instance numbers from the head as scanners count.

    Parameters
    ----------
    volume
        HU, int16, axis-aligned.
    number
        SeriesNumber; also distinguishes the series' UIDs within the study.
    """
    encoding = Encoding() if encoding is None else encoding
    style = STYLES[protocol.vendor]
    count = volume.grid.shape[0]
    for k in range(count):
        ds = _header(style, protocol, identity, number)
        _place(ds, volume, k, count - k)
        ds.SOPInstanceUID = identity.uid(number, "instance", k)
        ds.file_meta = file_meta(CTImageStorage, ds.SOPInstanceUID, encoding.transfer_syntax)
        ds.SliceThickness = f"{protocol.thickness:g}"
        _pixels(ds, volume.voxels[k], encoding)
        yield ds


def _header(style: VendorStyle, protocol: Protocol, identity: Identity, number: int) -> Dataset:
    ds = common_attributes(identity, "CT", CTImageStorage, number)
    kernel = style.kernels[protocol.kernel]
    description = style.gated_description if protocol.gated else style.chest_description
    ds.ImageType = list(style.image_type[protocol.gated])
    ds.Manufacturer = style.manufacturer
    _scanner(ds, style, identity)
    ds.StudyDescription = "CT Heart Calcium Score" if protocol.gated else "CT Chest wo contrast"
    ds.SeriesDescription = description.format(t=protocol.thickness, k=kernel[0]) + (" CE" if protocol.contrast else "")
    ds.ProtocolName = style.gated_protocol if protocol.gated else "Chest routine"
    ds.BodyPartExamined = "HEART" if protocol.gated and style.manufacturer == "SIEMENS" else "CHEST"
    ds.SoftwareVersions = style.software
    ds.KVP = str(protocol.kvp)
    if protocol.tin_filter:
        ds.FilterMaterial = ["ALUMINUM", "TIN"]
        ds.ProtocolName = "Sn100 CaScore"
    ds.DataCollectionDiameter = "500"
    ds.ReconstructionDiameter = f"{protocol.fov:g}"
    ds.ConvolutionKernel = list(kernel) if len(kernel) > 1 else kernel[0]
    if style.scan_options[protocol.gated]:
        ds.ScanOptions = style.scan_options[protocol.gated]
    ds.PatientPosition = "FFS" if style.manufacturer.startswith("GE") and protocol.gated else "HFS"
    ds.GantryDetectorTilt = "0"
    ds.ExposureTime, ds.XRayTubeCurrent, ds.Exposure = "280", "180", "30"
    if protocol.gated:
        _gating(ds, style, identity)
    if protocol.contrast:
        ds.ContrastBolusAgent = "APPLIED"
    ds.FrameOfReferenceUID = identity.uid("frame")
    ds.PositionReferenceIndicator = ""
    ds.AcquisitionNumber = 1
    return ds


def _scanner(ds: Dataset, style: VendorStyle, identity: Identity) -> None:
    """One scanner of each model, and a hospital for the first, the second … of every vendor."""
    number = int(identity.uid("model")[-2:]) % len(style.models)
    serial = int.from_bytes(hashlib.sha256(style.models[number].encode()).digest()[:2], "big")
    ds.ManufacturerModelName = style.models[number]
    ds.InstitutionName = f"Simulated Hospital {number + 1}"
    ds.StationName = f"CT{serial % 100:02d}"
    ds.DeviceSerialNumber = f"{serial:05d}"


def _gating(ds: Dataset, style: VendorStyle, identity: Identity) -> None:
    """Cardiac synchronisation attributes as each vendor leaves them (standard tags only)."""
    beats = 52 + int(identity.uid("pulse")[-2:]) % 30
    if style.manufacturer == "SIEMENS":
        ds.ImageComments = "Diastolic 70 %"
        ds.NominalPercentageOfCardiacPhase = 70.0
    elif style.manufacturer.startswith("GE"):
        ds.HeartRate = str(beats)
        ds.CardiacRRIntervalSpecified = [75.0]
    elif style.manufacturer == "Philips":
        ds.HeartRate = str(beats)
        ds.TriggerTime = f"{0.75 * 60000 / beats:.1f}"
    else:
        ds.NominalCardiacTriggerDelayTime = round(0.75 * 60000 / beats, 1)
        ds.HeartRate = str(beats)


def _place(ds: Dataset, volume: Volume, k: int, instance: int) -> None:
    x, y, z = volume.grid.index_to_patient((k, 0, 0))
    _, dy, dx = volume.grid.spacing
    ds.ImagePositionPatient = [decimal_string(x), decimal_string(y), decimal_string(z)]
    ds.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    ds.SliceLocation = decimal_string(z)
    ds.InstanceNumber = instance
    ds.PixelSpacing = [decimal_string(dy), decimal_string(dx)]


def _pixels(ds: Dataset, hu: npt.NDArray[np.generic], encoding: Encoding) -> None:
    """Store one slice of HU; the rescale undoes the offset of unsigned storage."""
    intercept = 0 if encoding.signed else -1024
    stored = (hu.astype(np.int32) - intercept).astype("<i2" if encoding.signed else "<u2")
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated = 16
    packed = encoding.transfer_syntax in COMPRESSED
    ds.BitsStored = 16 if encoding.signed or packed else 12
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(encoding.signed)
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = str(intercept), "1", "HU"
    ds.WindowCenter, ds.WindowWidth = "50", "400"
    if packed:
        ds.PixelData = encapsulate([COMPRESSED[encoding.transfer_syntax](stored)])
    elif encoding.transfer_syntax == RLELossless:
        ds.compress(RLELossless, stored, encoding_plugin="pydicom", generate_instance_uid=False)
    else:
        ds.PixelData = stored.tobytes()
    ds["PixelData"].VR = "OW"
    ds["PixelData"].is_undefined_length = packed or encoding.transfer_syntax == RLELossless


def localiser(volume: Volume, protocol: Protocol, identity: Identity, number: int = 1) -> Dataset:
    """Frontal scout: the mean of the volume from front to back, marked LOCALIZER."""
    style = STYLES[protocol.vendor]
    ds = _header(style, protocol, identity, number)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    ds.SeriesDescription = "Topogram" if style.manufacturer == "SIEMENS" else "Scout"
    ds.SliceThickness = "0.6"
    dz, _, dx = volume.grid.spacing
    x, y, z = volume.grid.index_to_patient((volume.grid.shape[0] - 1, 0, 0))
    ds.ImagePositionPatient = [decimal_string(x), decimal_string(y), decimal_string(z)]
    ds.ImageOrientationPatient = ["1", "0", "0", "0", "0", "-1"]
    ds.InstanceNumber = 1
    ds.PixelSpacing = [decimal_string(dz), decimal_string(dx)]
    ds.SOPInstanceUID = identity.uid(number, "instance", 0)
    ds.file_meta = file_meta(CTImageStorage, ds.SOPInstanceUID, ExplicitVRLittleEndian)
    _pixels(ds, volume.voxels.astype(np.int32).mean(axis=1)[::-1].astype(np.int16), Encoding())
    return ds


def dose_report(identity: Identity, number: int = 999) -> Dataset:
    """Write a minimal X-Ray Radiation Dose SR: a series without pixels beside the images."""
    ds = common_attributes(identity, "SR", XRayRadiationDoseSRStorage, number)
    ds.Manufacturer = "Simulated"
    ds.SeriesDescription = "Dose Report"
    ds.InstanceNumber = 1
    ds.CompletionFlag, ds.VerificationFlag = "COMPLETE", "UNVERIFIED"
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    title = Dataset()
    title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning = "113701", "DCM", "X-Ray Radiation Dose Report"
    ds.ConceptNameCodeSequence = [title]
    ds.SOPInstanceUID = identity.uid(number, "instance", 0)
    ds.file_meta = file_meta(XRayRadiationDoseSRStorage, ds.SOPInstanceUID, ExplicitVRLittleEndian)
    return ds
