from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import circulant

from ops.diseases.stroke.bolus import BolusPolicy, find_bolus, require_times
from ops.diseases.stroke.perfusion import BLOOD_PER_GRAM, PerfusionPolicy, deconvolution, deconvolve, perfusion_maps
from ops.measure.errors import NotEvaluableError
from ops.phantoms.head.ischaemia import Circulation, TissuePerfusion
from ops.volume import Grid, Volume

CIRCULATION = Circulation()
DELAYS = np.array([0, 0.5, 2, 3, 4.7, 6, 7, 8.3, 10])
SAMPLINGS = {
    "1 s": np.arange(0, 61, 1.0),
    "2 s": np.arange(0, 61, 2.0),
    "1 then 2.5 s": np.concatenate([np.arange(0, 35, 1.0), np.arange(35, 62, 2.5)]),
    "jittered": np.arange(0, 60, 1.5) + np.random.default_rng(2).uniform(-0.4, 0.4, 40),
}


def curves(times: np.ndarray, cbf: float, mtt: float, delays: np.ndarray = DELAYS) -> np.ndarray:
    return np.stack([CIRCULATION.tissue(TissuePerfusion(cbf, mtt, d), times) for d in delays], axis=1)


def test_constants() -> None:
    assert pytest.approx(0.55 / 0.75 / 1.04) == BLOOD_PER_GRAM


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("mtt", [4.0, 8.0, 12.0])
@pytest.mark.parametrize("truncation", [0.1, 0.15, 0.2])
def test_recovers_delay_flow_and_transit(sampling: str, mtt: float, truncation: float) -> None:
    times = SAMPLINGS[sampling]
    with_artery = deconvolution(CIRCULATION.artery(times), times, truncation)
    cbf, cbv, found_mtt, tmax = deconvolve(curves(times, 50, mtt), with_artery)
    assert np.abs(tmax - DELAYS).max() < 0.4
    assert cbf == pytest.approx(50, rel=0.15)
    # The scan ends before all of a late and slow passage: its area and MTT read low.
    assert cbv == pytest.approx(50 * mtt / 60, rel=0.2)
    assert found_mtt == pytest.approx(mtt, rel=0.3)


@pytest.mark.parametrize("sampling", ["1 s", "2 s"])
def test_the_uncorrected_peak_is_late_and_low(sampling: str) -> None:
    times = SAMPLINGS[sampling]
    with_artery = deconvolution(CIRCULATION.artery(times), times, 0.15)
    cbf, _, _, tmax = deconvolve(curves(times, 50, 8), with_artery, "none")
    assert (tmax - DELAYS).min() > 2
    assert cbf.max() < 45


def test_six_seconds_stay_apart() -> None:
    times = SAMPLINGS["2 s"]
    with_artery = deconvolution(CIRCULATION.artery(times), times, 0.15)
    for mtt in (4, 8):
        tmax = deconvolve(curves(times, 30, mtt, np.array([5.5, 6.5])), with_artery)[3]
        assert tmax[0] < 6 < tmax[1]


def test_box_residues_are_overcorrected_alike() -> None:
    """A box has no one maximum: all between delay and delay + MTT is right. The table assumes another shape."""
    times, fine = SAMPLINGS["1 s"], np.arange(0, 61, 0.05)
    with_artery = deconvolution(CIRCULATION.artery(times), times, 0.15)
    flows = []
    for mtt in (4, 6, 10):
        filled = np.convolve(CIRCULATION.artery(fine), (fine < mtt).astype(float))[: len(fine)] * 0.05
        curve = 50 / (6000 * BLOOD_PER_GRAM) * np.interp(times - 4, fine, filled, left=0)
        cbf, _, _, tmax = deconvolve(curve[:, None], with_artery)[:, 0]
        assert 3.9 < tmax < 4 + mtt
        flows.append(cbf / 50)
    assert 1.5 < min(flows) < max(flows) < 2.4
    assert max(flows) / min(flows) < 1.34


def test_is_the_truncated_svd_of_the_circulant_matrix() -> None:
    times = SAMPLINGS["1 s"]
    artery = CIRCULATION.artery(times)
    n = len(times)
    matrix = circulant(np.concatenate([artery, np.zeros(n)]))
    u, s, vt = np.linalg.svd(matrix)
    inverse = np.where(s > 0.15 * s.max(), 1 / s, 0)
    pseudo = (vt.T * inverse) @ u.T
    curve = curves(times, 50, 6)
    expected = pseudo[:, :n] @ curve
    ours = deconvolution(artery, times, 0.15)
    whole = np.flatnonzero((ours.lags >= 0) & (ours.lags % 1 == 0))
    np.testing.assert_allclose((ours.matrix @ curve)[whole], expected[: len(whole)], atol=1e-5)


