from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ops.diseases.stroke.diffusion import DiffusionPolicy
from ops.diseases.stroke.measurement import CtpPolicy, measure_ctp, measure_dwi, volume_ml, without_islands
from ops.diseases.stroke.perfusion import PerfusionPolicy
from ops.measure.record import MeasurementRecord
from ops.phantoms.head.anatomy import Head, sample_head
from ops.phantoms.head.ischaemia import (
    Circulation,
    DiffusionTissue,
    Shares,
    Stroke,
    paint_shares,
    simulate_ctp,
    simulate_dwi,
    slab_grid,
)
from ops.phantoms.participant import sample_participant
from ops.verdict import ResultStatus
from ops.volume import Grid, Volume

TIMES = np.arange(0, 61, 2.0)


@pytest.fixture(scope="module")
def head() -> Head:
    rng = np.random.default_rng(4)
    return sample_head(sample_participant(rng), rng)


@pytest.fixture(scope="module")
def shares(head: Head) -> Shares:
    return paint_shares(head, Stroke(1, 0.85, 0.5), slab_grid(head, (8.0, 2.5, 2.5), 92))


@pytest.fixture(scope="module")
def images(shares: Shares) -> tuple[Volume, Volume, Volume]:
    return simulate_dwi(shares, DiffusionTissue(), np.random.default_rng(0))


@pytest.fixture(scope="module")
def frames(shares: Shares) -> list[Volume]:
    return simulate_ctp(shares, Circulation(), TIMES, np.random.default_rng(0), 3.0)


def ctp(frames: list[Volume], brain: Volume, times: np.ndarray = TIMES, **options: object) -> MeasurementRecord:
    return measure_ctp(frames, times.tolist(), brain, str(options.pop("modality", "CT")), **options)


def dwi(images: tuple[Volume, ...], brain: Volume, **options: object) -> MeasurementRecord:
    return measure_dwi(images[:2], [0, 1000], brain, str(options.pop("modality", "MR")), **options)


def test_dwi(images: tuple[Volume, Volume, Volume], shares: Shares) -> None:
    truth = shares.volume_ml(shares.core)
    record = dwi(images, shares.labels, inputs=("1.2.3",))
    assert record.status is ResultStatus.OK
    assert record["core_ml"] == pytest.approx(truth, rel=0.15)
    assert record["core_cleaned_ml"] <= record["core_ml"]
    assert record["core_adc"] == pytest.approx(450, abs=40)
    assert record.inputs == ("1.2.3",)
    assert record.policy["bright_rule"] == "local_normal_brain"
    with_map = dwi(images, shares.labels, adc=images[2])
    assert with_map["core_ml"] == pytest.approx(record["core_ml"], rel=0.05)


def test_dwi_in_any_orientation(images: tuple[Volume, Volume, Volume], shares: Shares) -> None:
    def turned(volume: Volume) -> Volume:
        affine = volume.grid.affine[:, [2, 0, 1, 3]]
        moved = np.moveaxis(volume.voxels, 2, 0)
        return Volume(moved, Grid(moved.shape, affine), volume.units)

    upright = dwi(images, shares.labels)
    assert dwi(tuple(map(turned, images)), turned(shares.labels))["core_ml"] == pytest.approx(upright["core_ml"])


def test_dwi_without_a_core(images: tuple[Volume, Volume, Volume], shares: Shares) -> None:
    healthy = replace(shares, core=np.zeros_like(shares.core))
    record = dwi(simulate_dwi(healthy, DiffusionTissue(), np.random.default_rng(0), noise=4), shares.labels)
    assert record.status is ResultStatus.OK
    assert record["core_cleaned_ml"] == 0
    assert record["core_ml"] < 0.5


