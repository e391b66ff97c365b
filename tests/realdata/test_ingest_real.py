"""Real series of many vendors: the verdict on each, and voxels and geometry against truth made by others."""

from __future__ import annotations

import json
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest

from ops.verdict import VerdictStatus
from ops.volume import FloatArray, Volume
from storage.ledger import Ledger
from storage.urls import Location
from storage.volumes import VolumeStore
from tasks.ingest import IngestCounts, ingest_paths

pytestmark = [pytest.mark.realdata, pytest.mark.filterwarnings("ignore:The DICOM readers:DeprecationWarning")]

# LPS (DICOM) to RAS (NIfTI): x and y change sign.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Ingested:
    """What became of some folders of real data."""

    def __init__(self, root: Path, *folders: Path) -> None:
        self.ledger = Ledger(root / "ledger.sqlite")
        self.volumes = VolumeStore(Location(str(root / "volumes")))
        self.counts: IngestCounts = ingest_paths(folders, self.ledger, self.volumes)

    def outcomes(self) -> set[tuple[VerdictStatus, str]]:
        return {(verdict.status, verdict.reason) for verdict in self.ledger.verdicts("ingest")}

    def volume(self) -> Volume:
        (key,) = self.volumes.keys()
        return self.volumes.open(key).read()


@pytest.fixture
def ingest(tmp_path: Path, realdata: Path) -> Iterator[object]:
    opened: list[Ingested] = []

    def run(*folders: str) -> Ingested:
        opened.append(Ingested(tmp_path, *[realdata / folder for folder in folders]))
        return opened[-1]

    yield run
    for one in opened:
        one.ledger.close()


def ras_affine_ijk(volume: Volume) -> FloatArray:
    """Affine of NIfTI's index order (i, j, k) to RAS mm."""
    order = np.eye(4)[:, [2, 1, 0, 3]]
    return LPS_TO_RAS @ volume.grid.affine @ order


def assert_same_image(volume: Volume, nifti: nibabel.Nifti1Image, tolerance: float = 0.0) -> None:
    """Compare in patient space: voxel centres and values, whatever way each array is stored."""
    values = np.asarray(nifti.dataobj, dtype=np.float64)
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    ours = ras_affine_ijk(volume)
    to_theirs = np.linalg.inv(nifti.affine) @ ours
    axes = np.abs(to_theirs[:3, :3]).argmax(axis=0)
    flips = [bool(to_theirs[axis, column] < 0) for column, axis in enumerate(axes)]
    mapped = np.moveaxis(values, axes, (0, 1, 2))
    mapped = mapped[tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)]
    np.testing.assert_allclose(mapped.transpose(2, 1, 0), volume.physical(np.float64), rtol=1e-5, atol=tolerance)
    nk, nj, ni = volume.grid.shape
    corners = np.array([[i, j, k, 1] for i in (0, ni - 1) for j in (0, nj - 1) for k in (0, nk - 1)]).T
    theirs = np.rint(to_theirs @ corners)
    np.testing.assert_allclose((nifti.affine @ theirs)[:3], (ours @ corners)[:3], atol=0.02)


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("dicom2nifti/failing/gantrytilting", "gantry_tilt"),
        ("dicom2nifti/failing/notavolume", "duplicate_slices"),
        ("dicom2nifti/failing/slicecount", "too_few_slices"),
        ("dicom2nifti/failing/sliceincrement/001", "missing_slices"),
        ("dicom2nifti/failing/sliceincrement/002", "gantry_tilt"),
        ("dicom2nifti/failing/sliceorientation", "mixed_orientation"),
        ("dicom2nifti/generic/rgb", "secondary_capture"),
        ("dicom2nifti/ge/fmri/001", "duplicate_slices"),
        ("dicom2nifti/ge/dti/002", "duplicate_slices"),
        ("dicom2nifti/philips_enhanced/fmri", "multiple_volumes"),
        ("dicom2nifti/philips_enhanced/dti", "multiple_volumes"),
        ("dcm_qa_ct_GE_head", "gantry_tilt"),
        ("us_xa/DIRW0007.dcm", "colour_image"),
        ("us_xa/XA_HasFragmentSequence.dcm", "projection_image"),
        ("dcmqi/data/sr-example", "not_an_image"),
    ],
)
def test_refusals(ingest, folder: str, reason: str) -> None:
    done = ingest(folder)
    assert done.outcomes() == {(VerdictStatus.REFUSED, reason)}
    assert done.volumes.keys() == []


def test_trunk_ct_in_jpeg2000_without_uids(ingest) -> None:
    done = ingest("totalseg/example_ct_dicom")
    assert done.outcomes() == {(VerdictStatus.REPAIRED, "derived_uids")}
    volume = done.volume()
    assert volume.grid.shape == (20, 512, 512)
    np.testing.assert_allclose(volume.grid.spacing, (2.0, 0.9765625, 0.9765625))
    np.testing.assert_allclose(volume.grid.origin, (-249.51171875, -437.51171875, -804.5))
    hounsfield = volume.physical()
    assert hounsfield.min() == -1024
    body = hounsfield[:, 200:300, 200:300]
    assert -150 < np.median(body) < 150
    assert ingest("totalseg/example_ct_dicom").counts.unchanged == 1