def test_noise_is_taken_off_the_maximum() -> None:
    times = SAMPLINGS["1 s"]
    noise = np.random.default_rng(0).normal(0, 1, (len(times), 4000))
    with_artery = deconvolution(CIRCULATION.artery(times), times, 0.15)
    high = deconvolve(noise, with_artery)[0]
    fair = deconvolve(noise, with_artery, noise_hu=1.0)[0]
    assert np.median(fair) < 0.5 * np.median(high)
    assert (fair <= high).all()
    strong = deconvolve(noise[:, :500] + curves(times, 60, 4, np.zeros(1)), with_artery, noise_hu=1.0)[0]
    assert np.median(strong) == pytest.approx(60, rel=0.1)


def test_artery_is_checked() -> None:
    times = SAMPLINGS["1 s"]
    for curve in (np.zeros(len(times)), np.full(len(times), np.nan), -CIRCULATION.artery(times)):
        with pytest.raises(NotEvaluableError) as error:
            deconvolution(curve, times, 0.15)
        assert error.value.reason == "no_artery"
    whole = np.round(curves(times, 50, 4)).astype(np.int16)
    found = deconvolve(whole, deconvolution(CIRCULATION.artery(times), times, 0.15))
    assert found[0] == pytest.approx(50, rel=0.3)


def test_nothing_flows() -> None:
    times = SAMPLINGS["1 s"]
    with_artery = deconvolution(CIRCULATION.artery(times), times, 0.15)
    cbf, cbv, mtt, tmax = deconvolve(np.zeros((len(times), 2)), with_artery)
    assert (cbf == 0).all()
    assert (cbv == 0).all()
    assert np.isnan(mtt).all()
    assert np.isnan(tmax).all()


# --- a small brain: a block of tissue around an artery, a vein and a ventricle ------------------------------------

GRID = Grid.from_spacing((3, 24, 24), (5.0, 2.0, 2.0))
BRAIN = np.zeros(GRID.shape, dtype=bool)
BRAIN[:, 3:21, 3:21] = True
TIMES = SAMPLINGS["1 s"]


def scan(
    times: np.ndarray = TIMES, circulation: Circulation = CIRCULATION, noise: float = 0.0, artery_share: float = 0.6
) -> list[Volume]:
    normal, late = TissuePerfusion(50, 4, 1), TissuePerfusion(20, 8, 8)
    rng = np.random.default_rng(0)
    frames = []
    for t in range(len(times)):
        hu = np.full(GRID.shape, 1000.0)
        hu[:, 2:22, 2:22] = 36 + circulation.tissue(normal, times)[t]
        hu[:, 3:21, 15:21] = 36 + circulation.tissue(late, times)[t]
        hu[:, 10:13, 10:13] = 8
        hu[:, 5:8, 6:8] = 40 + artery_share * circulation.artery(times)[t]
        hu[:, 1:3, 10:14] = 40 + circulation.vein(times)[t]
        frames.append(Volume(np.round(hu + rng.normal(0, noise, hu.shape)).astype(np.int16), GRID))
    return frames


def test_maps() -> None:
    maps = perfusion_maps(scan(), TIMES.tolist(), BRAIN, PerfusionPolicy(smoothing_fwhm_mm=0))
    assert maps.tissue.any()
    assert not maps.tissue[:, 10:13, 10:13].any()
    assert not maps.tissue[:, 5:8, 6:8].any()
    assert np.isnan(maps.cbf[~maps.tissue]).all()
    normal, late = maps.tissue.copy(), maps.tissue.copy()
    normal[:, :, 14:], late[:, :, :15] = False, False
    assert np.median(maps.cbf[normal]) == pytest.approx(50, rel=0.1)
    assert np.median(maps.cbv[normal]) == pytest.approx(50 * 4 / 60, rel=0.1)
    assert np.median(maps.tmax[normal]) == pytest.approx(1, abs=0.3)
    assert np.median(maps.cbf[late]) == pytest.approx(20, rel=0.12)
    assert np.median(maps.tmax[late]) == pytest.approx(8, abs=0.4)
    assert maps.bolus.partial_volume_factor == pytest.approx(1 / 0.6, rel=0.1)


