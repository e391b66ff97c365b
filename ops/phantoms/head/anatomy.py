"""An adult head: scalp, skull, folded brain, ventricles, falx and tentorium, with a known midline shift.

Shapes are given in template millimetres: origin between the commissures, x to the patient's left, y backwards, z up.
A `Head` scales, turns and moves the template to patient LPS mm, so that any `Grid`, also one oblique to the head, can
be painted. `Head.fields` gives the signed distances of all tissues in painting order: a label map is the last layer
that covers a voxel, an image is their blend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ops.phantoms.lattice import blend, coordinates
from ops.phantoms.noise import correlated_noise, double, kernel_blur
from ops.phantoms.participant import Participant
from ops.phantoms.sdf import Array, Coordinates, Points, box, ellipsoid, rotation, smooth_min
from ops.volume import Grid, Volume

BoolArray = npt.NDArray[np.bool_]


class HeadTissue(IntEnum):
    """Codes of the head's label map; larger ones are painted later."""

    AIR = 0
    SOFT_TISSUE = 1
    FAT = 2
    BONE = 3
    DIPLOE = 4
    EYE = 5
    CSF = 6  # subarachnoid space: sulci, fissures, cisterns
    GREY = 7
    WHITE = 8
    DEEP_GREY = 9
    CEREBELLUM = 10
    BRAINSTEM = 11
    VENTRICLE = 12
    DURA = 13  # falx and tentorium
    SINUS = 14
    CALCIFICATION = 15  # pineal gland and choroid plexus


Layer = tuple[HeadTissue, Array]
BRAIN_TISSUES = (
    HeadTissue.GREY,
    HeadTissue.WHITE,
    HeadTissue.DEEP_GREY,
    HeadTissue.CEREBELLUM,
    HeadTissue.BRAINSTEM,
)

# Typical unenhanced HU at 120 kV: grey 37–41, white 20–30, CSF 0–15, blood in sinuses 50–70 (textbook values).
HEAD_HU: dict[HeadTissue, float] = {
    HeadTissue.AIR: -1000,
    HeadTissue.SOFT_TISSUE: 50,
    HeadTissue.FAT: -90,
    HeadTissue.BONE: 1150,
    HeadTissue.DIPLOE: 550,
    HeadTissue.EYE: 12,
    HeadTissue.CSF: 8,
    HeadTissue.GREY: 38,
    HeadTissue.WHITE: 28,
    HeadTissue.DEEP_GREY: 37,
    HeadTissue.CEREBELLUM: 35,
    HeadTissue.BRAINSTEM: 32,
    HeadTissue.VENTRICLE: 8,
    HeadTissue.DURA: 48,
    HeadTissue.SINUS: 54,
    HeadTissue.CALCIFICATION: 170,
}

# Landmarks of the template, mm.
MONRO = np.array([0.0, -8.0, 10.0])
FALX_ANTERIOR = np.array([0.0, -85.0, 10.0])
FALX_POSTERIOR = np.array([0.0, 85.0, 10.0])
CEREBRUM_CENTRE = np.array([0.0, 0.0, 12.0])
CEREBRUM_AXES = np.array([66.0, 85.0, 66.0])
# Half-axis of the cerebrum where the shift has died away, and its reach above and below the foramen of Monro.
_SHIFT_LATERAL_MM, _SHIFT_VERTICAL_MM = 66.0, 45.0

_RIBBON_MM = 3.2  # cortical thickness
_FOLD_MM = 72.0  # radius of the sphere on which the pattern of folds is drawn
_MARGIN_MM = 2.0  # distances are kept this far outside the skin and outside the cavity, for blended edges
_SUBSLICE_MM = 1.25  # z step of CT painting, at most
_COARSE = 2  # painted pixel over CT pixel