def test_phantom_is_exactly_its_nifti_twin(ingest, realdata: Path) -> None:
    done = ingest("ibsi/ibsi_1_ct_radiomics_phantom/dicom")
    (twin,) = (realdata / "ibsi/ibsi_1_ct_radiomics_phantom/nifti/image").glob("*.nii*")
    assert_same_image(done.volume(), nibabel.load(twin))


@pytest.mark.parametrize("modality", ["CT", "MR_T1", "PET"])
@pytest.mark.parametrize("patient", ["STS_008", "STS_025", "STS_042"])
def test_patients_are_their_nifti_twins(ingest, realdata: Path, patient: str, modality: str) -> None:
    done = ingest(f"ibsi/ibsi_validation/dicom/{patient}/{modality}/image")
    (twin,) = [
        path
        for path in (realdata / "ibsi/ibsi_validation/nifti" / patient).glob("*.nii*")
        if modality in path.name and "mask" not in path.name.lower()
    ]
    # Per-slice rescale of PET ends as float32 in both.
    assert_same_image(done.volume(), nibabel.load(twin), tolerance=1e-3 if modality == "PET" else 0.0)


@pytest.fixture(scope="module")
def dcm2niix() -> str:
    found = shutil.which("dcm2niix", path=sysconfig.get_path("scripts")) or shutil.which("dcm2niix")
    if found is None:
        pytest.skip("no dcm2niix program: pip install dcm2niix")
    return found


@pytest.mark.parametrize(
    "folder",
    [
        "dicom2nifti/anatomical/001",
        "dicom2nifti/anatomical/001_implicit",
        "dicom2nifti/ge/anatomical/001",
        "dicom2nifti/generic/anatomical/001",
        "dicom2nifti/generic/compressed/001",
        "dicom2nifti/generic/compressed_jpeg/001",
        "dicom2nifti/generic/compressed_jpegls/001",
        "dicom2nifti/generic/compressed_rle/001",
        "dicom2nifti/hitachi/anatomical/001",
        "dicom2nifti/hyperfine/anatomical/001",
        "dicom2nifti/philips_enhanced/anatomical/001",
        "dicom2nifti/philips_enhanced/anatomical/001_implicit",
        "dicom2nifti/siemens_multiframe/anatomical/001",
        "dcmqi/data/segmentations/ct-3slice",
        "totalseg/example_ct_dicom",
    ],
)
def test_values_and_geometry_agree_with_dcm2niix(
    ingest, realdata: Path, tmp_path: Path, dcm2niix: str, folder: str
) -> None:
    out = tmp_path / "nifti"
    out.mkdir()
    command = [dcm2niix, "-b", "n", "-z", "n", "-p", "n", "-o", str(out), str(realdata / folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    (converted,) = out.glob("*.nii")
    assert_same_image(ingest(folder).volume(), nibabel.load(converted), tolerance=0.02)


def test_every_slice_keeps_its_own_rescale(ingest, realdata: Path) -> None:
    """The slopes of this MR differ slice by slice; dcm2niix takes the first for all, pydicom does not."""
    from pydicom import dcmread
    from pydicom.pixels import apply_rescale

    folder = "dicom2nifti/generic/anatomical/002_non_isotropic"
    slices = sorted(map(dcmread, (realdata / folder).iterdir()), key=lambda one: one.InstanceNumber)
    expected = [apply_rescale(one.pixel_array, one) for one in slices]
    np.testing.assert_allclose(ingest(folder).volume().physical(), expected, rtol=1e-6)


def test_malformed_files_neither_crash_nor_get_lost(ingest, realdata: Path) -> None:
    done = ingest("fuzz_v3")
    cases = json.loads((realdata / "fuzz_v3/manifest.json").read_text())["total_cases"]
    counts = done.counts.to_dict()
    assert counts["instances"] + counts["rejected_files"] == cases + 1  # and the valid one they were made from
    # One CT slice without any position: whatever can be read of it, no volume comes of it.
    assert done.volumes.keys() == []
    in_series = sum(record.n_instances for record in done.ledger.series())
    assert 0 < in_series <= counts["instances"]


def test_everything_at_once(ingest, realdata: Path) -> None:
    done = ingest(".")
    counts = done.counts.to_dict()
    assert counts["files"] == counts["instances"] + counts["not_dicom"] + counts["rejected_files"]
    assert counts["series"]["accepted"] + counts["series"]["repaired"] == len(done.volumes.keys())
    assert len(done.volumes.keys()) >= 25
    assert not any("ingest" in reason or "unknown" in reason for _, reason in done.outcomes())
