"""Bodies without a heart: head, abdomen and pelvis, legs. Crude on purpose; they only teach what a heart is not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ops.phantoms.labels import TERRITORY_LABELS, Tissue
from ops.training.anatomy import Anatomy, Point

BoolArray = npt.NDArray[np.bool_]

_ABDOMINAL = (Tissue.BOWEL, Tissue.BOWEL, Tissue.STOMACH, Tissue.STOMACH_GAS, Tissue.KIDNEY, Tissue.MUSCLE)


class _Body:
    """Tissue codes on an isotropic grid, painted ellipsoid by ellipsoid in mm from the grid's centre ``(z, y, x)``."""

    def __init__(self, size_mm: Point, spacing_mm: float) -> None:
        shape = tuple(round(s / spacing_mm) for s in size_mm)
        self.spacing_mm = spacing_mm
        self.tissues = np.full(shape, Tissue.AIR, dtype=np.uint8)
        self.axes = np.meshgrid(
            *[((np.arange(n) - (n - 1) / 2) * spacing_mm).astype(np.float32) for n in shape], indexing="ij", sparse=True
        )

    def ellipsoid(self, centre: npt.ArrayLike, radii: npt.ArrayLike) -> BoolArray:
        """Voxels inside an ellipsoid; an infinite radius makes a cylinder along that axis."""
        c, r = np.asarray(centre, dtype=np.float32), np.asarray(radii, dtype=np.float32)
        return np.asarray(sum(((a - c[i]) / r[i]) ** 2 for i, a in enumerate(self.axes)) < 1)

    def paint(self, where: BoolArray, tissue: Tissue, only: BoolArray | None = None) -> None:
        """Cover voxels by a tissue, within ``only`` where given."""
        self.tissues[where if only is None else where & only] = tissue

    def anatomy(self) -> Anatomy:
        """Finish: bone and aorta are labelled as in a chest, everything else is background."""
        labels = np.zeros_like(self.tissues)
        labels[np.isin(self.tissues, (Tissue.CORTICAL_BONE, Tissue.MARROW))] = TERRITORY_LABELS["bone"]
        labels[np.isin(self.tissues, (Tissue.AORTA_BLOOD, Tissue.AORTA_WALL))] = TERRITORY_LABELS["aorta"]
        return Anatomy(self.tissues, labels, self.spacing_mm)

    def bone(self, centre: npt.ArrayLike, radii: npt.ArrayLike, cortex_mm: float) -> None:
        """Paint a cortical shell around marrow."""
        self.paint(self.ellipsoid(centre, radii), Tissue.CORTICAL_BONE)
        self.paint(self.ellipsoid(centre, np.asarray(radii) - cortex_mm), Tissue.MARROW)


def head(rng: np.random.Generator, spacing_mm: float) -> Anatomy:
    """Skull with brain, ventricles, orbits and air-filled sinuses, on a neck."""
    body = _Body((240, 240, 200), spacing_mm)
    radii = np.array([95, 92, 74]) * rng.uniform(0.88, 1.08, 3)
    neck = body.ellipsoid((0, 20, 0), (np.inf, 60, 55)) & (body.axes[0] < -20)
    body.paint(neck, Tissue.MUSCLE)
    body.paint(body.ellipsoid((0, 0, 0), radii), Tissue.SKIN)
    body.paint(body.ellipsoid((0, 0, 0), radii - 5), Tissue.CORTICAL_BONE)
    body.paint(body.ellipsoid((0, 0, 0), radii - 5 - rng.uniform(4, 9)), Tissue.BRAIN)
    for _ in range(3):
        body.paint(body.ellipsoid(rng.normal(0, 12, 3), rng.uniform(6, 25, 3)), Tissue.SPINAL_CORD)
    for _ in range(rng.integers(4, 9)):
        centre = (rng.uniform(-85, -40), rng.uniform(-75, -20), rng.uniform(-45, 45))
        tissue = Tissue(rng.choice([Tissue.AIRWAY, Tissue.CORTICAL_BONE, Tissue.FAT, Tissue.MUSCLE]))
        body.paint(body.ellipsoid(centre, rng.uniform(8, 24, 3)), tissue)
    body.bone((-120, 40, 0), (60, 16, 20), 3)
    return body.anatomy()


