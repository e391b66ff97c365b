"""A real pretrained network, converted, as a bundle through the whole engine: brain extraction of a real T1."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import conv3d

from ops.volume import Volume
from storage.releases import release_bundle
from storage.urls import Location
from tasks.case import Case, Recipe, Stores, Work
from tasks.infer import DEVICE_VARIABLE, open_predictor, segment_role
from tests.realdata.brainchop import DilatedConv, load_mindgrab, mindgrab_bundle
from tests.realdata.test_heart_territories import read

pytestmark = pytest.mark.realdata

BRAIN_CM3 = 1607  # what brainchop itself finds in this scan (README of the data)


@pytest.fixture(scope="module")
def folder(realdata: Path) -> Path:
    return realdata / "brainchop_mindgrab" / "model"


def t1(folder: Path) -> Volume:
    scan = read(folder.parent / "t1_crop.nii.gz")
    return Volume(scan.voxels, scan.grid, units="a.u.")


@pytest.mark.parametrize("dilation", [1, 2, 4, 8, 16])
def test_interleaved_convolution_is_the_dilated_one(dilation):
    torch.manual_seed(0)
    x, weight = torch.randn(1, 2, 16, 32, 16), torch.randn(3, 2, 3, 3, 3)
    expected = conv3d(x, weight, padding=dilation, dilation=dilation)
    torch.testing.assert_close(DilatedConv(weight, dilation)(x), expected, atol=1e-5, rtol=1e-5)


def test_the_exported_bundle_computes_what_the_module_does(folder: Path):
    bundle = mindgrab_bundle(folder, side=32)
    x = torch.rand(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = load_mindgrab(folder)(x)
    torch.testing.assert_close(open_predictor(bundle, "cpu").infer(x), expected, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(
    not (torch.cuda.is_available() or os.environ.get("POPSCAN_SLOW") == "true"),
    reason="4.9 TFLOP: minutes on a CPU; set POPSCAN_SLOW=true to run it there",
)
def test_a_real_brain_has_its_known_volume(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As a case meets it: the bundle released to a store, found by its digest, run by a stage."""
    if torch.cuda.is_available():
        monkeypatch.setenv(DEVICE_VARIABLE, "cuda:0")
    bundle, scan, models = mindgrab_bundle(folder), t1(folder), Location(str(tmp_path))
    release_bundle(bundle, models)
    recipe = Recipe("brain", "1", {}, (), {"mindgrab": bundle.digest})
    case = Case("c", "1.2", {"t1": "1.3"}, {}, {}, {}, recipe, Stores(models, models, models), "f")
    work = segment_role(Work(case, {"t1": scan}, {}), "t1", "mindgrab")
    labels = work.labels["mindgrab"]
    assert labels.grid.matches(scan.grid)
    volume = np.count_nonzero(labels.voxels) * scan.grid.voxel_volume / 1000
    print(f"\nbrain {volume:.2f} cm3, known {BRAIN_CM3} cm3, flags {work.flags}")
    assert volume == pytest.approx(BRAIN_CM3, rel=0.01)
