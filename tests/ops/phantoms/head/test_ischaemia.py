from __future__ import annotations

import numpy as np
import pytest

from ops.phantoms.head import ischaemia
from ops.phantoms.head.anatomy import Head, sample_head
from ops.phantoms.head.ischaemia import (
    Circulation,
    DiffusionTissue,
    Shares,
    Stroke,
    TissuePerfusion,
    ctp_study,
    diffusion_signal,
    dwi_study,
    paint_shares,
    perfusion_times,
    sample_stroke,
    sample_study,
    simulate_ctp,
    slab_grid,
)
from ops.phantoms.participant import Participant, sample_participant
from ops.volume import Grid


@pytest.fixture(scope="module")
def person() -> tuple[Participant, Head]:
    rng = np.random.default_rng(4)
    participant = sample_participant(rng)
    return participant, sample_head(participant, rng)


@pytest.fixture(scope="module")
def shares(person: tuple[Participant, Head]) -> Shares:
    return paint_shares(person[1], Stroke(1, 0.8, 0.4), slab_grid(person[1], (8.0, 3.0, 3.0), 76))


def test_shares_add_up(shares: Shares) -> None:
    parts = (shares.grey, shares.white, shares.fluid, shares.sinus, shares.healthy_artery, shares.occluded_artery)
    total = sum(parts)
    assert total.max() < 1.001
    assert all(part.min() >= 0 for part in parts)
    assert (shares.territory[0] <= shares.grey + 1e-6).all()
    assert (shares.core <= shares.territory + 1e-6).all()
    assert 0 < shares.volume_ml(shares.core) < shares.volume_ml(shares.territory) < 250


def test_volumes_do_not_depend_on_voxels(person: tuple[Participant, Head], shares: Shares) -> None:
    fine = paint_shares(person[1], Stroke(1, 0.8, 0.4), slab_grid(person[1], (5.0, 2.0, 2.0), 112))
    for name in ("core", "territory"):
        coarse, exact = shares.volume_ml(getattr(shares, name)), fine.volume_ml(getattr(fine, name))
        assert coarse == pytest.approx(exact, rel=0.05)


def test_stroke_lies_on_its_side(person: tuple[Participant, Head]) -> None:
    grid = slab_grid(person[1], (8.0, 3.0, 3.0), 76)
    for side in (-1, 1):
        labels = paint_shares(person[1], Stroke(side, 0.7, 0.4), grid).labels
        x = grid.index_to_patient(np.argwhere(labels.voxels >= 2))[:, 0]
        assert np.sign(np.median(x - person[1].centre[0])) == side
        assert set(np.unique(labels.voxels)) == {0, 1, 2, 3}


def test_no_stroke(person: tuple[Participant, Head]) -> None:
    found = paint_shares(person[1], Stroke(1, 0, 0), Grid.from_spacing((2, 40, 40), (8.0, 5.0, 5.0), (-100, -100, 5)))
    assert found.volume_ml(found.territory) == found.volume_ml(found.core) == 0


@pytest.mark.parametrize("wrong", [(0, 0.5, 0.2), (1, 0.2, 0.5), (1, 1.2, 0.5), (1, 0.5, -0.1)])
def test_impossible_stroke(wrong: tuple[int, float, float]) -> None:
    with pytest.raises(ValueError, match="core ≤ territory"):
        Stroke(*wrong)


def test_signal_decays_with_each_tissues_adc(shares: Shares) -> None:
    tissue = DiffusionTissue()
    low, high = diffusion_signal(shares, tissue, 0), diffusion_signal(shares, tissue, 1000)
    pure = shares.core.sum(axis=0) > 0.999
    assert pure.any()
    assert np.log(low[pure] / high[pure]) * 1000 == pytest.approx(450, rel=0.01)


def test_curves() -> None:
    circulation, t = Circulation(), np.arange(0, 90, 0.1)
    assert circulation.artery(t).max() == pytest.approx(260, rel=0.01)
    assert circulation.artery(t)[t < 8].max() == 0
    area = np.trapezoid(circulation.artery(t), t)
    assert np.trapezoid(circulation.vein(t), t) == pytest.approx(area, rel=0.02)
    tissue = TissuePerfusion(50, 4.0, 3.0)
    assert tissue.cbv == pytest.approx(50 * 4 / 60)
    # CBV = area of tissue over area of artery × blood per gram of tissue.
    cbv = np.trapezoid(circulation.tissue(tissue, t), t) / area * 100 * (0.55 / 0.75 / 1.04)
    assert cbv == pytest.approx(tissue.cbv, rel=0.02)
    assert circulation.tissue(tissue, t)[t < 11].max() < 1e-6


def test_frames(shares: Shares) -> None:
    times = np.array([0.0, 13.0])
    before, peak = simulate_ctp(shares, Circulation(), times, np.random.default_rng(0), 0.0)
    artery = shares.healthy_artery > 0.5
    assert (peak.voxels[artery].astype(int) - before.voxels[artery]).min() > 100
    assert before.voxels.dtype == np.int16


def test_studies(person: tuple[Participant, Head]) -> None:
    rng = np.random.default_rng(1)
    mr = dwi_study(*person, Stroke(1, 0.6, 0.4), rng)
    assert [series.role for series in mr.series] == ["dwi", "adc"]
    assert [stack.attributes["DiffusionBValue"] for stack in mr.series[0].stacks] == [0.0, 1000.0]
    assert mr.series[0].encoding == "enhanced"
    assert mr.truth["core_ml"] > 1
    assert mr.labels["dwi"].grid.matches(mr.series[0].stacks[0].volume.grid)


def test_perfusion_study(person: tuple[Participant, Head]) -> None:
    ct = ctp_study(*person, Stroke(-1, 0.6, 0.3), np.random.default_rng(1))
    clocks = [stack.attributes["AcquisitionTime"] for stack in ct.series[0].stacks]
    times = [60 * int(clock[2:4]) + float(clock[4:]) for clock in clocks]
    assert times == sorted(times)
    assert ct.series[0].modality == "CT"
    assert ct.truth["mismatch_ml"] == pytest.approx(ct.truth["hypoperfused_ml"] - ct.truth["core_ml"])


def test_sampling_reaches_both_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    strokes = [sample_stroke(rng) for _ in range(200)]
    assert 20 < sum(stroke.territory_scale == 0 for stroke in strokes) < 65
    assert all((np.diff(perfusion_times(rng)) > 0).all() for _ in range(20))
    for kind in ("dwi", "ctp"):
        monkeypatch.setattr(ischaemia, f"{kind}_study", lambda *_, kind=kind: kind)
    kinds = [sample_study(np.random.default_rng(seed)) for seed in range(20)]
    assert kinds == [sample_study(np.random.default_rng(seed)) for seed in range(20)]
    assert set(kinds) == {"dwi", "ctp"}