def abdomen(rng: np.random.Generator, spacing_mm: float) -> Anatomy:
    """Liver, spleen, kidneys, bowel with gas and faeces, aorta, spine, pelvis; sometimes a slip of lung above."""
    body = _Body((300, 260, 380), spacing_mm)
    half = np.array([np.inf, rng.uniform(85, 125), rng.uniform(125, 185)])
    body.paint(body.ellipsoid((0, 0, 0), half), Tissue.FAT)
    wall = half - rng.uniform(6, 35)
    body.paint(body.ellipsoid((0, 0, 0), wall), Tissue.MUSCLE)
    inside = body.ellipsoid((0, -5, 0), wall - rng.uniform(8, 16))
    body.paint(inside, Tissue.ABDOMINAL_FAT)
    for _ in range(rng.integers(25, 60)):
        centre = rng.uniform(-1, 1, 3) * (150, wall[1], wall[2])
        tissue = Tissue(rng.choice(_ABDOMINAL))
        body.paint(body.ellipsoid(centre, rng.uniform(8, 40, 3)), tissue, inside)
    if rng.uniform() < 0.5:
        body.paint(body.ellipsoid((150, 0, -50), (70, 90, 110)), Tissue.LUNG, inside)
        body.paint(body.ellipsoid((150, 0, 60), (60, 90, 100)), Tissue.LUNG, inside)
    body.paint(body.ellipsoid((90, -10, -60), rng.uniform(60, 95, 3)), Tissue.LIVER, inside)
    body.paint(body.ellipsoid((90, 30, 90), rng.uniform(25, 50, 3)), Tissue.SPLEEN, inside)
    for side in (-1, 1):
        body.paint(body.ellipsoid((20, 35, 60 * side), (55, 28, 26)), Tissue.KIDNEY, inside)
        body.bone((-110, 30, 90 * side), (60, 45, 22), 3)
    body.paint(body.ellipsoid((0, 25, 8), (np.inf, 11, 11)), Tissue.AORTA_BLOOD)
    body.bone((0, 52, 0), (1e6, 18, 23), 2)
    body.paint(body.ellipsoid((0, 75, 0), (np.inf, 8, 10)), Tissue.SPINAL_CORD)
    return body.anatomy()


def legs(rng: np.random.Generator, spacing_mm: float) -> Anatomy:
    """Two legs."""
    body = _Body((240, 200, 400), spacing_mm)
    for side in (-1, 1):
        x = side * rng.uniform(80, 110)
        radius = rng.uniform(50, 85)
        body.paint(body.ellipsoid((0, 0, x), (np.inf, radius, radius)), Tissue.FAT)
        body.paint(body.ellipsoid((0, 0, x), (np.inf, radius - 8, radius - 10)), Tissue.MUSCLE)
        for _ in range(6):
            centre = (rng.uniform(-100, 100), rng.uniform(-40, 40), x + rng.uniform(-40, 40))
            body.paint(body.ellipsoid(centre, (80, 4, 12)), Tissue.FAT)
        body.bone((0, rng.uniform(-15, 15), x + rng.uniform(-10, 10)), (1e6, 15, 15), 4)
    return body.anatomy()


def organ(rng: np.random.Generator, spacing_mm: float) -> Anatomy:
    """Paint a soft ellipsoid in air, fat or a shell of bone: heart-sized and round, but not a heart."""
    body = _Body((240, 240, 240), spacing_mm)
    radii = rng.uniform(45, 95, 3)
    around = Tissue(rng.choice([Tissue.AIR, Tissue.FAT, Tissue.CORTICAL_BONE, Tissue.MUSCLE]))
    body.paint(body.ellipsoid((0, 0, 0), radii + rng.uniform(3, 25)), around)
    inside = body.ellipsoid((0, 0, 0), radii)
    body.paint(inside, Tissue(rng.choice([Tissue.BRAIN, Tissue.LIVER, Tissue.MUSCLE, Tissue.SPLEEN])))
    for _ in range(rng.integers(0, 9)):
        tissue = Tissue(rng.choice([Tissue.FAT, Tissue.SPINAL_CORD, Tissue.KIDNEY, Tissue.OTHER_CALCIUM, Tissue.BOWEL]))
        body.paint(body.ellipsoid(rng.uniform(-0.7, 0.7, 3) * radii, rng.uniform(3, 22, 3)), tissue, inside)
    return body.anatomy()


KINDS: tuple[Callable[[np.random.Generator, float], Anatomy], ...] = (head, organ, abdomen, abdomen, legs)


def negative(rng: np.random.Generator, spacing_mm: float) -> Anatomy:
    """Draw one body without a heart; abdomens twice as often, because a heart may really border on them."""
    return KINDS[rng.integers(len(KINDS))](rng, spacing_mm)