def test_dwi_excludes_and_cleans(images: tuple[Volume, Volume, Volume], shares: Shares) -> None:
    everything = dwi(images, shares.labels)
    assert isinstance(everything["core_ml"], float)
    old = Volume((shares.labels.voxels == 2).astype(np.uint8), shares.grid, "label")
    rest = dwi(images, shares.labels, excluded=old)
    assert rest["core_ml"] < 0.2 * everything["core_ml"]
    strict = dwi(images, shares.labels, policy=DiffusionPolicy(minimum_island_ml=1000))
    assert strict["core_ml"] == everything["core_ml"]
    assert strict["core_cleaned_ml"] == 0
    assert strict.flags == ("core_only_islands",)


def test_ctp(frames: list[Volume], shares: Shares) -> None:
    record = ctp(frames, shares.labels)
    assert record.status is ResultStatus.OK, record.detail
    core, late = shares.volume_ml(shares.core), shares.volume_ml(shares.territory)
    assert record["hypoperfused_cleaned_ml"] == pytest.approx(late, rel=0.15)
    assert record["core_cleaned_ml"] == pytest.approx(core, abs=8)
    assert record["mismatch_ml"] == pytest.approx(record["hypoperfused_ml"] - record["core_ml"])
    assert record["mismatch_ratio"] == pytest.approx(record["hypoperfused_ml"] / record["core_ml"])
    assert record["defuse3_eligible"] == record["extend_cleaned_eligible"] == "yes"
    assert record["motion_mm"] < 0.3
    assert record.policy["perfusion"]["bolus"]["partial_volume_rule"] == "vein_area"
    assert MeasurementRecord.from_json(record.to_json()) == record


def test_ctp_other_side(head: Head) -> None:
    right = paint_shares(head, Stroke(-1, 0.8, 0.45), slab_grid(head, (8.0, 2.5, 2.5), 92))
    record = ctp(simulate_ctp(right, Circulation(), TIMES, np.random.default_rng(1), 3.0), right.labels)
    assert record["hypoperfused_cleaned_ml"] == pytest.approx(right.volume_ml(right.territory), rel=0.15)


def test_ctp_without_a_stroke(shares: Shares) -> None:
    nothing = np.zeros_like(shares.core)
    healthy = replace(shares, core=nothing, territory=nothing)
    record = ctp(simulate_ctp(healthy, Circulation(), TIMES, np.random.default_rng(1), 3.0), shares.labels)
    assert record["core_cleaned_ml"] == record["hypoperfused_cleaned_ml"] == 0
    assert record.measurement("mismatch_cleaned_ratio").reason == "no_core"
    assert record["defuse3_cleaned_eligible"] == record["extend_cleaned_eligible"] == "no"
    refused = ctp(
        simulate_ctp(healthy, Circulation(), TIMES, np.random.default_rng(1), 3.0),
        shares.labels,
        policy=CtpPolicy(zero_core="refuse"),
    )
    assert refused.measurement("defuse3_cleaned_eligible").reason == "ratio_undefined"


def test_ctp_policies_change_the_result(frames: list[Volume], shares: Shares) -> None:
    default = ctp(frames, shares.labels)
    raw_peak = ctp(frames, shares.labels, policy=CtpPolicy(perfusion=PerfusionPolicy(residue_rule="none")))
    assert raw_peak["hypoperfused_ml"] > default["hypoperfused_ml"]
    old = Volume((shares.labels.voxels == 2).astype(np.uint8), shares.grid, "label")
    assert ctp(frames, shares.labels, excluded=old)["core_ml"] < 0.5 * default["core_ml"]
    large = ctp(frames, shares.labels, policy=CtpPolicy(minimum_island_ml=1000))
    assert (large["core_ml"], large["core_cleaned_ml"]) == (default["core_ml"], 0)


def test_motion_is_refused_and_reported(frames: list[Volume], shares: Shares) -> None:
    moved = [*frames[:10], replace(frames[10], voxels=np.roll(frames[10].voxels, 2, axis=2)), *frames[11:]]
    record = ctp(moved, shares.labels)
    assert record.reason == "motion"
    assert record["motion_mm"] > 2
    assert record.policy["largest_motion_mm"] == 2.0


