"""Measuring one scan: which calcium counts, which scan is refused, and what is reported for each."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.diseases.calcium.measurement import CalciumPolicy, measure
from ops.diseases.calcium.scan import Gating, ScanFacts
from ops.diseases.calcium.scores import ScorePolicy
from ops.measure.record import MeasurementRecord
from ops.phantoms.labels import TERRITORY_LABELS
from ops.verdict import ResultStatus, Verdict, VerdictStatus
from ops.volume import Grid, Volume

ACCEPTED = Verdict(VerdictStatus.ACCEPTED)
GATED = ScanFacts(120.0, Gating.GATED, age=60, sex="M", ethnicity="white")
SPACING = (3.0, 0.5, 0.5)
SHAPE = (50, 240, 240)
# Corner of the scan in patient space, so that nothing depends on an origin of zero.
ORIGIN = (-55.0, -70.0, 200.0)
# Centres of the territories, mm from that corner as (x, y, z); each is a rod of 12 mm along z.
PLACES = {"LM": (60.0, 40.0, 60.0), "LAD": (80.0, 40.0, 60.0), "LCX": (80.0, 80.0, 60.0), "RCA": (30.0, 50.0, 60.0)}


def label_map() -> Volume:
    """A ball of heart with four artery rods, an aorta, a valve and a bone on a coarse oblique-free 2.5 mm grid."""
    grid = Grid.from_spacing((64, 52, 52), (2.5, 2.5, 2.5), (ORIGIN[0] - 4, ORIGIN[1] - 4, ORIGIN[2] - 4))
    k, j, i = np.indices(grid.shape)
    x, y, z = np.moveaxis(grid.index_to_patient(np.stack([k, j, i], axis=-1)), -1, 0)
    x, y, z = x - ORIGIN[0], y - ORIGIN[1], z - ORIGIN[2]
    labels = np.zeros(grid.shape, dtype=np.uint8)
    labels[(x - 60) ** 2 + (y - 60) ** 2 + (z - 70) ** 2 < 50**2] = TERRITORY_LABELS["heart"]
    labels[(abs(x - 45) < 8) & (abs(y - 55) < 8) & (abs(z - 60) < 30)] = TERRITORY_LABELS["aorta"]
    labels[(abs(x - 60) < 8) & (abs(y - 65) < 8) & (abs(z - 60) < 8)] = TERRITORY_LABELS["valve"]
    labels[(abs(x - 60) < 12) & (y < 8)] = TERRITORY_LABELS["bone"]
    for name, (cx, cy, cz) in PLACES.items():
        labels[((x - cx) ** 2 + (y - cy) ** 2 < 6**2) & (abs(z - cz) < 12)] = TERRITORY_LABELS[name]
    return Volume(labels, grid, "label")


TERRITORIES = label_map()


def scan(*lesions: tuple[tuple[float, float, float], int], background: int = 40) -> Volume:
    """Unenhanced blood everywhere with lesions of 4×4 pixels (4 mm²) in one slice at (x, y, z) mm from the corner."""
    voxels = np.full(SHAPE, background, dtype=np.int16)
    for (x, y, z), hu in lesions:
        k, j, i = round(z / SPACING[0]), round(y / SPACING[1]), round(x / SPACING[2])
        voxels[k, j - 2 : j + 2, i - 2 : i + 2] = hu
    return Volume(voxels, Grid.from_spacing(SHAPE, SPACING, ORIGIN))


def run(volume: Volume, facts: ScanFacts = GATED, heart: Verdict = ACCEPTED, **policy: object) -> MeasurementRecord:
    return measure(volume, TERRITORIES, heart, facts, CalciumPolicy(**policy))[0]


def lesions(volume: Volume, **policy: object) -> Volume | None:
    return measure(volume, TERRITORIES, ACCEPTED, GATED, CalciumPolicy(**policy))[1]


def values(result: MeasurementRecord) -> dict[str, float | str | None]:
    return {measurement.name: measurement.value for measurement in result.measurements}


def scores(result: MeasurementRecord) -> dict[str, float | str | None]:
    found = values(result)
    return {name: found[f"agatston_{name}"] for name in ("LM", "LAD", "LCX", "RCA", "total")}


@pytest.mark.parametrize("artery", PLACES)
def test_calcium_counts_in_its_own_artery(artery: str) -> None:
    result = run(scan((PLACES[artery], 250)))
    assert result.status is ResultStatus.OK
    expected = {name: 8.0 if name in (artery, "total") else 0.0 for name in scores(result)}
    assert scores(result) == expected
    assert values(result)["volume_mm3"] == values(result)[f"volume_mm3_{artery}"] == 12.0


def test_no_calcium_is_a_finding_of_zero() -> None:
    result = run(scan())
    assert result.status is ResultStatus.OK
    assert set(scores(result).values()) == {0.0}
    found = values(result)
    assert (found["category"], found["cac_drs"], found["calcified_vessels"]) == ("0", "CAC-DRS A0/N0", 0)
    assert found["arterial_age"] == pytest.approx(39.1)
    assert (found["mesa_percentile_bucket"], found["mesa_probability_nonzero"]) == ("<25", "0.50-0.75")
    assert lesions(scan()) is None


@pytest.mark.parametrize(
    "place",
    [
        (45.0, 55.0, 60.0),  # aorta
        (60.0, 65.0, 60.0),  # valve
        (60.0, 4.0, 60.0),  # bone
        (60.0, 95.0, 60.0),  # heart, far from any artery
        (110.0, 110.0, 60.0),  # outside the heart
    ],
)
def test_other_calcium_does_not_count(place: tuple[float, float, float]) -> None:
    result = run(scan((place, 450)))
    assert scores(result)["total"] == 0.0


def test_a_near_miss_counts_up_to_the_tolerance() -> None:
    x, y, z = PLACES["LAD"]
    near, far = (x, y - 7.0, z), (x, y - 12.0, z)
    assert scores(run(scan((near, 250))))["LAD"] == 8.0
    assert scores(run(scan((far, 250))))["LAD"] == 0.0
    assert scores(run(scan((near, 250)), territory_tolerance_mm=0.5))["LAD"] == 0.0


def test_a_lesion_from_the_aortic_wall_into_an_artery_is_ostial() -> None:
    volume = scan()
    # RCA territory ends at x = 36, the aorta begins at 37: half of the lesion in each.
    k, j = 20, 100
    volume.voxels[k, j - 2 : j + 2, 67:80] = 300
    assert scores(run(volume))["RCA"] == pytest.approx(4 * 13 * 0.25 * 3)
    volume.voxels[k, j - 2 : j + 2, 67:104] = 300  # now most of it lies deep in the aorta
    assert scores(run(volume))["RCA"] == 0.0


def test_a_huge_lesion_is_neither_counted_nor_zero() -> None:
    volume = scan()
    x, y, _ = (round(c / 0.5) for c in PLACES["LAD"])
    volume.voxels[16:25, y - 8 : y + 8, x - 8 : x + 8] = 500
    assert scores(run(volume))["LAD"] > 0
    limited = run(volume, max_lesion_mm3=500.0)
    assert (limited.status, limited.reason) == (ResultStatus.NOT_EVALUABLE, "large_lesion")
    assert "agatston_total" not in values(limited)


def test_a_lesion_that_runs_out_of_its_territory_stays_with_its_artery() -> None:
    volume = scan()
    x, y, _ = (round(c / 0.5) for c in PLACES["RCA"])
    volume.voxels[10:22, y - 2 : y + 2, x - 2 : x + 2] = 300  # z 30…63 mm; the RCA's territory begins at 48 mm
    found = scores(run(volume))
    assert found["RCA"] == found["total"] == 4 * 3 * 12


def test_metal_is_flagged_and_not_capped() -> None:
    result = run(scan((PLACES["RCA"], 2500)))
    assert "metal" in result.flags
    assert scores(result)["RCA"] == 16.0


def test_calcium_at_the_border_of_the_scan_is_flagged() -> None:
    whole = scan((PLACES["LAD"], 250))
    assert "lesion_touches_scan_edge" not in run(whole).flags
    cut = whole.crop((20, 0, 0), SHAPE)
    assert "lesion_touches_scan_edge" in run(cut).flags


def test_two_territories_in_one_lesion_share_it_by_the_named_rule() -> None:
    volume = scan()
    volume.voxels[20, 78:82, 120:160] = 250  # x 60…80 mm: from LM's centre to LAD's
    shared = scores(run(volume))
    assert shared["LM"] > 0
    assert shared["LAD"] > 0
    assert shared["LM"] + shared["LAD"] == shared["total"] == 4 * 40 * 0.25 * 2
    whole = scores(run(volume, score=ScorePolicy(split_rule="component")))
    assert sorted([whole["LM"], whole["LAD"]]) == [0.0, shared["total"]]


@given(seed=st.integers(0, 1000))
@settings(max_examples=4, deadline=None)
def test_vessels_always_sum_to_the_total(seed: int) -> None:
    rng = np.random.default_rng(seed)
    volume = scan()
    noisy = volume.voxels + rng.normal(0, 55, SHAPE).astype(np.int16)
    found = scores(run(replace(volume, voxels=noisy), noise_rule="flag"))
    assert found["total"] == found["LM"] + found["LAD"] + found["LCX"] + found["RCA"]


def test_the_stored_rescale_does_not_change_the_score() -> None:
    volume = scan((PLACES["LAD"], 250), (PLACES["RCA"], 130), (PLACES["LCX"], 129))
    stored = Volume((volume.voxels + 1024).astype(np.uint16), volume.grid, slope=1.0, intercept=-1024.0)
    assert scores(run(stored)) == scores(run(volume))
    assert scores(run(volume))["RCA"] == 4.0
    assert scores(run(volume))["LCX"] == 0.0


def test_a_flipped_scan_gives_the_same_score() -> None:
    volume = scan((PLACES["LAD"], 250), (PLACES["RCA"], 420))
    affine = volume.grid.affine.copy()
    affine[:3, 3] = volume.grid.index_to_patient([SHAPE[0] - 1, 0, SHAPE[2] - 1])
    affine[:3, 0] *= -1
    affine[:3, 2] *= -1
    flipped = Volume(volume.voxels[::-1, :, ::-1], Grid(SHAPE, affine))
    assert scores(run(flipped)) == scores(run(volume))


def test_lesion_labels_lie_where_the_calcium_is() -> None:
    volume = scan((PLACES["LAD"], 250), (PLACES["RCA"], 420))
    found = lesions(volume)
    assert found is not None
    for label, artery in ((2, "LAD"), (4, "RCA")):
        points = found.grid.index_to_patient(np.argwhere(found.voxels == label))
        k, j, i = np.rint(volume.grid.patient_to_index(points)).astype(int).T
        assert len(points) == 16
        assert (volume.voxels[k, j, i] == (250 if artery == "LAD" else 420)).all()


@pytest.mark.parametrize(("increment_rule", "expected"), [("linear_increment", 10.0), ("slab3mm", 8.0)])
def test_thin_slices_by_either_rule(increment_rule: str, expected: float) -> None:
    shape = (100, 240, 240)
    voxels = np.full(shape, 40, dtype=np.int16)
    volume = Volume(voxels, Grid.from_spacing(shape, (1.5, 0.5, 0.5), ORIGIN))
    x, y, z = PLACES["LAD"]
    k, j, i = round(z / 1.5), round(y * 2), round(x * 2)
    voxels[k, j - 2 : j + 2, i - 2 : i + 2] = 350
    voxels[k + 1, j - 2 : j + 2, i - 2 : i + 2] = 210
    policy = ScorePolicy(increment_rule=increment_rule)
    # Linear: 4 mm² × (3 + 2) × 1.5/3. One slab: 4 mm² × 2, as its mean of 280 HU is one weight below the peak.
    assert scores(run(volume, score=policy))["LAD"] == expected
    found = lesions(volume, score=policy)
    assert found is not None
    assert found.grid.shape == (2, 4, 4)
    assert found.grid.spacing == pytest.approx((1.5, 0.5, 0.5))


def test_the_interpolated_volume_is_named_and_different() -> None:
    volume = scan((PLACES["LAD"], 400))
    raw, interpolated = run(volume), run(volume, volume_variant="interpolated_isotropic")
    assert scores(raw) == scores(interpolated)
    assert values(raw)["volume_mm3"] != values(interpolated)["volume_mm3"]
    assert interpolated.policy["volume_variant"] == "interpolated_isotropic"


def refuse(reason: str) -> Verdict:
    return Verdict(VerdictStatus.REFUSED, reason, "as the network says")


@pytest.mark.parametrize(
    ("changes", "reason", "status"),
    [
        ({"facts": replace(GATED, kvp=None)}, "kvp_missing", ResultStatus.NOT_EVALUABLE),
        ({"facts": replace(GATED, kvp=100.0)}, "kvp_out_of_table", ResultStatus.OUT_OF_MODEL_RANGE),
        ({"facts": replace(GATED, tin_filter=True)}, "tin_filter", ResultStatus.OUT_OF_MODEL_RANGE),
        ({"facts": replace(GATED, padding_value=40)}, "padding_in_roi", ResultStatus.NOT_EVALUABLE),
        ({"heart": refuse("heart_not_found")}, "heart_not_found", ResultStatus.NOT_EVALUABLE),
        ({"heart": refuse("heart_truncated")}, "heart_truncated", ResultStatus.NOT_EVALUABLE),
        ({"max_increment_mm": 2.5}, "slice_increment_unsupported", ResultStatus.NOT_EVALUABLE),
        ({"volume": scan((PLACES["LAD"], 500), background=101)}, "contrast_enhanced", ResultStatus.NOT_EVALUABLE),
    ],
)
def test_a_refused_scan_has_a_reason_and_no_score(
    changes: dict[str, object], reason: str, status: ResultStatus
) -> None:
    result = run(**{"volume": scan((PLACES["LAD"], 500)), **changes})
    assert (result.status, result.reason) == (status, reason)
    assert not [name for name in values(result) if name.startswith(("agatston", "volume", "category", "cac_drs"))]


def test_blood_at_the_limit_is_not_yet_enhanced() -> None:
    assert run(scan(background=100)).status is ResultStatus.OK


def test_a_sheared_stack_is_refused() -> None:
    affine = scan().grid.affine.copy()
    affine[1, 0] = 0.9
    sheared = Volume(scan().voxels, Grid(SHAPE, affine))
    assert run(sheared).reason == "spacing_unsupported"


def test_a_label_map_without_a_heart_is_refused() -> None:
    empty = Volume(np.zeros_like(TERRITORIES.voxels), TERRITORIES.grid, "label")
    assert measure(scan(), empty, ACCEPTED, GATED)[0].status is ResultStatus.NOT_EVALUABLE


@pytest.mark.parametrize("artery", ["LAD", "LCX", "RCA"])
def test_an_artery_that_was_not_found_is_not_an_artery_without_calcium(artery: str) -> None:
    labels = TERRITORIES.voxels.copy()
    labels[labels == TERRITORY_LABELS[artery]] = TERRITORY_LABELS["heart"]
    result, found = measure(scan(), Volume(labels, TERRITORIES.grid, "label"), ACCEPTED, GATED)
    assert (result.status, result.reason) == (ResultStatus.NOT_EVALUABLE, "territory_not_found")
    assert found is None
    assert artery in result.detail


def noisy_scan(sigma: float, increment: float = 3.0) -> Volume:
    """Uncorrelated noise on blood, one lesion of 600 HU in the LAD over 6 mm, no other calcium."""
    shape = (round(SHAPE[0] * SPACING[0] / increment), *SHAPE[1:])
    x, y, z = PLACES["LAD"]
    k, j, i = round(z / increment), round(y / SPACING[1]), round(x / SPACING[2])
    voxels = np.full(shape, 40.0)
    voxels[k : k + round(6 / increment), j - 2 : j + 2, i - 2 : i + 2] = 600
    voxels += np.random.default_rng(1).normal(0, sigma, shape)
    return Volume(voxels.astype(np.int16), Grid.from_spacing(shape, (increment, *SPACING[1:]), ORIGIN))


@pytest.mark.parametrize(
    ("sigma", "reason"), [(12.0, ""), (28.0, ""), (32.0, "noise_too_high"), (45.0, "noise_too_high")]
)
def test_noise_is_measured_and_refused_above_the_limit(sigma: float, reason: str) -> None:
    result = run(noisy_scan(sigma))
    assert result.reason == reason
    assert values(result)["noise_hu"] == pytest.approx(sigma, rel=0.06)
    assert ("agatston_total" in values(result)) is (not reason)


def test_thin_noisy_slices_are_averaged_and_say_so() -> None:
    thin = noisy_scan(45.0, increment=1.0)
    result = run(thin)
    found = values(result)
    assert result.status is ResultStatus.OK
    assert found["noise_hu_averaged"] == pytest.approx(45 / np.sqrt(3), rel=0.1)
    assert result.policy["score"]["increment_rule"] == "slab3mm"
    assert result.flags == ("averaged_for_noise",)
    assert found["agatston_total"] == found["agatston_LAD"] > 0
    specks = values(run(thin, noise_rule="flag"))
    assert specks["agatston_total"] > found["agatston_total"], "specks of noise count, too"
    assert run(thin, noise_rule="refuse").reason == "noise_too_high"
    assert run(noisy_scan(80.0, increment=1.0)).reason == "noise_too_high"


def test_a_noise_that_is_only_flagged_is_flagged() -> None:
    result = run(noisy_scan(45.0), noise_rule="flag")
    assert (result.status, result.flags) == (ResultStatus.OK, ("noise_high",))
    assert run(noisy_scan(45.0), max_noise_hu=60.0).flags == ()


def test_nongated_scores_never_stand_in_gated_fields() -> None:
    facts = replace(GATED, gating=Gating.NONGATED)
    result = run(scan((PLACES["LAD"], 450), (PLACES["RCA"], 250)), facts)
    found = values(result)
    assert found["agatston_equivalent_nongated"] == 24.0
    assert found["agatston_equivalent_nongated_LAD"] == 16.0
    assert (found["agatston_equivalent_class"], found["cac_drs_visual"]) == ("11-100", "CAC-DRS V1/N2")
    assert not {"agatston_total", "agatston_LAD", "category", "cac_drs", "arterial_age"} & set(found)
    assert found["mesa_percentile_bucket"] is None


def test_low_kilovolts_raise_the_threshold() -> None:
    volume = scan((PLACES["LAD"], 150))
    assert scores(run(volume))["LAD"] == 4.0
    assert scores(run(volume, replace(GATED, kvp=80.0)))["LAD"] == 0.0
    with_edges = ScorePolicy(weight_edges_100kvp=(145, 222, 334, 446))
    assert scores(run(volume, replace(GATED, kvp=100.0), score=with_edges))["LAD"] == 4.0


def test_mass_needs_a_phantom_in_the_scan() -> None:
    volume = scan((PLACES["LAD"], 250))
    mass = next(m for m in run(volume).measurements if m.name == "mass_mg")
    assert (mass.value, mass.status, mass.reason) == (None, ResultStatus.NOT_EVALUABLE, "not_calibrated")
    calibrated = run(volume, replace(GATED, calibration=0.8))
    assert values(calibrated)["mass_mg"] == pytest.approx(0.8 * 250 * 0.012)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"age": None}, "demographics_missing"),
        ({"age": 30}, "age_out_of_range"),
        ({"ethnicity": None}, "demographics_missing"),
    ],
)
def test_no_percentile_for_people_outside_the_table(changes: dict[str, object], reason: str) -> None:
    result = run(scan(), replace(GATED, **changes))
    bucket = next(m for m in result.measurements if m.name == "mesa_percentile_bucket")
    assert (bucket.value, bucket.reason) == (None, reason)


def test_inference_and_assumption_are_flagged() -> None:
    facts = replace(GATED, gating=Gating.GATED_INFERRED, kvp_assumed=True)
    assert {"gating_inferred", "kvp_assumed"} <= set(run(scan(), facts).flags)


def test_every_policy_is_in_the_result_and_survives_json() -> None:
    policy = CalciumPolicy(
        score=ScorePolicy(area_rule=">1mm2", weight_edges_100kvp=(145, 222, 334, 446)), assumed_kvp=120
    )
    result, _ = measure(scan(), TERRITORIES, ACCEPTED, GATED, policy)
    assert CalciumPolicy.from_dict(json.loads(json.dumps(result.policy))) == policy
    with pytest.raises(ValueError, match="unknown"):
        CalciumPolicy.from_dict({"unknown": 1})
