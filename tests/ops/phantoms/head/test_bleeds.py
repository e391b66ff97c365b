from __future__ import annotations

import math

import numpy as np
import pytest

from ops.phantoms.head.anatomy import Head, HeadTissue, head_grid, sample_head
from ops.phantoms.head.bleeds import (
    SUBTYPE_LABELS,
    Extradural,
    Intraparenchymal,
    Intraventricular,
    Subarachnoid,
    Subdural,
    label_bleeds,
    sample_bleed,
    sample_study,
    simulate_head_ct,
    true_volumes,
)
from ops.phantoms.participant import sample_participant

SPACING = (5.0, 1.2, 1.2)
BLEEDS = {
    "EDH": Extradural("L", 5.0, 22.0, 34.0, 15.0),
    "SDH": Subdural("R", "convexity", 10.0),
    "SAH": Subarachnoid((0, -8, -15), 40.0),
    "IPH": Intraparenchymal(np.array([[30.0, -5.0, 12.0]]), np.array([[12.0, 16.0, 10.0]])),
    "IVH": Intraventricular(-100.0),
}


@pytest.fixture(scope="module")
def head() -> Head:
    rng = np.random.default_rng(2)
    return sample_head(sample_participant(rng), rng)


@pytest.mark.parametrize("subtype", list(SUBTYPE_LABELS))
def test_bleed_lies_in_its_compartment(head: Head, subtype: str) -> None:
    grid = head_grid(head, SPACING, 192)
    labels = label_bleeds(head, [BLEEDS[subtype]], grid).voxels
    assert set(np.unique(labels)) == {0, SUBTYPE_LABELS[subtype]}
    tissue = head.fields(grid).labels()[labels > 0]
    share = {code: float(np.mean(tissue == code)) for code in HeadTissue}
    assert share[HeadTissue.BONE] + share[HeadTissue.DIPLOE] < 0.06
    if subtype == "IVH":
        assert share[HeadTissue.VENTRICLE] > 0.8
    if subtype == "SAH":
        assert share[HeadTissue.CSF] > 0.7
    if subtype in ("EDH", "SDH", "IPH"):
        x = grid.index_to_patient(np.argwhere(labels))
        # Template x of the voxels: + is the patient's left.
        side = head.to_template(tuple(x.T.astype(np.float32)))[0].mean()
        assert side * (-1 if subtype == "SDH" else 1) > 20


def test_volume_of_an_ellipsoid(head: Head) -> None:
    closed = 4 / 3 * math.pi * 12 * 16 * 10 * np.prod(head.scale) / 1000
    assert true_volumes(head, [BLEEDS["IPH"]])["IPH"] == pytest.approx(closed, rel=0.01)


def test_scan_counts_what_it_paints(head: Head) -> None:
    grid = head_grid(head, SPACING, 192)
    bleeds = [BLEEDS["IPH"], BLEEDS["SDH"]]
    scan = simulate_head_ct(head, bleeds, grid, np.random.default_rng(1), noise_hu=3.0)
    truth = true_volumes(head, bleeds)
    for name in SUBTYPE_LABELS:
        assert scan.volumes_ml[name] == pytest.approx(truth[name], rel=0.03, abs=0.05)
    assert np.array_equal(scan.labels.voxels, label_bleeds(head, bleeds, grid).voxels)
    hu = scan.ct.voxels[scan.labels.voxels == SUBTYPE_LABELS["IPH"]].mean()
    assert hu == pytest.approx(64, abs=4)
    assert scan.ct.voxels.dtype == np.int16


def test_later_bleeds_displace_earlier_ones(head: Head) -> None:
    alone = true_volumes(head, [BLEEDS["IVH"]], 1.2)["IVH"]
    clot = Intraparenchymal(np.array([[15.0, 10.0, 7.0]]), np.array([[14.0, 14.0, 12.0]]))
    both = true_volumes(head, [BLEEDS["IVH"], clot], 1.2)
    assert both["IVH"] < alone
    assert both["IPH"] == pytest.approx(true_volumes(head, [clot], 1.2)["IPH"], rel=0.02)


def test_study_is_reproducible_and_true() -> None:
    one, other = sample_study(np.random.default_rng(5)), sample_study(np.random.default_rng(5))
    (ct,), (again,) = one.series, other.series
    assert np.array_equal(ct.stacks[0].volume.voxels, again.stacks[0].volume.voxels)
    assert one.truth == other.truth
    assert one.truth["volume_total"] == pytest.approx(sum(one.truth[f"volume_{n.lower()}"] for n in SUBTYPE_LABELS))
    labelled = np.count_nonzero(one.labels["ct"].voxels) * one.labels["ct"].grid.voxel_volume / 1000
    assert labelled == pytest.approx(one.truth["volume_total"], rel=0.2, abs=0.5)
    line = np.subtract(one.truth["falx_posterior"], one.truth["falx_anterior"])
    along = line / np.linalg.norm(line)
    offset = np.subtract(one.truth["septum"], one.truth["falx_anterior"])
    assert np.linalg.norm(offset - (offset @ along) * along) == pytest.approx(one.truth["midline_shift"], abs=0.01)


def test_sampled_masses_push_away() -> None:
    for seed in range(40):
        bleed, shift = sample_bleed("EDH", np.random.default_rng(seed))
        assert isinstance(bleed, Extradural)
        assert shift * (1 if bleed.side == "L" else -1) <= 0
    with pytest.raises(ValueError, match="subtype"):
        sample_bleed("any", np.random.default_rng(0))