@dataclass(frozen=True, eq=False)
class Folds:
    """Plane waves whose zero lines on the cerebral surface are the sulci.

    Attributes
    ----------
    waves
        ``(n, 3)`` wave vectors in rad/mm.
    phases
        ``(n,)`` rad.
    """

    waves: npt.NDArray[np.float32]
    phases: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Head:
    """One person's head and how it lies.

    Attributes
    ----------
    folds
        Pattern of the cortex.
    scale
        Template → patient, along the head's x, y, z.
    turn
        3×3 rotation, template directions → patient directions.
    centre
        Patient LPS mm of the template's origin.
    skull_mm, scalp_mm
        Thickness over the vault.
    gap_mm
        Subarachnoid space over the convexity.
    sulcus_mm
        Half width of a sulcus; grows with atrophy.
    ventricle_scale
        Calibre of the right and the left lateral ventricle, 1 = typical.
    shift_mm
        Displacement of the septum pellucidum at the foramen of Monro, mm, positive to the patient's left.
    calcified
        Radius in mm of the calcified pineal gland and choroid plexus; 0 = none.
    """

    folds: Folds
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    turn: npt.NDArray[np.float64] = field(default_factory=lambda: np.eye(3))
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    skull_mm: float = 6.5
    scalp_mm: float = 5.5
    gap_mm: float = 1.5
    sulcus_mm: float = 0.7
    ventricle_scale: tuple[float, float] = (1.0, 1.0)
    shift_mm: float = 0.0
    calcified: float = 2.5

    def __post_init__(self) -> None:
        if abs(self.shift_mm) > 20:
            raise ValueError(f"midline shift must lie within ±20 mm, got {self.shift_mm}")

    def to_patient(self, points: npt.ArrayLike) -> Points:
        """Patient LPS mm of template points ``(..., 3)``, without the midline shift."""
        scaled = np.asarray(points, dtype=np.float64) * self.scale
        return np.asarray(scaled @ self.turn.T + self.centre)

    def to_template(self, p: Coordinates) -> Coordinates:
        """Template coordinates of patient ones; the midline shift is still in them."""
        m = (self.turn / np.asarray(self.scale)).astype(np.float32)  # columns scaled: rows of its transpose
        x, y, z = (p[axis] - np.float32(self.centre[axis]) for axis in range(3))
        return (
            x * m[0, 0] + y * m[1, 0] + z * m[2, 0],
            x * m[0, 1] + y * m[1, 1] + z * m[2, 1],
            x * m[0, 2] + y * m[1, 2] + z * m[2, 2],
        )

    @property
    def septum(self) -> Points:
        """Patient LPS mm of the septum pellucidum at the foramen of Monro, shifted."""
        return self.to_patient(MONRO + np.array([self.shift_mm / self.scale[0], 0.0, 0.0]))

    @property
    def falx_attachments(self) -> tuple[Points, Points]:
        """Patient LPS mm of the anterior and the posterior attachment of the falx at that level."""
        return self.to_patient(FALX_ANTERIOR), self.to_patient(FALX_POSTERIOR)

    def unshifted(self, t: Coordinates) -> Coordinates:
        """Template coordinates with the midline shift undone: where this brain tissue would lie in a healthy head."""
        s = self.shift_mm / self.scale[0]
        if s == 0:
            return t
        x, y, z = t
        back = np.where(y < MONRO[1], MONRO[1] - FALX_ANTERIOR[1], FALX_POSTERIOR[1] - MONRO[1])
        side = np.where(x > s, _SHIFT_LATERAL_MM - s, _SHIFT_LATERAL_MM + s)
        along = np.clip(1 - ((y - MONRO[1]) / back) ** 2, 0, 1) ** 2
        upright = np.clip(1 - ((z - MONRO[2]) / _SHIFT_VERTICAL_MM) ** 2, 0, 1) ** 2
        across = np.clip(1 - ((x - s) / side) ** 2, 0, 1)
        return (x - s * along * upright * across).astype(np.float32), y, z

    def fields(self, grid: Grid) -> HeadFields:
        """Distances of all tissues on ``grid``; those that are not asked for cost nothing."""
        template = self.to_template(coordinates(grid))
        cavity = _cavity(template)
        inside = cavity < _MARGIN_MM
        position = _select(template, inside)
        mm = np.float32(np.mean(self.scale))
        return HeadFields(self, grid, template, inside, position, self.unshifted(position), cavity[inside] * mm)


