"""Calcium scores: edges of every rule, policies that differ, and sums that must hold for any input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import label, regionprops

from ops.diseases.calcium.scores import (
    WEIGHT_EDGES,
    OutOfModelRangeError,
    ScorePolicy,
    agatston,
    average_to_slabs,
    cac_drs,
    cac_drs_a,
    calcified_vessels,
    category,
    density_weight,
    find_calcium,
    interpolate_slices,
    lesion_count,
    mass_score,
    relative_density,
    shemesh_band,
    shemesh_total,
    slab_labels,
    volume_score,
    weight_edges,
)
from ops.volume import Grid, Volume

EDGES = WEIGHT_EDGES[120]


def ct(voxels: np.ndarray, spacing: tuple[float, float, float] = (3.0, 0.5, 0.5)) -> Volume:
    return Volume(voxels, Grid.from_spacing(voxels.shape, spacing))


def background(shape: tuple[int, int, int] = (3, 12, 12)) -> np.ndarray:
    return np.full(shape, 40, dtype=np.int16)


def ones(volume: Volume) -> np.ndarray:
    return np.ones(volume.voxels.shape, dtype=np.uint8)


def total(volume: Volume, policy: ScorePolicy | None = None) -> float:
    return agatston(find_calcium(volume, ones(volume), EDGES, policy or ScorePolicy()), EDGES)["total"]


def reference_agatston(volume: Volume, mask: np.ndarray, minimum_area: float) -> float:
    """Agatston by the book, with scikit-image, slice by slice."""
    dz, dy, dx = volume.grid.spacing
    score = 0.0
    for plane, inside in zip(volume.physical(), mask, strict=True):
        for region in regionprops(label((plane >= 130) & (inside > 0), connectivity=2), plane):
            area = region.area * dy * dx
            if area >= minimum_area:
                score += area * int(np.searchsorted(EDGES, region.intensity_max, side="right")) * dz / 3
    return score


@given(seed=st.integers(0, 10_000), dz=st.sampled_from([0.625, 1.5, 3.0]), pixel=st.sampled_from([0.35, 0.5, 0.78]))
@settings(max_examples=25, deadline=None)
def test_agrees_with_a_plain_implementation(seed: int, dz: float, pixel: float) -> None:
    rng = np.random.default_rng(seed)
    volume = ct(rng.integers(-100, 600, (4, 24, 24)).astype(np.int16), (dz, pixel, pixel))
    mask = (rng.random(volume.voxels.shape) < 0.7).astype(np.uint8)
    ours = agatston(find_calcium(volume, mask, EDGES), EDGES)["total"]
    assert ours == pytest.approx(reference_agatston(volume, mask, 1.0), rel=1e-9)


@given(seed=st.integers(0, 10_000), split=st.sampled_from(["voxel", "component"]))
@settings(max_examples=25, deadline=None)
def test_vessels_always_sum_to_the_total(seed: int, split: str) -> None:
    rng = np.random.default_rng(seed)
    volume = ct(rng.integers(-100, 600, (4, 24, 24)).astype(np.int16))
    arteries = rng.integers(1, 5, volume.voxels.shape).astype(np.uint8)
    calcium = find_calcium(volume, arteries, EDGES, ScorePolicy(split_rule=split))
    one_artery = find_calcium(volume, ones(volume), EDGES)
    for scores, whole in (
        (agatston(calcium, EDGES), agatston(one_artery, EDGES)),
        (volume_score(calcium), volume_score(one_artery)),
        (mass_score(calcium, 0.8), mass_score(one_artery, 0.8)),
    ):
        assert scores["LM"] + scores["LAD"] + scores["LCX"] + scores["RCA"] == scores["total"]
        assert scores["total"] == pytest.approx(whole["total"], rel=1e-12)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_stored_rescale_does_not_matter(seed: int) -> None:
    hu = np.random.default_rng(seed).integers(-200, 700, (3, 20, 20))
    grid = Grid.from_spacing(hu.shape, (3.0, 0.5, 0.5))
    stored = Volume(((hu + 1024) * 2).astype(np.uint16), grid, slope=0.5, intercept=-1024.0)
    assert total(stored) == total(Volume(hu.astype(np.int16), grid))


def test_lesion_on_the_border_of_two_arteries_is_split_not_doubled() -> None:
    voxels = background()
    voxels[1, 4, 2:10] = 250
    volume = ct(voxels)
    arteries = ones(volume)
    arteries[:, :, 5:] = 2
    by_voxel = agatston(find_calcium(volume, arteries, EDGES), EDGES)
    assert (by_voxel["LM"], by_voxel["LAD"], by_voxel["total"]) == (1.5, 2.5, 4.0)
    by_component = agatston(find_calcium(volume, arteries, EDGES, ScorePolicy(split_rule="component")), EDGES)
    assert (by_component["LM"], by_component["LAD"], by_component["total"]) == (0.0, 4.0, 4.0)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (ScorePolicy(), 0.0),
        (ScorePolicy(area_rule="min_pixels", min_pixels=2), 1.5),
        (ScorePolicy(area_rule="min_pixels", min_pixels=3), 1.5),
        (ScorePolicy(area_rule="min_pixels", min_pixels=4), 0.0),
    ],
)
def test_minimum_size_by_area_or_pixels(policy: ScorePolicy, expected: float) -> None:
    voxels = background()
    voxels[1, 4, 4:7] = 250
    assert total(ct(voxels), policy) == expected


def test_area_limit_survives_rounding_of_header_decimals() -> None:
    voxels = background()
    voxels[1, 4, 4:7] = voxels[1, 5, 4:7] = voxels[1, 6, 4:7] = 150
    third = ct(voxels, (3.0, 0.33333333, 0.33333333))
    assert total(third) == pytest.approx(1.0, abs=1e-6)
    assert total(third, ScorePolicy(area_rule=">1mm2")) == 0.0


def test_specks_go_before_the_sum_even_when_joined_in_depth() -> None:
    voxels = background((8, 12, 12))
    voxels[:, 4, 4:6] = 500
    assert total(ct(voxels)) == 0.0


def test_the_mask_clips_a_lesion() -> None:
    voxels = background()
    voxels[1, 4:8, 4:8] = 150
    volume = ct(voxels)
    mask = ones(volume)
    mask[:, :, :6] = 0
    assert agatston(find_calcium(volume, mask, EDGES), EDGES)["total"] == 2.0


def test_slabs_lower_peaks_where_linear_does_not() -> None:
    voxels = background((4, 12, 12))
    voxels[0:2, 4:8, 4:8] = 450
    voxels[2, 4:8, 4:8] = 250
    volume = ct(voxels, (1.5, 0.5, 0.5))
    slab = ScorePolicy(increment_rule="slab3mm")
    assert total(volume) == 4 * (4 + 4 + 2) / 2
    assert total(volume, slab) == 4 * 4 + 4 * 1  # second slab: mean of 250 and 40 is 145


@pytest.mark.parametrize("increment", [0.6, 0.625, 1.0, 1.25, 2.0, 2.5, 3.0, 3.0015])
@pytest.mark.parametrize("hu", [130, 200, 300, 400])
def test_slabs_of_constant_hu_keep_it_to_the_inclusive_edges(increment: float, hu: int) -> None:
    voxels = np.full((40, 2, 2), hu, np.int16)
    mean = average_to_slabs(Volume(voxels, Grid.from_spacing(voxels.shape, (increment, 0.5, 0.5)))).voxels
    assert (mean == hu).all()


def test_slabs_average_by_overlap_and_keep_positions() -> None:
    ramp = np.arange(5, dtype=np.int16)[:, None, None] * np.ones((1, 2, 2), dtype=np.int16)
    volume = ct(ramp, (2.0, 0.5, 0.5))
    slabs, labels = average_to_slabs(volume), slab_labels(ones(volume), volume.grid)
    assert slabs.voxels[:, 0, 0].tolist() == pytest.approx([(2 * 0 + 1) / 3, (1 + 2 * 2) / 3, (3 * 2 + 4) / 3])
    assert slabs.grid.spacing == pytest.approx((3.0, 0.5, 0.5))
    lower_edge = volume.grid.origin[2] - 1.0
    assert slabs.grid.origin[2] == pytest.approx(lower_edge + 1.5)
    assert labels.shape == slabs.voxels.shape


def test_slabs_need_thin_slices() -> None:
    volume = ct(background(), (5.0, 0.5, 0.5))
    with pytest.raises(ValueError, match="slab3mm needs increments up to 3 mm"):
        total(volume, ScorePolicy(increment_rule="slab3mm"))


def test_interpolated_volume_is_another_variant() -> None:
    voxels = background()
    voxels[1, 4:10, 4:10] = 400
    volume = ct(voxels)
    raw = volume_score(find_calcium(volume, ones(volume), EDGES))["total"]
    isotropic = interpolate_slices(volume)
    interpolated = volume_score(find_calcium(isotropic, ones(isotropic), EDGES))["total"]
    assert isotropic.grid.spacing == pytest.approx((0.5, 0.5, 0.5))
    assert isotropic.voxels.shape[0] == 13
    assert raw == 27.0
    # 40 → 400 → 40 over 3 mm each way passes 130 HU at 0.75 mm: 9 of the 0.5 mm planes are inside.
    assert interpolated == 36 * 0.125 * 9


@pytest.mark.parametrize(("kvp", "threshold"), [(120, 130), (120.3, 130), (80, 177), (70, 207), (135, 119)])
def test_tube_voltages_in_the_table(kvp: float, threshold: float) -> None:
    assert weight_edges(kvp)[0] == threshold


@pytest.mark.parametrize("kvp", [0, 60, 90, 100, 110, 119, 121, 130, 140, 150])
def test_tube_voltages_without_a_table(kvp: float) -> None:
    with pytest.raises(OutOfModelRangeError) as caught:
        weight_edges(kvp)
    assert caught.value.reason == "kvp_out_of_table"


def test_100_kvp_needs_explicit_edges_and_tin_its_own() -> None:
    policy = ScorePolicy(weight_edges_100kvp=(145, 222, 334, 446))
    assert weight_edges(100, policy) == (145, 222, 334, 446)
    with pytest.raises(OutOfModelRangeError) as caught:
        weight_edges(100, policy, tin_filter=True)
    assert caught.value.reason == "tin_filter"


@pytest.mark.parametrize("edges", WEIGHT_EDGES.values())
def test_weights_have_inclusive_lower_edges(edges: tuple[float, float, float, float]) -> None:
    for n, edge in enumerate(edges):
        assert density_weight([edge - 1e-6, edge, edge + 1], edges).tolist() == [n, n + 1, n + 1]


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (0, "0"),
        (1e-9, "1-10"),
        (10, "1-10"),
        (10.0001, "11-100"),
        (10.4, "11-100"),
        (100, "11-100"),
        (100.2, "101-400"),
        (400, "101-400"),
        (400.0001, ">400"),
        (5000, ">400"),
    ],
)
def test_categories_of_the_unrounded_score(score: float, expected: str) -> None:
    assert category(score) == expected


@pytest.mark.parametrize(
    ("score", "expected"), [(0, "A0"), (0.4, "A1"), (99.9, "A1"), (100, "A2"), (299.9, "A2"), (300, "A3")]
)
def test_cac_drs_has_its_own_cut_points(score: float, expected: str) -> None:
    assert cac_drs_a(score) == expected


@pytest.mark.parametrize(("score", "vessels"), [(0, 1), (12, 0), (12, 5), (-1, 0), (float("nan"), 1)])
def test_cac_drs_rejects_contradictions(score: float, vessels: int) -> None:
    with pytest.raises(ValueError, match=r"contradicts|must be 0 to 4|finite and not negative"):
        cac_drs(score, vessels)


def test_no_calcium_is_zero_with_no_vessels() -> None:
    volume = ct(background())
    calcium = find_calcium(volume, ones(volume), EDGES)
    scores = agatston(calcium, EDGES)
    assert set(scores.values()) == {0.0}
    assert cac_drs(scores["total"], calcified_vessels(scores)) == "CAC-DRS A0/N0"
    assert lesion_count(calcium) == 0
    assert relative_density(calcium, EDGES) is None


def test_lesions_are_counted_in_three_dimensions() -> None:
    voxels = background((5, 20, 20))
    voxels[1, 2:5, 2:5] = voxels[2, 5:8, 5:8] = 200  # touch at a corner of neighbouring slices
    voxels[4, 12:15, 12:15] = 200
    volume = ct(voxels)
    calcium = find_calcium(volume, ones(volume), EDGES)
    assert lesion_count(calcium) == 2
    assert relative_density(calcium, EDGES) == 2.0


def test_mass_needs_a_calibration() -> None:
    volume = ct(background())
    calcium = find_calcium(volume, ones(volume), EDGES)
    for factor in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="calibration factor"):
            mass_score(calcium, factor)


@pytest.mark.parametrize(("total_grade", "band"), [(0, "0"), (1, "1-3"), (3, "1-3"), (4, "4-12"), (12, "4-12")])
def test_shemesh_bands(total_grade: int, band: str) -> None:
    assert shemesh_band(total_grade) == band


@pytest.mark.parametrize(
    "grades",
    [{"LM": 0, "LAD": 3, "LCX": 1}, {"LM": 0, "LAD": 4, "LCX": 1, "RCA": 0}, {"LM": -1, "LAD": 0, "LCX": 0, "RCA": 0}],
)
def test_shemesh_rejects_wrong_grades(grades: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="grades"):
        shemesh_total(grades)


@pytest.mark.parametrize(
    "wrong",
    [
        {"area_rule": "1mm"},
        {"connectivity": 6},
        {"increment_rule": "both"},
        {"split_rule": "half"},
        {"min_pixels": 0},
        {"weight_edges_100kvp": (145, 145, 334, 446)},
    ],
)
def test_policies_check_themselves(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ScorePolicy(**wrong)