def test_partial_volume_policy() -> None:
    policy = PerfusionPolicy(smoothing_fwhm_mm=0, bolus=BolusPolicy(partial_volume_rule="none"))
    maps = perfusion_maps(scan(), TIMES.tolist(), BRAIN, policy)
    assert np.nanmedian(maps.cbf[:, :, 3:15]) == pytest.approx(50 / 0.6, rel=0.06)
    assert maps.bolus.partial_volume_factor == 1


def test_smoothing_keeps_out_what_is_no_tissue() -> None:
    smooth = perfusion_maps(scan(noise=2), TIMES.tolist(), BRAIN, PerfusionPolicy(smoothing_fwhm_mm=6))
    rough = perfusion_maps(scan(noise=2), TIMES.tolist(), BRAIN, PerfusionPolicy(smoothing_fwhm_mm=0))
    inner = smooth.tissue & rough.tissue
    inner[:, :, 9:] = False
    assert smooth.cbf[inner].std() < 0.5 * rough.cbf[inner].std()
    assert np.median(smooth.cbf[inner]) == pytest.approx(50, rel=0.1)


@pytest.mark.parametrize(
    ("limit", "value", "lost"), [("csf_hu", 37, "everything"), ("csf_hu", 35, ""), ("vessel_cbv", 3.0, "normal")]
)
def test_limits_of_tissue(limit: str, value: float, lost: str) -> None:
    policy = PerfusionPolicy(smoothing_fwhm_mm=0, **{limit: value})
    if lost == "everything":
        with pytest.raises(NotEvaluableError) as error:
            perfusion_maps(scan(), TIMES.tolist(), BRAIN, policy)
        assert error.value.reason == "no_tissue"
        return
    tissue = perfusion_maps(scan(), TIMES.tolist(), BRAIN, policy).tissue
    assert tissue[:, 15:20, 4:9].any() == (lost != "normal")
    assert tissue[:, 15:20, 16:20].all()


def test_bolus() -> None:
    found = find_bolus(scan(noise=3), TIMES.tolist(), BRAIN)
    _, j, i = found.artery_index.T
    assert ((j >= 5) & (j < 8) & (i >= 6) & (i < 8)).all()
    assert 4 <= found.baseline_frames <= 8
    assert found.artery.argmax() == pytest.approx(CIRCULATION.artery(TIMES).argmax(), abs=1)
    assert found.artery.max() == pytest.approx(CIRCULATION.artery(TIMES).max(), rel=0.1)
    assert found.vein.argmax() > found.artery.argmax()


@pytest.mark.parametrize(
    ("keep", "arrival", "reason"),
    [
        (slice(0, 9), 8, "too_few_frames"),
        (slice(8, None), 8, "no_baseline"),
        (slice(10, None), 8, "no_vein"),  # the artery is bright from the start, and the vein is not taken for it
        (slice(0, 17), 8, "no_vein"),
        (slice(0, 24), 8, "bolus_truncated"),
        (slice(0, None, 5), 18, "sampling_too_coarse"),
        (slice(44, None), 8, "no_bolus"),
    ],
)
def test_bolus_refuses(keep: slice, arrival: float, reason: str) -> None:
    with pytest.raises(NotEvaluableError) as error:
        find_bolus(scan(circulation=Circulation(arrival=arrival))[keep], TIMES[keep].tolist(), BRAIN)
    assert error.value.reason == reason


@pytest.mark.parametrize(
    "times", [[0, 1, 1, *range(3, 12)], [0, 2, 1, *range(3, 12)], [float("nan"), *range(1, 12)], [0, 1]]
)
def test_times_refused(times: list[float]) -> None:
    with pytest.raises(NotEvaluableError) as error:
        require_times(times, 12)
    assert error.value.reason == "times_invalid"


@pytest.mark.parametrize(
    ("policy", "wrong"),
    [
        (PerfusionPolicy, {"residue_rule": "box"}),
        (PerfusionPolicy, {"noise_rule": "some"}),
        (PerfusionPolicy, {"truncation": 1.0}),
        (PerfusionPolicy, {"smoothing_fwhm_mm": -1}),
        (PerfusionPolicy, {"vessel_cbv": float("nan")}),
        (PerfusionPolicy, {"csf_hu": float("nan")}),
        (BolusPolicy, {"artery_rule": "manual"}),
        (BolusPolicy, {"partial_volume_rule": "peak"}),
        (BolusPolicy, {"artery_voxels": 0}),
        (BolusPolicy, {"largest_final_share": 1.0}),
    ],
)
def test_policies_are_checked(policy, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"rule|truncation|smoothing|voxel|csf"):
        policy(**wrong)
