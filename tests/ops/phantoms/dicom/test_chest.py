from __future__ import annotations

import io

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.encaps import generate_frames
from pydicom.uid import ExplicitVRLittleEndian, HTJ2KLossless, ImplicitVRLittleEndian

from ops.phantoms.chest.protocol import VENDORS, Protocol
from ops.phantoms.dicom.chest import STYLES, TRANSFER_SYNTAXES, Encoding, dicom_series, dose_report, localiser
from ops.phantoms.dicom.common import Identity
from ops.phantoms.participant import sample_participant
from ops.volume import Grid, Volume

IDENTITY = Identity("test/1", sample_participant(np.random.default_rng(0)))
PLAIN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


@pytest.fixture(scope="module")
def volume() -> Volume:
    voxels = np.random.default_rng(0).integers(-1024, 3072, (3, 48, 64)).astype(np.int16)
    return Volume(voxels, Grid.from_spacing((3, 48, 64), (2.5, 0.4, 0.4), (-10.25, 20.5, -33.75)))


def reread(ds: pydicom.Dataset) -> pydicom.FileDataset:
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    return pydicom.dcmread(buffer)


def pixels(ds: pydicom.Dataset) -> np.ndarray:
    if ds.file_meta.TransferSyntaxUID == HTJ2KLossless:  # pydicom reads it only with a plugin
        return imagecodecs.htj2k_decode(next(generate_frames(ds.PixelData, number_of_frames=1)))
    return ds.pixel_array


@pytest.mark.parametrize(("syntax", "signed"), [(s, False) for s in TRANSFER_SYNTAXES] + [(s, True) for s in PLAIN])
def test_pixels_and_geometry_survive_every_transfer_syntax(
    volume: Volume, syntax: pydicom.uid.UID, signed: bool
) -> None:
    for k, written in enumerate(dicom_series(volume, Protocol("SIEMENS"), IDENTITY, Encoding(syntax, signed))):
        ds = reread(written)
        assert ds.file_meta.TransferSyntaxUID == syntax
        hu = pixels(ds).astype(np.int32) * int(ds.RescaleSlope) + int(ds.RescaleIntercept)
        np.testing.assert_array_equal(hu, volume.voxels[k])
        np.testing.assert_allclose(
            np.array(ds.ImagePositionPatient, dtype=float), volume.grid.index_to_patient((k, 0, 0))
        )
        assert [float(s) for s in ds.PixelSpacing] == [0.4, 0.4]
        assert ds.SOPInstanceUID.is_valid
        assert len(ds.SOPInstanceUID) <= 64


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("gated", [True, False])
def test_vendors_write_what_they_write(volume: Volume, vendor: str, gated: bool) -> None:
    protocol = Protocol(vendor, gated=gated, kvp=120)
    first, *rest = dicom_series(volume, protocol, IDENTITY)
    assert first.Manufacturer == vendor
    assert int(first.KVP) == 120
    assert first.ImageType[:2] == ["ORIGINAL", "PRIMARY"]
    assert STYLES[vendor].kernels["medium"][0] in str(first.ConvolutionKernel)
    tags = (
        "NominalPercentageOfCardiacPhase",
        "CardiacRRIntervalSpecified",
        "TriggerTime",
        "NominalCardiacTriggerDelayTime",
    )
    assert any(tag in first for tag in tags) is gated
    assert len({ds.SOPInstanceUID for ds in (first, *rest)}) == 3
    assert len({ds.SeriesInstanceUID for ds in (first, *rest)}) == 1


def test_uids_follow_from_the_key(volume: Volume) -> None:
    same = next(dicom_series(volume, Protocol("Philips"), Identity("test/1", IDENTITY.participant)))
    other = next(dicom_series(volume, Protocol("Philips"), Identity("test/2", IDENTITY.participant)))
    assert same.StudyInstanceUID == IDENTITY.study_uid != other.StudyInstanceUID


def test_every_model_is_one_scanner_in_one_place(volume: Volume) -> None:
    identities = [Identity(f"test/{n}", IDENTITY.participant) for n in range(40)]
    images = [next(dicom_series(volume, Protocol(vendor), one)) for one in identities for vendor in VENDORS]
    scanners = {(ds.ManufacturerModelName, ds.DeviceSerialNumber, ds.StationName, ds.InstitutionName) for ds in images}
    models = {model for style in STYLES.values() for model in style.models}
    assert {scanner[0] for scanner in scanners} == models
    assert len(scanners) == len({scanner[1] for scanner in scanners}) == len(models)
    assert {scanner[3] for scanner in scanners} == {f"Simulated Hospital {n}" for n in (1, 2, 3)}


def test_companions_are_not_the_series(volume: Volume) -> None:
    image = next(dicom_series(volume, Protocol("SIEMENS"), IDENTITY))
    scout, report = reread(localiser(volume, Protocol("SIEMENS"), IDENTITY)), reread(dose_report(IDENTITY))
    assert "LOCALIZER" in scout.ImageType
    assert scout.ImageOrientationPatient != image.ImageOrientationPatient
    assert report.Modality == "SR"
    assert "PixelData" not in report
    assert len({image.SeriesInstanceUID, scout.SeriesInstanceUID, report.SeriesInstanceUID}) == 3
    assert {image.StudyInstanceUID, scout.StudyInstanceUID, report.StudyInstanceUID} == {IDENTITY.study_uid}
