from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ops.diseases.coronary import measurement as coronary
from ops.diseases.coronary.measurement import CoronaryPolicy, measure
from ops.phantoms.heart.coronary_tree import Attenuation, Plaque, Vessel, lumen_labels, sample_vessel, scan_vessel
from ops.verdict import ResultStatus
from ops.volume import Grid, Volume

PLAQUE = Plaque(30.0, 12.0, 0.6, 1.2, 0.5, 1.0, "non_calcified")


def artery(*plaques: Plaque, name: str = "RCA") -> Vessel:
    return replace(sample_vessel(np.random.default_rng(2), name), plaques=plaques)


def scanned(vessel: Vessel, tissue: Attenuation | None = None) -> tuple[Volume, Volume]:
    image, labels = scan_vessel(vessel, tissue or Attenuation(), (0.5, 0.5, 0.5), np.random.default_rng(0))
    return image, lumen_labels(labels)


@pytest.fixture(scope="module")
def scan() -> tuple[Volume, Volume]:
    return scanned(artery(PLAQUE))


def test_stenosis_of_a_vessel(scan: tuple[Volume, Volume]) -> None:
    image, lumen = scan
    record = measure(image, "CT", 120, lumen=lumen, plaque=True, inputs=("1.2", "1.3"))
    assert record.status is ResultStatus.OK
    assert record["diameter_stenosis_RCA"] == pytest.approx(60, abs=4)
    assert record["lesion_position_RCA"] == pytest.approx(30, abs=2.5)
    assert record["lesions_RCA"] == 1
    assert record["kvp"] == 120
    assert record["lumen_attenuation"] == pytest.approx(400, abs=30)
    assert record.inputs == ("1.2", "1.3")
    assert record.policy == CoronaryPolicy().to_dict()
    # Three arteries were not segmented: none of them is free of disease by that.
    assert record.measurement("diameter_stenosis_LAD").reason == "empty_mask"
    assert record["diameter_stenosis_LM"] is None
    assert record["cad_rads"] == "3/N"
    assert coronary.MeasurementRecord.from_json(record.to_json()) == record


def test_a_healthy_vessel_has_no_stenosis_and_zero_is_a_finding() -> None:
    image, lumen = scanned(artery())
    record = measure(image, "CT", 120, lumen=lumen)
    assert record["diameter_stenosis_RCA"] == 0
    assert record["lesions_RCA"] == 0
    assert record["cad_rads"] == "N"


def test_ends_turn_the_vessel_round(scan: tuple[Volume, Volume]) -> None:
    image, lumen = scan
    vessel = artery(PLAQUE)
    ends = vessel.points[[-1, 0]]
    record = measure(image, "CT", 120, lumen=lumen, vessels={"RCA": ends})
    assert record["lesion_position_RCA"] == pytest.approx(vessel.arc[-1] - 30, abs=3)
    assert record["diameter_stenosis_RCA"] == pytest.approx(60, abs=4)


def test_smallest_diameter_policy_reads_more(scan: tuple[Volume, Volume]) -> None:
    image, lumen = scan
    by_area = measure(image, "CT", 120, lumen=lumen)["minimal_lumen_diameter_RCA"]
    by_chord = measure(image, "CT", 120, lumen=lumen, policy=CoronaryPolicy(diameter="smallest"))
    assert by_chord["minimal_lumen_diameter_RCA"] < by_area
    with pytest.raises(ValueError, match="area_equivalent"):
        CoronaryPolicy(diameter="largest")  # type: ignore[arg-type]


def test_calcium_beside_a_lesion_is_flagged(scan: tuple[Volume, Volume]) -> None:
    image, lumen = scan
    assert "calcium_blooming_rca" not in measure(image, "CT", 120, lumen=lumen).flags
    calcified = scanned(artery(replace(PLAQUE, kind="calcified")))
    assert "calcium_blooming_rca" in measure(calcified[0], "CT", 120, lumen=calcified[1]).flags


@pytest.mark.parametrize(
    ("hu", "flags"), [(240, {"lumen_enhancement_low"}), (400, set()), (660, {"lumen_enhancement_high"})]
)
def test_lumen_enhancement_is_flagged(hu: float, flags: set[str]) -> None:
    image, lumen = scanned(artery(PLAQUE), Attenuation(lumen=hu))
    assert {flag for flag in measure(image, "CT", 120, lumen=lumen).flags if "enhancement" in flag} == flags


def test_lumen_from_two_points() -> None:
    vessel = artery(PLAQUE)
    image, _ = scanned(vessel)
    record = measure(image, "CT", 120, vessels={"RCA": vessel.points[[4, -4]]})
    assert record["diameter_stenosis_RCA"] == pytest.approx(60, abs=12)
    assert record["lesion_position_RCA"] == pytest.approx(30, abs=3)
    assert "lumen_by_threshold" in record.flags
    # Calcium is not lumen: were it taken for it, the stenosis would read 0.
    image, _ = scanned(artery(replace(PLAQUE, kind="calcified")))
    calcified = measure(image, "CT", 120, vessels={"RCA": vessel.points[[4, -4]]})
    assert calcified["diameter_stenosis_RCA"] > 50