@dataclass(frozen=True, eq=False)
class HeadFields:
    """Signed distances (mm, negative inside) on one grid, found when first asked for.

    Attributes
    ----------
    head, grid
        What was sampled where.
    template
        ``(z, y, x)`` template x, y, z.
    inside
        ``(z, y, x)`` voxels of the intracranial cavity, ``n`` of them.
    position
        ``(n,)`` template x, y, z.
    tissue_position
        The same with the midline shift undone.
    cavity
        ``(n,)`` distance to the inner table of the skull.
    """

    head: Head
    grid: Grid
    template: Coordinates
    inside: BoolArray
    position: Coordinates
    tissue_position: Coordinates
    cavity: Array

    @cached_property
    def _brain(self) -> _Brain:
        return _Brain(self.tissue_position, self.cavity / np.float32(np.mean(self.head.scale)), self.head)

    @cached_property
    def tent(self) -> Array:
        """Height ``(n,)`` above the tentorium."""
        return self._brain.tent * np.float32(np.mean(self.head.scale))

    @cached_property
    def inner(self) -> list[Layer]:
        """Tissue and distance ``(n,)`` inside the cavity, in painting order."""
        mm = np.float32(np.mean(self.head.scale))
        return [(tissue, distance * mm) for tissue, distance in self._brain.layers()]

    @cached_property
    def near(self) -> BoolArray:
        """``(z, y, x)`` voxels of the head, ``m`` of them."""
        _, skin = next(_outer_layers(self.template, self.head))
        return np.asarray(skin < _MARGIN_MM)

    @cached_property
    def outer(self) -> list[Layer]:
        """Tissue and distance ``(m,)`` outside the brain's cavity, in painting order."""
        mm = np.float32(np.mean(self.head.scale))
        return [(t, distance * mm) for t, distance in _outer_layers(_select(self.template, self.near), self.head)]

    def distance(self, tissue: HeadTissue) -> Array:
        """Distance ``(n,)`` to a tissue inside the cavity; the nearest of its layers, others on top not taken off."""
        return np.asarray(np.minimum.reduce([d for name, d in self.inner if name == tissue]))

    def labels(self) -> npt.NDArray[np.uint8]:
        """`HeadTissue` codes ``(z, y, x)``."""
        out = np.zeros(self.grid.shape, dtype=np.uint8)
        for where, layers in ((self.near, self.outer), (self.inside, self.inner)):
            flat = out[where]
            for tissue, distance in layers:
                flat[distance < 0] = tissue
            out[where] = flat
        return out

    def paint(self, values: npt.ArrayLike, edge_mm: float, add: Callable[[Array], None] | None = None) -> Array:
        """Image ``(z, y, x)`` float32 with one value per `HeadTissue`, edges blended over ``edge_mm``.

        ``add`` gets the intracranial voxels ``(n,)`` and changes them in place: lesions.
        """
        table = np.asarray(values, dtype=np.float32)
        out = np.full(self.grid.shape, table[HeadTissue.AIR], dtype=np.float32)
        for where, layers in ((self.near, self.outer), (self.inside, self.inner)):
            flat = out[where]
            for tissue, distance in layers:
                blend(flat, distance, float(table[tissue]), edge_mm)
            if where is self.inside and add is not None:
                add(flat)
            out[where] = flat
        return out


