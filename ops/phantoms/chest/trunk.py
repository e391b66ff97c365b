"""The trunk's layers: thoracic cage, muscle, fat, skin, breasts, arms and the scanner's table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ops.phantoms.chest.canvas import Canvas
from ops.phantoms.chest.heart import Heart
from ops.phantoms.labels import Tissue
from ops.phantoms.participant import Participant
from ops.phantoms.sdf import Array, Coordinates, Points, ellipsoid

WALL_MM = 11.0  # ribs and intercostal muscles
SKIN_MM = 2.0
MAX_HALF_WIDTH_MM = 158.0  # of a cage, unless the heart needs more
Z_TABLE = np.arange(-400.0, 400.0, 1.0)  # heights of the profile tables, template mm

# Cage half-width and half-depth as a share of the largest, against height above the heart's centre (mm).
_PROFILE_Z = (-400, -160, -90, -40, 0, 40, 80, 110, 135, 155, 170, 190, 400)
_PROFILE_WIDTH = (1.02, 1.05, 1.05, 1.03, 1.0, 0.95, 0.86, 0.74, 0.58, 0.42, 0.32, 0.27, 0.27)
_PROFILE_DEPTH = (0.98, 1.0, 1.03, 1.02, 1.0, 0.97, 0.90, 0.80, 0.66, 0.52, 0.42, 0.36, 0.36)
# Extra soft tissue at the sides: the shoulder girdle.
_SHOULDER_Z = (-400, 40, 80, 110, 140, 165, 185, 200, 400)
_SHOULDER_MM = (0.0, 0.0, 14.0, 38.0, 66.0, 52.0, 22.0, 8.0, 6.0)


@dataclass(frozen=True, eq=False)
class Trunk:
    """Shape of one participant's trunk, template LPS mm.

    Attributes
    ----------
    width, depth
        Largest inner half-width (x) and half-depth (y) of the cage in mm.
    centre_y
        y of the cage's centre at heart level.
    squareness
        0 = elliptic cross-section, 1 = boxy.
    fat, muscle
        Mean thickness of subcutaneous fat and of chest-wall muscle in mm.
    stretch
        Height of this chest relative to the template profile.
    breast
        Semi-axis of the breasts in mm, 0 for none.
    """

    width: float
    depth: float
    centre_y: float
    squareness: float
    fat: float
    muscle: float
    stretch: float
    breast: float
    breast_density: float
    arms_up: bool
    table_gap: float

    def _profile(self, z: npt.ArrayLike, values: tuple[float, ...], knots: tuple[float, ...] = _PROFILE_Z) -> Array:
        table = np.interp(Z_TABLE, np.asarray(knots) * self.stretch, values).astype(np.float32)
        index = np.clip(np.asarray(z, dtype=np.float32) - np.float32(Z_TABLE[0]), 0, len(table) - 1).astype(np.int16)
        return np.asarray(table[index], dtype=np.float32)

    def half_width(self, z: npt.ArrayLike) -> Array:
        """Inner half-width of the cage at height z."""
        return self._profile(z, tuple(self.width * v for v in _PROFILE_WIDTH))

    def half_depth(self, z: npt.ArrayLike) -> Array:
        """Inner half-depth of the cage at height z."""
        return self._profile(z, tuple(self.depth * v for v in _PROFILE_DEPTH))

    def middle(self, z: npt.ArrayLike) -> Array:
        """Middle of the cage (y) at height z: the sternum slopes backwards going up."""
        front_recedes = [0.55 * self.depth * (1 - d) for d in _PROFILE_DEPTH]
        return np.asarray(self.centre_y + self._profile(z, tuple(front_recedes)), dtype=np.float32)

    def front(self, z: npt.ArrayLike) -> Array:
        """Inner surface of the anterior wall (y) in the midline."""
        return np.asarray(self.middle(z) - self.half_depth(z), dtype=np.float32)

    def cage(self, p: Coordinates) -> tuple[Array, Array, Array]:
        """Radial distance to the cage's inner surface, and the direction (x, y) from its axis."""
        x, y, z = p
        w, d, yc = self.half_width(z), self.half_depth(z), self.middle(z)
        y = y - yc
        u, v = (x / w) ** 2, (y / d) ** 2
        k = (1 - np.float32(self.squareness)) * np.sqrt(u + v)
        k += np.float32(self.squareness) * np.sqrt(np.sqrt(u * u + v * v))
        rho = np.sqrt(x * x + y * y) + np.float32(1e-3)
        distance = rho * (1 - 1 / np.maximum(k, np.float32(0.02)))
        return np.asarray(distance, np.float32), np.asarray(x / rho, np.float32), np.asarray(y / rho, np.float32)

    def wall_point(self, angle: npt.ArrayLike, z: npt.ArrayLike, offset: float) -> Points:
        """Points ``offset`` mm outside the cage at ``angle`` (rad from straight back towards +x) and height z."""
        a, z = np.broadcast_arrays(np.asarray(angle, dtype=np.float64), np.asarray(z, dtype=np.float64))
        sx, sy = np.sin(a), np.cos(a)
        w, d, yc = self.half_width(z), self.half_depth(z), self.middle(z)
        u, v = (sx / w) ** 2, (sy / d) ** 2
        k = (1 - self.squareness) * np.sqrt(u + v) + self.squareness * np.sqrt(np.sqrt(u * u + v * v))
        r = 1 / k + offset
        return np.stack([r * sx, yc + r * sy, z], axis=-1)

    def muscle_mm(self, side: Array, back: Array, z: Array) -> Array:
        """Muscle outside the ribs: erector spinae behind, serratus and latissimus beside, pectorals in front above."""
        behind = np.maximum(back, 0)
        shoulder = self._profile(z, _SHOULDER_MM, _SHOULDER_Z)
        pectoral = np.clip((z - 10) / 60, 0, 1) * np.clip(-back, 0, 1) * np.abs(side) * 2
        near_spine = behind**3 * (np.float32(1.0) + np.abs(side))  # paraspinal columns, a groove in the midline
        thickness = self.muscle * (np.float32(0.35) + near_spine + pectoral + np.float32(0.5) * side * side)
        return np.asarray(thickness + shoulder * side * side, dtype=np.float32)

    def fat_mm(self, side: Array, back: Array, z: Array) -> Array:
        """Subcutaneous fat, thicker at the flanks and lower down, thin over sternum and spine."""
        low = np.clip(np.float32(1.0) - z / 250, 0.6, 1.6)
        around = np.float32(0.75) + np.float32(0.35) * np.abs(side) - np.float32(0.15) * back
        return np.asarray(self.fat * low * around, dtype=np.float32)