def nan_at_brain(volume: Volume) -> Volume:
    voxels = volume.voxels.astype(np.float32)
    voxels[tuple(np.array(voxels.shape) // 2)] = np.nan
    return replace(volume, voxels=voxels)


def other_grid(volume: Volume) -> Volume:
    return replace(volume, grid=Grid(volume.grid.shape, volume.grid.affine + np.eye(4)[:, [3, 3, 3, 0]].T * 0.5))


def empty(volume: Volume) -> Volume:
    return replace(volume, voxels=np.zeros_like(volume.voxels))


def test_bad_dwi_is_refused(images: tuple[Volume, Volume, Volume], shares: Shares) -> None:
    brain, (low, high, adc) = shares.labels, images
    shifted = Grid.from_spacing(shares.grid.shape, (8.0, 2.5, 2.5))
    thick = [replace(v, grid=Grid.from_spacing(v.grid.shape, (30.0, 2.5, 2.5))) for v in (low, high, brain)]
    sheared_affine = shares.grid.affine.copy()
    sheared_affine[1, 0] = 2.0
    sheared = [replace(v, grid=Grid(v.grid.shape, sheared_affine)) for v in (low, high, brain)]
    for reason, record in {
        "wrong_modality": dwi(images, brain, modality="CT"),
        "no_images": measure_dwi([], [], brain, "MR"),
        "empty_mask": dwi(images, empty(brain)),
        "not_a_label_map": dwi(images, replace(brain, units="HU")),
        "grid_mismatch": dwi(images, replace(brain, grid=shifted)),
        "not_finite": dwi((nan_at_brain(low), high), brain),
        "wrong_units": dwi(images, brain, adc=replace(adc, units="a.u.")),
        "implausible_adc": dwi(images, brain, adc=replace(adc, slope=1e-3)),
        "b_values_unsupported": measure_dwi([low, high], [0, 100], brain, "MR"),
        "anisotropic": dwi(tuple(thick[:2]), thick[2]),
        "gantry_tilt": dwi(tuple(sheared[:2]), sheared[2]),
    }.items():
        assert (record.status, record.reason) == (ResultStatus.NOT_EVALUABLE, reason)
        assert record.detail
        assert record.policy
        assert not record.measurements
    assert dwi(images, brain, excluded=replace(brain, grid=shifted)).reason == "grid_mismatch"
    assert measure_dwi([high], [1000, 0], brain, "MR", adc=adc).reason == "b_values_unsupported"
    assert dwi((replace(low, units="HU"), high), brain).reason == "wrong_units"
    assert dwi(images, brain, excluded=brain).reason == "empty_mask"


def test_core_at_the_edge_of_the_scan(images: tuple[Volume, Volume, Volume], shares: Shares) -> None:
    rows = np.flatnonzero((shares.labels.voxels == 2).any(axis=(0, 1)))
    start = (0, 0, int(rows.mean()))
    cut = [volume.crop(start, shares.grid.shape) for volume in (*images, shares.labels)]
    assert dwi(tuple(cut[:2]), cut[3]).reason == "touches_border"
    assert dwi(tuple(cut[:2]), cut[3], policy=DiffusionPolicy(edge_rule="flag")).flags == ("lesion_at_scan_edge",)


def test_bad_ctp_is_refused(frames: list[Volume], shares: Shares) -> None:
    brain = shares.labels
    shifted = Grid.from_spacing(shares.grid.shape, (8.0, 2.5, 2.5))
    one_side = brain.voxels.copy()
    one_side[:, :, : one_side.shape[2] // 2] = 0
    unlike = replace(frames[3], units="a.u.")
    for reason, record in {
        "wrong_modality": ctp(frames, brain, modality="MR"),
        "no_images": ctp([], brain),
        "empty_mask": ctp(frames, empty(brain)),
        "not_a_label_map": ctp(frames, replace(brain, voxels=brain.voxels.astype(np.float32))),
        "grid_mismatch": ctp(frames, replace(brain, grid=shifted)),
        "not_finite": ctp([nan_at_brain(frames[0]), *frames[1:]], brain),
        "wrong_units": ctp([*frames[:3], unlike, *frames[4:]], brain),
        "times_invalid": ctp(frames, brain, TIMES[:-1]),
        "too_few_frames": ctp(frames[:8], brain, TIMES[:8]),
        "bolus_truncated": ctp(frames[:12], brain, TIMES[:12]),
        "no_bolus": ctp([frames[0]] * len(TIMES), brain),
    }.items():
        assert (record.status, record.reason) == (ResultStatus.NOT_EVALUABLE, reason), record.detail
        assert record.detail
        assert record.policy


def test_lesion_at_the_end_of_the_slab(frames: list[Volume], shares: Shares) -> None:
    slices = np.flatnonzero((shares.labels.voxels >= 2).any(axis=(1, 2)))
    stop = (int(slices.mean()) + 1, *shares.grid.shape[1:])
    cut = [frame.crop((0, 0, 0), stop) for frame in (*frames, shares.labels)]
    assert ctp(cut[:-1], cut[-1]).flags == ("lesion_at_scan_edge",)
    assert ctp(cut[:-1], cut[-1], policy=CtpPolicy(edge_rule="refuse")).reason == "touches_border"


def test_any_end_of_the_scan_has_an_answer(frames: list[Volume], shares: Shares) -> None:
    for first, last in ((0, 4), (0, 10), (0, 14), (0, 20), (2, 31), (5, 31), (8, 31), (14, 31), (20, 31)):
        record = ctp(frames[first:last], shares.labels, TIMES[first:last])
        assert record.status is ResultStatus.OK or record.reason
    noise = np.random.default_rng(0)
    junk = [replace(frames[0], voxels=noise.integers(-1000, 1000, shares.grid.shape).astype(np.int16)) for _ in TIMES]
    assert ctp(junk, shares.labels).reason
    assert ctp([replace(frames[0], voxels=np.zeros_like(frames[0].voxels))] * len(TIMES), shares.labels).reason


def test_several_directions_count_together(images: tuple[Volume, Volume, Volume], shares: Shares) -> None:
    low, high, _ = images
    weak = replace(high, voxels=(high.voxels * 0.9).astype(np.int16))
    strong = replace(high, voxels=(high.voxels * 1.1).astype(np.int16))
    both = measure_dwi([low, weak, strong], [0, 1000, 1000], shares.labels, "MR")
    assert both["core_ml"] == pytest.approx(dwi(images, shares.labels)["core_ml"], rel=0.03)


def test_no_healthy_other_side(shares: Shares) -> None:
    everywhere = np.stack([shares.grey, shares.white])
    both = replace(shares, territory=everywhere, core=np.zeros_like(everywhere))
    frames = simulate_ctp(both, Circulation(), TIMES, np.random.default_rng(1), 2.0)
    assert ctp(frames, shares.labels).reason == "no_contralateral_reference"


def test_islands() -> None:
    grid = Grid.from_spacing((6, 20, 20), (5.0, 2.0, 2.0))
    mask = np.zeros(grid.shape, dtype=bool)
    mask[1:3, 1:6, 1:6] = True  # 50 voxels of 0.02 mL: 1 mL
    mask[4, 10:17, 10:17] = True  # 0.98 mL
    mask[3, 17, 17] = True  # a corner away from it: 26 neighbours join it to 50 voxels
    assert volume_ml(mask, grid) == pytest.approx(2.0)
    assert without_islands(mask, grid, 1.0).sum() == 100
    mask[3, 17, 17] = False
    assert without_islands(mask, grid, 1.0).sum() == 50
    assert without_islands(mask, grid, 0.0).sum() == 99
    assert without_islands(np.zeros_like(mask), grid, 1.0).sum() == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"cbf_reference": "mirror"},
        {"zero_core": "maybe"},
        {"edge_rule": "ignore"},
        {"minimum_island_ml": -1},
        {"largest_motion_mm": float("inf")},
    ],
)
def test_policy_is_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"rule|reference|island"):
        CtpPolicy(**wrong)