def sample_head(
    participant: Participant, rng: np.random.Generator, shift_mm: float = 0.0, max_tilt: float = 8.0
) -> Head:
    """Draw the head of a participant, tilted up to about ``max_tilt`` degrees in the head rest.

    Head size follows sex; sulci, ventricles and calcifications grow with age. The ventricle on the side from which the
    midline is pushed is compressed.
    """
    years = (participant.age - 55) / 20
    size = (1.01 if participant.sex == "M" else 0.96) * rng.lognormal(0, 0.025)
    calibre = float(np.clip(1.0 + 0.18 * years + rng.normal(0, 0.12), 0.6, 1.8))
    squeezed = max(0.4, 1 - 0.05 * abs(shift_mm))
    n = 14
    directions = rng.normal(size=(n, 3))
    waves = directions / np.linalg.norm(directions, axis=1, keepdims=True) * (2 * np.pi / rng.uniform(19, 31, (n, 1)))
    yaw, pitch, roll = np.clip(rng.normal(0, max_tilt / 2, 3), -max_tilt, max_tilt)
    return Head(
        folds=Folds(waves.astype(np.float32), rng.uniform(0, 2 * np.pi, n).astype(np.float32)),
        scale=tuple(float(size * rng.lognormal(0, 0.025)) for _ in range(3)),  # type: ignore[arg-type]
        turn=rotation(yaw, pitch, roll),
        centre=tuple(float(v) for v in rng.normal(0, 5, 3)),  # type: ignore[arg-type]
        skull_mm=float(np.clip(rng.normal(6.5, 0.8), 4.5, 9)),
        scalp_mm=float(np.clip(rng.normal(5.5, 1), 3.5, 8)),
        gap_mm=float(np.clip(1.4 + 0.6 * years + rng.normal(0, 0.3), 0.6, 4)),
        sulcus_mm=float(np.clip(0.65 + 0.3 * years + rng.normal(0, 0.12), 0.35, 1.6)),
        ventricle_scale=(
            calibre * (squeezed if shift_mm > 0 else 1.0),
            calibre * (squeezed if shift_mm < 0 else 1.0),
        ),
        shift_mm=shift_mm,
        calcified=float(max(0.0, rng.normal(2.0 + 0.5 * years, 1.0))),
    )