def trunk(participant: Participant, heart: Heart, rng: np.random.Generator) -> Trunk:
    """Build a cage around a heart: sternum in front, spine behind, the rest by sex and build."""
    low, high = heart.bounds()
    front = low[1] - rng.gamma(2.0, 3.0)  # lung or fat between heart and sternum
    spine_front = heart.chambers["LA"].bounds()[1][1] + rng.uniform(10, 20)
    back = spine_front + rng.uniform(40, 52)
    depth = (back - front) / 2
    male = participant.sex == "M"
    width = max(depth * rng.normal(1.62, 0.1), high[0] + 28, 100 * participant.height / 1.7)
    width = min(width, max(MAX_HALF_WIDTH_MM, high[0] + 15))
    fat = float(np.clip(3 + 1.25 * (participant.bmi - 18) * (0.9 if male else 1.15) * rng.uniform(0.7, 1.3), 2, 55))
    return Trunk(
        width=float(width),
        depth=float(depth),
        centre_y=float((front + back) / 2),
        squareness=float(rng.uniform(0.15, 0.6)),
        fat=fat,
        muscle=float((15 if male else 11) * rng.uniform(0.75, 1.35)),
        stretch=float(participant.height / 1.70 * rng.normal(1.0, 0.05)),
        breast=0.0 if male else float(np.clip(rng.normal(38 + 1.2 * (participant.bmi - 25), 9), 15, 75)),
        breast_density=float(rng.beta(1.2, 2.5)),
        arms_up=participant.arms_up,
        table_gap=float(rng.uniform(1, 12)),
    )


