"""Registration against SimpleITK in the same run: seconds and mean target registration error (TRE).

With ``--benchmark-enable`` on heads of 180 × 256 × 256 voxels of 1 mm, else small ones. Run with ``-s`` for the table.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ops.phantoms.head.anatomy import HEAD_HU, HeadTissue, sample_head
from ops.phantoms.participant import sample_participant
from ops.registration.linear import LinearModel
from ops.registration.quality import RegistrationPolicy
from ops.registration.register import RegistrationPlan, register
from ops.registration.similarity import Metric
from ops.registration.transforms import Affine, chain
from ops.volume import Grid, Volume
from tests.benchmarks.timing import best_of
from tests.ops.registration.peers import linear_mi

# SimpleITK needs minutes at full size where others use the cores too.
pytestmark = pytest.mark.timeout(1800)
TRUTH = Affine.rigid([7, -6, 9], [9, -12, 8])
STRETCHED = chain(TRUTH, Affine.about([[1.05, 0.02, 0], [0, 0.96, 0.02], [0.01, 0, 1.03]], (0, 0, 0), (0, 0, 0)))
# A T1-weighted image: white brighter than grey, fluid and bone dark.
T1 = {
    HeadTissue.SOFT_TISSUE: 400, HeadTissue.FAT: 900, HeadTissue.BONE: 60, HeadTissue.DIPLOE: 350, HeadTissue.EYE: 150,
    HeadTissue.CSF: 120, HeadTissue.GREY: 480, HeadTissue.WHITE: 680, HeadTissue.DEEP_GREY: 560,
    HeadTissue.CEREBELLUM: 520, HeadTissue.BRAINSTEM: 620, HeadTissue.VENTRICLE: 110, HeadTissue.DURA: 300,
    HeadTissue.SINUS: 250, HeadTissue.CALCIFICATION: 40,
}  # fmt: skip


class Heads:
    """One head as CT and as MR, painted on two lattices, the second then moved: the truth needs no interpolation."""

    def __init__(self, size: float) -> None:
        rng = np.random.default_rng(4)
        self.head = sample_head(sample_participant(rng), rng)
        self.rng, self.size = rng, size

    def grid(self, offset: float) -> Grid:
        shape = tuple(round(n / self.size) for n in (180, 256, 256))
        centre = (np.array(shape[::-1]) - 1) * self.size / 2
        return Grid.from_spacing(shape, (self.size,) * 3, tuple(offset - centre))

    def image(self, kind: str, grid: Grid) -> Volume:
        table = np.zeros(len(HeadTissue), dtype=np.float32)
        for tissue, value in (HEAD_HU if kind == "CT" else T1).items():
            table[tissue] = value
        values = self.head.fields(grid).paint(table, edge_mm=1.0)
        values += self.rng.normal(scale=20, size=grid.shape).astype(np.float32)
        return Volume(values.astype(np.int16), grid, "HU" if kind == "CT" else "a.u.")

    def tre(self, found: Affine, truth: Affine) -> float:
        points = self.head.to_patient(np.random.default_rng(1).uniform(-60, 60, (200, 3)))
        return float(np.linalg.norm(found.apply(points) - truth.apply(points), axis=1).mean())


@pytest.fixture(scope="module")
def heads(measuring: bool) -> Heads:
    return Heads(1.0 if measuring else 3.0)


@pytest.fixture(scope="module")
def images(heads: Heads) -> dict[str, Volume]:
    fixed, moving = heads.grid(0.0), heads.grid(0.37)
    return {"fixed": heads.image("CT", fixed), "CT": heads.image("CT", moving), "MR": heads.image("MR", moving)}


@pytest.mark.parametrize(("kind", "model"), [("CT", "rigid"), ("MR", "rigid"), ("CT", "affine"), ("MR", "affine")])
def test_linear(heads: Heads, images: dict[str, Volume], kind: str, model: str, measuring: bool) -> None:
    truth = TRUTH if model == "rigid" else STRETCHED
    at = images[kind]
    if model == "rigid":
        moving = Volume(at.voxels, Grid(at.grid.shape, truth.matrix @ at.grid.affine), at.units)
    else:  # SimpleITK knows no sheared lattice: paint the head where it is moved from
        moving = _painted_through(heads, kind, truth, at.grid)
    plan = RegistrationPlan(LinearModel(model), Metric.MI)
    (found, ours), (peer, theirs) = (
        best_of(2, lambda: register(images["fixed"], moving, plan)),
        best_of(1, lambda: linear_mi(images["fixed"], moving, rigid=model == "rigid")),
    )
    errors = heads.tre(found.transform, truth), heads.tre(peer, truth)
    print(
        f"\n{model} CT–{kind}, {torch.get_num_threads()} threads: Popscan {ours:.2f} s, TRE {errors[0]:.3f} mm; "
        f"SimpleITK {theirs:.2f} s, TRE {errors[1]:.3f} mm; {theirs / ours:.1f} times"
    )
    assert errors[0] < heads.size / 4
    if measuring:
        assert ours < theirs


def _painted_through(heads: Heads, kind: str, truth: Affine, grid: Grid) -> Volume:
    """The head on ``grid`` as ``truth`` moves and stretches it: painted on the lattice that it comes from."""
    source = Grid(grid.shape, truth.inverse().matrix @ grid.affine)
    return Volume(heads.image(kind, source).voxels, grid, "HU" if kind == "CT" else "a.u.")


def test_unlike_heads_are_told_from_noise(heads: Heads, images: dict[str, Volume]) -> None:
    """The shared information of one head in two modalities is far above the limit."""
    found = register(images["fixed"], images["MR"], RegistrationPlan())
    assert found.quality.shared_information > 2 * RegistrationPolicy().least_shared_information