def test_a_gap_is_not_a_stenosis(scan: tuple[Volume, Volume]) -> None:
    image, lumen = scan
    vessel = artery(PLAQUE)
    broken = lumen.voxels.copy()
    at = np.round(lumen.grid.patient_to_index(vessel.points[60])).astype(int)
    broken[tuple(slice(a - 7, a + 7) for a in at)] = 0
    record = measure(image, "CT", 120, lumen=replace(lumen, voxels=broken))
    assert record.status is ResultStatus.NOT_EVALUABLE
    assert record.reason == "vessel_interrupted"


def test_left_main_and_lad_are_one_course(scan: tuple[Volume, Volume]) -> None:
    image, lumen = scan
    vessel = artery(PLAQUE)
    index = np.argwhere(lumen.voxels)
    position = ((lumen.grid.index_to_patient(index)[:, None] - vessel.points) ** 2).sum(axis=2).argmin(axis=1) * 0.5
    labels = lumen.voxels.copy()
    labels[tuple(index.T)] = np.where(position < 40, 1, 2)
    record = measure(image, "CT", 120, lumen=replace(lumen, voxels=labels))
    assert record["diameter_stenosis_LM"] == pytest.approx(60, abs=4)
    assert record["diameter_stenosis_LAD"] == 0
    assert record["cad_rads"] == "4B/N"
    lad = measure(image, "CT", 120, lumen=replace(lumen, voxels=np.where(lumen.voxels, 2, 0)))
    assert lad["diameter_stenosis_LAD"] == pytest.approx(60, abs=4)
    assert lad.measurement("diameter_stenosis_LM").reason == "artery_not_labelled"


def test_one_artery_cut_off_does_not_stop_the_others(scan: tuple[Volume, Volume]) -> None:
    image, lumen = scan
    labels = lumen.voxels.copy()
    labels[:, :2, :2] = 3
    record = measure(image, "CT", 120, lumen=replace(lumen, voxels=labels))
    assert record.measurement("diameter_stenosis_LCX").reason == "touches_border"
    assert record["diameter_stenosis_RCA"] == pytest.approx(60, abs=4)


def test_an_oblique_left_handed_grid_gives_the_same(scan: tuple[Volume, Volume]) -> None:
    image, lumen = scan
    turn = np.eye(4)
    turn[:3, :3] = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    grid = Grid(image.grid.shape, turn @ image.grid.affine)
    expected = measure(image, "CT", 120, lumen=lumen)
    found = measure(replace(image, grid=grid), "CT", 120, lumen=replace(lumen, grid=grid))
    for name in ("diameter_stenosis_RCA", "minimal_lumen_diameter_RCA", "lesion_position_RCA"):
        assert found[name] == pytest.approx(expected[name], rel=0.02)


def sheared(image: Volume, lumen: Volume) -> dict[str, Any]:
    affine = image.grid.affine.copy()
    affine[1, 0] += 0.2
    return {"image": replace(image, grid=Grid(image.grid.shape, affine))}


def with_nan(image: Volume, lumen: Volume) -> dict[str, Any]:
    voxels = image.physical()
    voxels[0, 0, 0] = np.nan
    return {"image": replace(image, voxels=voxels)}


def cut_off(image: Volume, lumen: Volume) -> dict[str, Any]:
    middle = int(np.median(np.argwhere(lumen.voxels)[:, 2]))
    box = (0, 0, 0), (*image.grid.shape[:2], middle)
    return {"image": image.crop(*box), "lumen": lumen.crop(*box)}


BAD: dict[str, Callable[[Volume, Volume], dict[str, Any]]] = {
    "wrong_modality": lambda image, lumen: {"modality": "MR"},
    "wrong_units": lambda image, lumen: {"image": replace(image, units="a.u.")},
    "gantry_tilt": sheared,
    "anisotropic": lambda image, lumen: {
        "image": replace(image, grid=Grid.from_spacing(image.grid.shape, (5.0, 0.5, 0.5)))
    },
    "not_finite": with_nan,
    "invalid_kvp": lambda image, lumen: {"kvp": float("nan")},
    "grid_mismatch": lambda image, lumen: {"lumen": lumen.crop((0, 0, 0), (9, 9, 9))},
    "not_a_label_map": lambda image, lumen: {"lumen": replace(lumen, units="HU")},
    "empty_mask": lambda image, lumen: {"lumen": replace(lumen, voxels=np.zeros_like(lumen.voxels))},
    "touches_border": cut_off,
    "no_vessel": lambda image, lumen: {"lumen": None},
    "unknown_vessel": lambda image, lumen: {"vessels": {"LIMA": [[0, 0, 0], [1, 1, 1]]}},
    "invalid_points": lambda image, lumen: {"vessels": {"RCA": [[0, 0, 0]]}},
    "seed_outside_image": lambda image, lumen: {"lumen": None, "vessels": {"RCA": [[0, 0, 900], [1, 1, 1]]}},
    "seed_outside_vessel": lambda image, lumen: {"vessels": {"RCA": [[0, 0, 0], [1, 1, 1]]}},
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_input_is_refused_with_a_reason(scan: tuple[Volume, Volume], reason: str) -> None:
    arguments = {"image": scan[0], "modality": "CT", "kvp": 120.0, "lumen": scan[1]} | BAD[reason](*scan)
    record = measure(**arguments)
    assert (record.status, record.reason) == (ResultStatus.NOT_EVALUABLE, reason)
    assert record.detail
    assert record.policy