def hounsfield_table(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """HU per `HeadTissue` of one person and scan."""
    table = np.zeros(len(HeadTissue), dtype=np.float32)
    for tissue, mean in HEAD_HU.items():
        table[tissue] = mean
    table[[HeadTissue.BONE, HeadTissue.DIPLOE]] *= rng.normal(1, 0.08)
    table[list(BRAIN_TISSUES)] += rng.normal(0, 1.5)
    table[HeadTissue.SINUS] += rng.normal(0, 4)
    table[HeadTissue.CALCIFICATION] += rng.uniform(-60, 120)
    return table


def head_grid(head: Head, spacing: tuple[float, float, float], matrix: int = 512) -> Grid:
    """Axial grid ``(z, y, x)`` from below the skull base to above the vertex, its field of view around the head."""
    corners = np.array(np.meshgrid([-78, 78], [-98, 98], [-62, 88])).reshape(3, -1).T
    z = head.to_patient(corners)[:, 2]
    bottom, top = float(np.percentile(z, 25)), float(z.max())
    slices = int(np.ceil((top - bottom) / spacing[0]))
    middle = head.to_patient((0, 0, 10))
    half = (matrix - 1) / 2
    origin = (float(middle[0] - half * spacing[2]), float(middle[1] - half * spacing[1]), bottom)
    return Grid.from_spacing((slices, matrix, matrix), spacing, origin)


def slab_grids(grid: Grid, slices: int = 4, coarse: int = _COARSE) -> Iterator[tuple[slice, Grid, int]]:
    """Split a CT grid into slabs of slices and give each slab's painting grid.

    The painting grid has pixels ``coarse`` times as large and ``n`` sub-slices to each slice, which are to be averaged;
    yields the slab's slices, the painting grid and ``n``.
    """
    nz, ny, nx = grid.shape
    n = max(1, int(np.ceil(grid.spacing[0] / _SUBSLICE_MM)))
    affine = grid.affine.copy()
    affine[:3, :3] *= [1 / n, coarse, coarse]
    for start in range(0, nz, slices):
        stop = min(start + slices, nz)
        offset = (start - 0.5 + 0.5 / n, (coarse - 1) / 2, (coarse - 1) / 2)
        affine[:3, 3] = grid.index_to_patient(offset)
        yield slice(start, stop), Grid(((stop - start) * n, -(-ny // coarse), -(-nx // coarse)), affine), n


def to_slices(painted: Array, n: int, shape: tuple[int, ...]) -> Array:
    """Average ``n`` sub-slices into each slice and refine from half the matrix to ``shape`` (rows, columns)."""
    k, j, i = painted.shape
    mean = painted.reshape(k // n, n, j, i).mean(axis=1, dtype=np.float32)
    return double(double(mean, 1), 2)[:, : shape[0], : shape[1]]


def add_scanner(hu: Array, grid: Grid, sigma: float, rng: np.random.Generator) -> Volume:
    """CT volume, int16 HU: kernel blur and correlated noise of ``sigma`` HU; no beam hardening."""
    blurred = kernel_blur(hu, grid.spacing[2], 0.5, 0.0)
    blurred += np.float32(sigma) * correlated_noise(grid.shape, grid.spacing[2], 2.2, 1.0, rng)
    return Volume(np.clip(np.round(blurred), -1024, 3071).astype(np.int16), grid)


# --- shapes of the template ---------------------------------------------------------------------------------------


def capsule(
    p: Coordinates, a: npt.ArrayLike, b: npt.ArrayLike, ra: float, rb: float, calibre: Array | float = 1.0
) -> Array:
    """Signed distance to a capsule ``a``–``b``, radius ``calibre`` × ``ra`` … ``rb``; nearly so where it tapers."""
    start = np.asarray(a, dtype=np.float32)
    d = np.asarray(b, dtype=np.float32) - start
    x, y, z = p[0] - start[0], p[1] - start[1], p[2] - start[2]
    t = np.clip((x * d[0] + y * d[1] + z * d[2]) / (d @ d), 0, 1)
    distance = np.sqrt((x - t * d[0]) ** 2 + (y - t * d[1]) ** 2 + (z - t * d[2]) ** 2)
    return np.asarray(distance - calibre * (np.float32(ra) + t * np.float32(rb - ra)), dtype=np.float32)


def _smooth_max(a: Array, b: Array, radius: float) -> Array:
    return -smooth_min(-a, -b, radius)


def _select(p: Coordinates, where: BoolArray) -> Coordinates:
    return p[0][where], p[1][where], p[2][where]


def _mirrored(p: Coordinates) -> Coordinates:
    return np.abs(p[0]), p[1], p[2]


def _vault(p: Coordinates) -> Array:
    """Distance to the cerebral part of the cavity: an ellipsoid, narrower in front, flat below."""
    x, y, z = p
    whole = ellipsoid((x / (1 + np.float32(0.0012) * y), y, z), CEREBRUM_CENTRE, CEREBRUM_AXES)
    floor = np.float32(-20) + np.float32(0.05) * y - z  # the base rises a little to the front
    return _smooth_max(whole, floor, 14)


def _posterior_fossa(p: Coordinates) -> Array:
    return _smooth_max(ellipsoid(p, (0, 40, -30), (50, 39, 34)), np.float32(-60) - p[2], 8)


def _middle_fossa(p: Coordinates) -> Array:
    return ellipsoid(_mirrored(p), (36, -18, -18), (26, 36, 20))


def _cavity(p: Coordinates) -> Array:
    """Distance to the inner table of the skull."""
    fossae = smooth_min(_middle_fossa(p), _posterior_fossa(p), 4)
    canal = capsule(p, (0, 24, -45), (0, 20, -140), 17, 12)
    return smooth_min(smooth_min(_vault(p), fossae, 6), canal, 5)


def _outer_layers(p: Coordinates, head: Head) -> Iterator[Layer]:
    """Skin, then scalp, face, skull and what is in them, in painting order."""
    mirrored = _mirrored(p)
    cavity = _cavity(p)
    vault = smooth_min(_vault(p), ellipsoid(p, (0, 20, -25), (62, 62, 36)), 12)
    squama = _middle_fossa(p) - np.float32(0.6 * head.skull_mm)
    skull = smooth_min(vault - np.float32(head.skull_mm), squama, 3)
    face = ellipsoid(p, (0, -42, -62), (62, 56, 72))
    neck = capsule(p, (0, 25, -50), (0, 35, -160), 58, 56)
    skin = smooth_min(smooth_min(skull - np.float32(head.scalp_mm), face, 18), neck, 20)
    yield HeadTissue.SOFT_TISSUE, skin
    yield HeadTissue.FAT, np.maximum(skin + np.float32(1.6), np.float32(1.2) - skull)
    mandible = np.maximum(np.abs(face + 12) - 5, p[2] + 70)
    yield HeadTissue.BONE, np.maximum(mandible, p[1] + 20)
    # The base ends below; the face carries only shells of bone around its cavities.
    bone = np.maximum(skull, -np.float32(58) - p[2] + np.maximum(p[1] * np.float32(-0.45), 0))
    yield HeadTissue.BONE, bone
    spongy = np.maximum(bone + np.float32(2.2), np.float32(2.0) - cavity)
    yield HeadTissue.DIPLOE, spongy
    petrous = capsule(mirrored, (58, 30, -26), (16, 4, -24), 9, 7)
    yield HeadTissue.BONE, np.maximum(petrous, np.float32(0.5) - cavity)
    mastoid = ellipsoid(mirrored, (58, 34, -42), (8, 13, 14))
    cells = np.sin(p[0] * np.float32(1.1)) * np.sin(p[1] * np.float32(1.0)) * np.sin(p[2] * np.float32(0.9))
    yield HeadTissue.AIR, np.maximum(mastoid, cells * 4)
    orbit = capsule(mirrored, (31, -84, -30), (16, -40, -24), 17, 6)
    yield HeadTissue.BONE, np.maximum(orbit - 2, skin + 8)
    yield HeadTissue.FAT, np.maximum(orbit, skin + 4)
    yield HeadTissue.EYE, ellipsoid(mirrored, (31, -84, -30), (12, 12, 12))
    yield HeadTissue.SOFT_TISSUE, capsule(mirrored, (30, -72, -30), (18, -44, -24), 2, 2)
    for centre, axes in (
        ((28, -68, -58), (14, 15, 16)),  # maxillary sinus
        ((10, -70, -30), (7, 18, 10)),  # ethmoid
        ((9, -30, -32), (9, 12, 9)),  # sphenoid
        ((14, -86, -4), (10, 4, 9)),  # frontal
        ((7, -72, -55), (5, 26, 16)),  # nasal cavity
    ):
        sinus = ellipsoid(mirrored, centre, axes)
        clear = np.float32(2.5) - cavity
        yield HeadTissue.BONE, np.maximum(np.maximum(sinus - np.float32(1.5), clear - 1), skin + 4)
        yield HeadTissue.AIR, np.maximum(sinus, clear)


class _Brain:
    """Everything inside the cavity, for flat points with the midline shift undone."""

    def __init__(self, p: Coordinates, cavity: Array, head: Head) -> None:
        self.p, self.cavity, self.head = p, cavity, head
        self.mirrored = _mirrored(p)
        self.tent = self._above_tentorium()

    def layers(self) -> Iterator[Layer]:
        """Tissue and distance in painting order."""
        p, mirrored, cavity = self.p, self.mirrored, self.cavity
        head = self.head
        tent = self.tent
        surface = cavity + np.float32(head.gap_mm)
        stem = self._brainstem()
        cisterns = self._cisterns(stem)
        spaces = np.minimum(cisterns, self._fissures())
        smooth = np.maximum(np.maximum(surface, np.float32(2.0) - tent), -spaces)
        cerebrum = self._folded(smooth, surface)
        yield HeadTissue.CSF, cavity
        yield HeadTissue.GREY, cerebrum
        yield HeadTissue.WHITE, cerebrum + np.float32(_RIBBON_MM)
        for centre, axes in (
            ((14, -22, 12), (5.5, 11, 9)),  # head of the caudate nucleus
            ((25, -5, 4), (7, 18, 10)),  # lentiform nucleus
            ((11.5, 10, 6), (9, 14, 9)),  # thalamus
        ):
            yield HeadTissue.DEEP_GREY, np.maximum(ellipsoid(mirrored, centre, axes), -spaces)
        cerebellum = np.maximum(np.maximum(surface + 1, tent + np.float32(2.0)), np.float32(16) - p[1])
        cerebellum = np.maximum(cerebellum, np.maximum(-cisterns, -np.float32(58) - p[2]))
        folia = np.abs(np.sin((p[2] - np.float32(0.25) * p[1]) * np.float32(np.pi / 4.5))) * 3 - np.float32(0.5)
        yield HeadTissue.CEREBELLUM, np.maximum(cerebellum, -np.maximum(folia, -cerebellum - 6))
        yield HeadTissue.BRAINSTEM, np.maximum(stem, cavity + 2)
        for ventricle in self._ventricles():
            yield HeadTissue.VENTRICLE, ventricle
        yield HeadTissue.DURA, self._falx(tent)
        yield HeadTissue.DURA, self._tentorium(tent)
        yield HeadTissue.SINUS, self._sinuses(tent)
        if head.calcified > 0:
            r = head.calcified
            yield HeadTissue.CALCIFICATION, ellipsoid(p, (0, 31, 4), (r, 1.2 * r, r))
            yield HeadTissue.CALCIFICATION, ellipsoid(mirrored, (23, 40, 13), (r, 1.5 * r, 1.3 * r))

    def _above_tentorium(self) -> Array:
        """Height above the tent: its ridge falls backwards, its sides to the petrous bones and transverse sinuses."""
        x, y, z = self.mirrored
        ridge = np.float32(2.0) - np.float32(0.30) * (y - 30)
        tent = z - ridge + np.float32(0.42) * x
        # In front of the petrous ridge the floor of the middle fossa takes over.
        front = np.float32(0.75) * (np.float32(14) - y)
        return np.asarray(np.maximum(tent * np.float32(0.88), front), dtype=np.float32)

    def _brainstem(self) -> Array:
        p = self.p
        midbrain = ellipsoid(p, (0, 17, -8), (15, 12, 12))
        pons = ellipsoid(p, (0, 15, -27), (16, 13, 14))
        medulla = capsule(p, (0, 20, -36), (0, 22, -140), 8, 6)
        return smooth_min(smooth_min(midbrain, pons, 5), medulla, 6)

    def _cisterns(self, stem: Array) -> Array:
        """Ambient, quadrigeminal and prepontine cisterns around the brain stem, and the suprasellar star."""
        p, mirrored = self.p, self.mirrored
        shell = np.maximum(stem - np.float32(3.2), np.maximum(p[2] - 1, -p[2] - 60))
        quadrigeminal = ellipsoid(p, (0, 32, -2), (11, 5, 7))
        star = ellipsoid(p, (0, -8, -17), (12, 10, 7))
        rays = capsule(mirrored, (6, -12, -17), (34, -16, -14), 3.5, 2.5)
        front = capsule(p, (0, -12, -17), (0, -34, -14), 3, 2)
        magna = ellipsoid(p, (0, 62, -56), (16, 12, 6))
        return np.asarray(np.minimum.reduce([shell, quadrigeminal, star, rays, front, magna]))

    def _fissures(self) -> Array:
        """Interhemispheric and Sylvian fissures."""
        p, head = self.p, self.head
        width = np.float32(0.9 + 0.7 * head.sulcus_mm)
        interhemispheric = np.maximum(np.abs(p[0]) - width, -self._callosum())
        sylvian_width = np.float32(0.4 + 1.2 * head.sulcus_mm)
        x, y, z = self.mirrored
        # From the temporal pole backwards and up, as far as the curved floor, the insula.
        plane = (z + np.float32(2) - np.float32(0.35) * (y + 5)) * np.float32(0.94)
        reach = np.maximum(np.maximum(np.abs(y + 6) - 30, np.float32(38) - x), 0)
        sylvian = np.hypot(plane, reach) - sylvian_width
        floor = np.abs(ellipsoid(self.mirrored, (18, -4, 3), (20, 30, 18))) - np.float32(0.8) * sylvian_width
        insula = np.maximum(floor, np.float32(31) - x)
        return np.asarray(np.minimum(interhemispheric, np.minimum(sylvian, insula)))

    def _callosum(self) -> Array:
        """Distance in the median plane to the corpus callosum and what lies below it."""
        y, z = self.p[1], self.p[2]
        k = np.hypot((y - 1) / 44, (z - 2) / 30)
        return np.asarray((k - 1) * np.float32(34), dtype=np.float32)

    def _folded(self, smooth: Array, surface: Array) -> Array:
        """Carve the sulci: radial sheets over the zero lines of the waves, each as deep as a slow wave says."""
        out = smooth.copy()
        near = np.flatnonzero((smooth < 2) & (surface > -24))
        x, y, z = (c[near] for c in self.p)
        n = np.stack([x, y, z - np.float32(CEREBRUM_CENTRE[2])], axis=1) / CEREBRUM_AXES.astype(np.float32)
        n *= np.float32(_FOLD_MM) / np.maximum(np.linalg.norm(n, axis=1, keepdims=True), np.float32(1e-3))
        value = np.zeros(len(near), dtype=np.float32)
        gradient = np.zeros((len(near), 3), dtype=np.float32)
        for wave, phase in zip(self.head.folds.waves, self.head.folds.phases, strict=True):
            angle = n @ wave + phase
            value += np.sin(angle)
            gradient += np.cos(angle)[:, None] * wave
        slope = np.maximum(np.linalg.norm(gradient, axis=1), np.float32(0.35))
        slow = self.head.folds.waves[:3] / 2
        depth = 12 + np.float32(2.0) * np.sin(n @ slow.T + self.head.folds.phases[:3]).sum(axis=1)
        depth_here = -surface[near]
        width = np.float32(self.head.sulcus_mm) * (np.float32(1.6) - np.clip(depth_here / depth, 0, 1))
        sulcus = np.maximum(np.abs(value) / slope - width, depth_here - depth)
        out[near] = np.maximum(out[near], -sulcus)
        return out

    def _ventricles(self) -> Iterator[Array]:
        p, mirrored = self.p, self.mirrored
        right, left = self.head.ventricle_scale
        calibre = np.where(p[0] < 0, np.float32(right), np.float32(left))
        horns = np.full(p[0].shape, np.float32(1e3), dtype=np.float32)
        for a, b, ra, rb in (
            ((9, -36, 9), (7, -10, 15), 4.2, 5.5),  # frontal horn
            ((7, -10, 15), (13, 18, 20), 5.5, 5.0),  # body
            ((13, 18, 20), (23, 38, 12), 5.0, 7.0),  # to the atrium
            ((23, 38, 12), (20, 62, 7), 6.0, 2.0),  # occipital horn
            ((23, 38, 12), (31, 16, -10), 4.5, 2.2),  # temporal horn
            ((31, 16, -10), (29, -6, -17), 2.2, 1.8),
        ):
            horns = np.minimum(horns, capsule(mirrored, a, b, ra, rb, calibre))
        yield np.maximum(horns, np.float32(0.8) - mirrored[0])  # the septum pellucidum keeps them apart
        mean = float(np.sqrt(right * left))
        yield box(p, (0, 4, 3), (1.6 * mean, 13, 8), rounding=1.2)  # third
        yield capsule(mirrored, (0, -7, 9.5), (6, -9, 13), 1.4, 1.6)  # foramen of Monro
        yield ellipsoid(p, (0, 33, -34), (7 * mean, 5 * mean, 10))  # fourth

    def _falx(self, tent: Array) -> Array:
        free_edge = np.float32(7) - self._callosum()
        return np.asarray(np.maximum(np.maximum(np.abs(self.p[0]) - np.float32(0.8), free_edge), -tent))

    def _tentorium(self, tent: Array) -> Array:
        p = self.p
        incisura = np.float32(19) - np.hypot(p[0], np.float32(0.75) * (p[1] - 17))
        return np.asarray(np.maximum(np.maximum(np.abs(tent) - np.float32(0.8), incisura), np.float32(14) - p[1]))

    def _sinuses(self, tent: Array) -> Array:
        """Superior sagittal, transverse and straight sinuses."""
        p = self.p
        at_vault = self.cavity + 2
        sagittal = np.maximum(np.hypot(p[0], at_vault) - np.float32(3.4), np.maximum(-tent - 2, 2 - p[2]))
        transverse = np.maximum(np.hypot(tent, at_vault) - np.float32(3.4), np.float32(30) - p[1])
        straight = np.maximum(np.hypot(p[0], tent) - np.float32(1.8), np.float32(36) - p[1])
        return np.asarray(np.minimum.reduce([sagittal, transverse, straight]))
