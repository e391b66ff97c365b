"""Simulated heads as CT and as MR, moved by maps that are known exactly."""

from __future__ import annotations

import numpy as np

from ops.phantoms.head.anatomy import HEAD_HU, HeadTissue, sample_head
from ops.phantoms.participant import sample_participant
from ops.registration.transforms import Affine, Transform, chain
from ops.volume import Grid, Volume

# A T1-weighted image: white brighter than grey, fluid and bone dark.
T1 = {
    HeadTissue.SOFT_TISSUE: 400, HeadTissue.FAT: 900, HeadTissue.BONE: 60, HeadTissue.DIPLOE: 350, HeadTissue.EYE: 150,
    HeadTissue.CSF: 120, HeadTissue.GREY: 480, HeadTissue.WHITE: 680, HeadTissue.DEEP_GREY: 560,
    HeadTissue.CEREBELLUM: 520, HeadTissue.BRAINSTEM: 620, HeadTissue.VENTRICLE: 110, HeadTissue.DURA: 300,
    HeadTissue.SINUS: 250, HeadTissue.CALCIFICATION: 40,
}  # fmt: skip
UNITS = {"CT": "HU", "MR": "a.u."}


class Heads:
    """One head as CT and as MR, painted on two lattices, the second then moved: the truth needs no interpolation."""

    def __init__(self, size: float, seed: int) -> None:
        rng = np.random.default_rng(seed)
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
        return Volume(values.astype(np.int16), grid, UNITS[kind])

    def painted_through(self, kind: str, truth: Affine, grid: Grid) -> Volume:
        """The head on ``grid`` as ``truth`` moves and stretches it: painted on the lattice that it comes from.

        For affine maps, since ITK knows no sheared lattice.
        """
        source = Grid(grid.shape, truth.inverse().matrix @ grid.affine)
        return Volume(self.image(kind, source).voxels, grid, UNITS[kind])

    def tre(self, found: Transform, truth: Transform) -> float:
        """Mean target registration error in mm at 200 points of the brain."""
        return mean_distance(found, truth, self.head.to_patient(np.random.default_rng(1).uniform(-60, 60, (200, 3))))


def moved_by(volume: Volume, truth: Affine) -> Volume:
    """The volume where ``truth`` puts it: its lattice moves, no voxel is interpolated."""
    return Volume(volume.voxels, Grid(volume.grid.shape, truth.matrix @ volume.grid.affine), volume.units)


def perturbation(rng: np.random.Generator, centre: np.ndarray, kind: str) -> Affine:
    """Rigid up to 20 mm and 15°, and for ``affine`` stretches and shears up to 8 %."""
    turn, shift = (size * v / np.linalg.norm(v) for size, v in zip((15, 20), rng.normal(size=(2, 3)), strict=True))
    rigid = Affine.rigid(turn * rng.uniform(0.3, 1), shift * rng.uniform(0.3, 1), centre)
    if kind == "rigid":
        return rigid
    return chain(Affine.about(np.eye(3) + rng.uniform(-0.08, 0.08, (3, 3)), (0, 0, 0), centre), rigid)


def mean_distance(found: Transform, expected: Transform, points: np.ndarray) -> float:
    """Mean distance in mm between where two transforms take ``(n, 3)`` points."""
    return float(np.linalg.norm(found.apply(points) - expected.apply(points), axis=1).mean())