def paint_trunk(canvas: Canvas, body: Trunk) -> Array:
    """Paint table, skin, fat, muscle, breasts and arms; return the distance to the cage's inner surface."""
    p = canvas.template
    cage, side, back = body.cage(p)
    muscle = cage - np.float32(WALL_MM) - body.muscle_mm(side, back, p[2])
    outline = muscle - body.fat_mm(side, back, p[2])
    _paint_table(canvas, body)
    if body.breast:
        outline = np.minimum(outline, _breasts(body, p))
    canvas.paint(canvas.everything, outline, Tissue.SKIN)
    canvas.paint(canvas.everything, outline + np.float32(SKIN_MM), Tissue.FAT)
    if body.breast and body.breast_density > 0.15:
        gland = _breasts(body, p, shrink=1.15 - 0.65 * body.breast_density)
        gland = np.maximum(gland, outline + 8)
        canvas.paint(canvas.everything, np.maximum(gland, -muscle), Tissue.GLAND, only=(Tissue.FAT,))
    canvas.paint(canvas.everything, np.maximum(muscle, outline + np.float32(SKIN_MM)), Tissue.MUSCLE)
    # Fat planes between the muscle layers, as seen beside the ribs on every chest CT.
    plane = np.abs(cage - np.float32(WALL_MM + 2.5) - np.float32(0.5) * (muscle - cage + WALL_MM) * -np.abs(side)) - 1.2
    canvas.paint(canvas.everything, np.maximum(plane, muscle + 3), Tissue.FAT, only=(Tissue.MUSCLE,))
    _paint_axillae(canvas, body)
    _paint_arms(canvas, body)
    return cage


def _breasts(body: Trunk, p: Coordinates, shrink: float = 1.0) -> Array:
    b = body.breast
    distances = []
    for sign in (-1.0, 1.0):
        centre = body.wall_point(np.pi - sign * 0.72, -12.0, WALL_MM + body.fat * 0.5)
        distances.append(ellipsoid(p, centre, np.array([1.25 * b, 0.75 * b + 4, 1.2 * b]) * shrink))
    return np.minimum(*distances)


def _paint_table(canvas: Canvas, body: Trunk) -> None:
    """Paint a curved couch under the back: 3 mm carbon-fibre shell around foam."""
    lowest = body.middle(0.0) + body.depth + WALL_MM + 1.85 * body.muscle + 0.6 * body.fat + body.table_gap
    x, y = canvas.x[None, None, :], canvas.y[None, :, None]
    top = np.float32(lowest) - x * x / np.float32(1400)
    shell = np.broadcast_to(np.maximum(np.maximum(top - y, y - top - 45), np.abs(x) - 205), canvas.tissue.shape)
    canvas.paint(canvas.everything, np.asarray(shell, dtype=np.float32), Tissue.TABLE_SHELL)
    canvas.paint(canvas.everything, np.asarray(shell + np.float32(3), dtype=np.float32), Tissue.TABLE_CORE)


def _paint_axillae(canvas: Canvas, body: Trunk) -> None:
    """Fat between the pectoral and the scapular muscles, down along the ribs."""
    for sign in (-1.0, 1.0):
        for z, half in ((88.0, (11.0, 26.0, 34.0)), (48.0, (6.0, 22.0, 30.0))):
            centre = body.wall_point(sign * (np.pi / 2 + 0.12), z * body.stretch, WALL_MM + 12)
            slices = canvas.box(centre - half, centre + half)
            if slices is not None:
                pocket = ellipsoid(canvas.at(slices), centre, half)
                canvas.paint(slices, pocket, Tissue.FAT, only=(Tissue.MUSCLE,))


def _paint_arms(canvas: Canvas, body: Trunk) -> None:
    for sign in (-1.0, 1.0):
        shoulder = np.array([sign * (body.width * 0.74 + 62), float(body.middle(140.0)), 138.0 * body.stretch])
        away = [sign * 45, -15, 160] if body.arms_up else [sign * 34, 12, -260]
        end = shoulder + np.array(away)
        thickness = 30 + 0.55 * body.fat
        for radius, tissue in (
            (thickness + body.fat * 0.4, Tissue.SKIN),
            (thickness + body.fat * 0.4 - 2, Tissue.FAT),
            (thickness - 4, Tissue.MUSCLE),
            (11.0, Tissue.CORTICAL_BONE),
            (6.0, Tissue.MARROW),
        ):
            only = (
                None
                if tissue > Tissue.MUSCLE
                else (Tissue.AIR, Tissue.SKIN, Tissue.FAT, Tissue.TABLE_SHELL, Tissue.TABLE_CORE)
            )
            field = canvas.tube(np.stack([shoulder, end]), radius, 3.0)
            if field is not None:
                canvas.paint(*field, tissue, only=only)
