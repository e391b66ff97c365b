from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest

from ops.phantoms.chest.protocol import Protocol
from ops.phantoms.dicom.chest import dicom_series, dose_report
from ops.phantoms.dicom.common import Identity
from ops.phantoms.participant import sample_participant
from ops.volume import Grid, Volume
from tasks.simulate import REFUSALS, _kind, simulate_study, write_study, write_truth


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        total.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return total.hexdigest()


@pytest.mark.slow
def test_cohort_has_truth_for_its_studies_and_is_the_same_every_time(tmp_path: Path) -> None:
    truth = write_truth(tmp_path / "a", dict([simulate_study(tmp_path / "a", 0, 3)]))
    assert json.loads((tmp_path / "a" / "truth.json").read_text()) == truth
    (uid, study), *others = truth["studies"].items()
    assert not others
    assert set(study["agatston"]) == {"LM", "LAD", "LCX", "RCA", "total"}
    assert study["mass_mg"] == pytest.approx(sum(study["mass_mg_by_artery"][a] for a in ("LM", "LAD", "LCX", "RCA")))
    assert study["volume_mm3"] == study["volume_mm3_by_artery"]["total"]
    headers = [
        pydicom.dcmread(p, stop_before_pixels=True)
        for p in (tmp_path / "a").rglob("*")
        if p.is_file() and p.suffix != ".json"
    ]
    assert {h.StudyInstanceUID for h in headers} == {uid}
    axial = [h for h in headers if h.Modality == "CT" and "LOCALIZER" not in h.ImageType]
    z = np.sort([float(h.ImagePositionPatient[2]) for h in axial])
    assert len(z) >= 25
    np.testing.assert_allclose(np.diff(z), float(np.diff(z)[0]), atol=1e-4)
    assert simulate_study(tmp_path / "b", 0, 3) == (uid, study)
    (tmp_path / "a" / "truth.json").unlink()
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_screening_mix_is_mostly_gated_with_a_few_refusals() -> None:
    kinds = [_kind(np.random.default_rng(i)) for i in range(2000)]
    refused = sum(kind in REFUSALS for kind in kinds) / len(kinds)
    assert 0.05 < refused <= 0.15
    assert set(kinds) == {"gated", "non_gated", *REFUSALS}
    assert kinds.count("gated") > 0.7 * len(kinds)


def test_file_names_do_not_give_the_order_away(tmp_path: Path) -> None:
    grid = Grid.from_spacing((12, 8, 8), (3, 1, 1))
    identity = Identity("order", sample_participant(np.random.default_rng(0)))
    volume = Volume(np.zeros(grid.shape, dtype=np.int16), grid)
    images = [("S2", ds) for ds in dicom_series(volume, Protocol("Philips", matrix=8, fov=8.0), identity)]
    orders = set()
    for seed in range(4):
        write_study(tmp_path / str(seed), iter([*images, ("S9", dose_report(identity))]), np.random.default_rng(seed))
        files = sorted(p for p in (tmp_path / str(seed)).rglob("*") if p.is_file())
        assert len(files) == 13
        orders.add(tuple(int(pydicom.dcmread(p).InstanceNumber) for p in files))
    assert len(orders) == 4
    assert tuple(range(1, 13)) not in {order[:12] for order in orders}
