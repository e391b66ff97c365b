"""The bundle that ships, on real CT: it must not find a whole heart where there is none."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from ops.inference.inferer import WindowInferer
from ops.inference.locate import HeartLocation, heart_verdict, locate_territories
from ops.inference.onnx import OnnxPredictor
from ops.inference.sliding_window import Tiling
from ops.phantoms.labels import TERRITORY_LABELS
from ops.volume import Grid, Volume
from storage.models import list_bundles, load_bundle
from tasks.infer import network_contract

pytestmark = pytest.mark.realdata

# RAS millimetres of NIfTI to LPS, and (i, j, k) index order to (k, j, i).
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
REVERSED = [2, 1, 0, 3]

WITHOUT_HEART = [
    "totalseg/example_ct.nii.gz",  # abdomen and pelvis up to the lung bases
    "totalseg/ct_brain_atlas_1mm.nii.gz",
    "niivue/CT_AVM.nii.gz",  # head, CT angiography
    "ibsi/ibsi_validation/nifti/STS_008/CT_image.nii.gz",  # thighs and hips
    "ibsi/ibsi_validation/nifti/STS_025/CT_image.nii.gz",
    "ibsi/ibsi_validation/nifti/STS_042/CT_image.nii.gz",
]


def read(path: Path) -> Volume:
    image = nibabel.load(path)
    voxels = np.asarray(image.dataobj).T.astype(np.float32)
    return Volume(voxels, Grid(voxels.shape, (LPS @ image.affine)[:, REVERSED]))


@pytest.fixture(scope="module")
def locate():
    (folder,) = [path for path in list_bundles() if path.name.startswith("heart-territories-")]
    bundle = load_bundle(folder)
    contract = network_contract(bundle.manifest)
    network = WindowInferer(OnnxPredictor(bundle.weights, threads=1), Tiling(contract.patch_shape))
    return lambda volume: locate_territories(volume, network, contract)


@pytest.mark.parametrize("name", WITHOUT_HEART)
def test_no_heart_where_there_is_none(name, realdata, locate):
    _, location = locate(read(realdata / name))
    assert isinstance(location, HeartLocation)
    assert heart_verdict(location).reason == "heart_not_found"


def test_half_a_chest_shows_a_truncated_heart(realdata, locate):
    """The right half of a contrast-enhanced chest CT with a tumour beside the heart."""
    path = realdata / "ibsi/ibsi_1_ct_radiomics_phantom/nifti/image/phantom.nii.gz"
    territories, location = locate(read(path))
    assert heart_verdict(location).reason == "heart_truncated"
    assert {"left", "anterior"} & set(location.cut_faces)
    assert (territories.voxels == TERRITORY_LABELS["aorta"]).sum() * 0.027 > 40  # mL


def test_the_aorta_of_an_abdomen_lies_on_its_label(realdata, locate):
    """TotalSegmentator's own label map of the same scan (class 52), itself a model's output."""
    territories, _ = locate(read(realdata / "totalseg/example_ct.nii.gz"))
    reference = read(realdata / "totalseg/example_seg_fast_force_split.nii.gz").voxels.astype(int) == 52
    found = territories.voxels == TERRITORY_LABELS["aorta"]
    # read() gives the NIfTI axes (z up, y to the front, x to the right); territories are canonical.
    reference = reference[:, ::-1, ::-1]
    assert found.shape == reference.shape
    assert (found & reference).sum() / reference.sum() > 0.75
    assert 2 * (found & reference).sum() / (found.sum() + reference.sum()) > 0.65
