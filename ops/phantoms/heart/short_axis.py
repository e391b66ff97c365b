"""Oblique short-axis MR of a beating heart: cine (bSSFP look) and late enhancement, with true labels.

The heart is `beating_heart`'s; here it is set into a trunk and into patient space, doubly angulated, and painted with
the partial volume of thick slices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ops.diseases.cardiac.volumes import Structure
from ops.phantoms.heart.beating_heart import RV_ANGLE, Heart, Phase, Scar, filling_curve
from ops.phantoms.lattice import coverage, rician
from ops.phantoms.participant import Participant, sample_participant
from ops.phantoms.sdf import Array, Coordinates, ellipsoid, unit
from ops.phantoms.study import SimulatedStudy, SliceSeries, Stack
from ops.volume import Grid, Volume

FloatArray = npt.NDArray[np.float64]

# Directions of the apex as seen from the base, LPS: to the left, to the front and down.
AXIS = unit((0.62, -0.58, -0.52))
# Centre of the end-diastolic base, LPS mm.
BASE = np.array([18.0, -18.0, 10.0])
RV_WALL_MM = 3.0
PAPILLARY_ANGLES = (math.radians(-55), math.radians(95))  # anterolateral and posteromedial
# Corners in (u, v, h) of the box that is painted; the LV's length is added to the last h.
HEART_BOX_MM = ((-105.0, -68.0, -75.0), (62.0, 68.0, 16.0))
# Of a study; the field of view is a matrix of pixels of 1.35–1.7 mm.
MATRIX, PHASES = 208, (25, 30)
# Distances between slices are averaged over planes about this far apart.
PLANE_STEP_MM = 1.5


def heart_frame(axis: npt.ArrayLike = AXIS) -> FloatArray:
    """Rows u, v, h of the heart's coordinates in LPS for a long axis from base to apex."""
    h = unit(axis)
    down = np.array([0.0, 0.0, -1.0])
    v = unit(down - (down @ h) * h)
    return np.stack([np.cross(h, v), v, h])


def short_axis_grid(
    slices: int, slice_distance_mm: float, matrix: int, pixel_mm: float, *, above_base_mm: float, frame: FloatArray
) -> Grid:
    """Doubly angulated short-axis stack from the apex (first slice) to ``above_base_mm`` beyond the base.

    Rows run down, columns to the lateral wall, as such images are shown; slices follow their normal.
    """
    u, v, h = frame
    steps = np.stack([-slice_distance_mm * h, pixel_mm * v, pixel_mm * u], axis=1)
    affine = np.eye(4)
    affine[:3, :3] = steps
    middle = BASE - above_base_mm * h - 12.0 * u
    affine[:3, 3] = middle - steps @ [slices - 1, (matrix - 1) / 2, (matrix - 1) / 2]
    return Grid((slices, matrix, matrix), affine)


# Tissue classes besides `Structure`, numbered after it.
BODY = 0
SCAR, OBSTRUCTION, OTHER_BLOOD, WALL, FAT = 7, 8, 9, 10, 11
N_CLASSES = 12

# Signal of each class, a.u. bSSFP goes with T2/T1: blood and fat bright. Late enhancement nulls healthy myocardium.
CINE_SIGNAL: Mapping[int, float] = {
    Structure.LV_BLOOD: 560,
    Structure.LV_MYOCARDIUM: 165,
    Structure.RV_BLOOD: 540,
    Structure.PAPILLARY: 170,
    Structure.LEFT_ATRIUM: 545,
    Structure.AORTA: 550,
    SCAR: 175,
    OBSTRUCTION: 160,
    OTHER_BLOOD: 530,
    WALL: 170,
    FAT: 430,
}
LGE_SIGNAL: Mapping[int, float] = {
    Structure.LV_BLOOD: 300,
    Structure.LV_MYOCARDIUM: 25,
    Structure.RV_BLOOD: 295,
    Structure.PAPILLARY: 40,
    Structure.LEFT_ATRIUM: 300,
    Structure.AORTA: 300,
    SCAR: 420,
    OBSTRUCTION: 30,
    OTHER_BLOOD: 295,
    WALL: 60,
    FAT: 380,
}
# Trunk outside the heart, in `_body`: lung, fat, muscle, liver, marrow, blood.
CINE_BODY = (25.0, 430.0, 120.0, 165.0, 240.0, 530.0)
LGE_BODY = (15.0, 380.0, 80.0, 110.0, 170.0, 290.0)


def heart_coordinates(grid: Grid, along_slice_mm: float, frame: FloatArray) -> Coordinates:
    """``(u, v, h)`` mm of voxel centres moved ``along_slice_mm`` along the slice axis, each float32 ``(z, y, x)``."""
    start = frame @ (grid.origin + along_slice_mm * grid.directions[:, 0] - BASE)
    steps = frame @ grid.affine[:3, :3]
    k, j, i = (np.arange(n, dtype=np.float64) for n in grid.shape)
    u, v, h = (
        (a + s[0] * k[:, None, None] + s[1] * j[:, None] + s[2] * i).astype(np.float32)
        for a, s in zip(start, steps, strict=True)
    )
    return u, v, h


def fractions(phase: Phase, grid: Grid, thickness_mm: float, frame: FloatArray) -> Array:
    """Share of every class in every voxel, ``(N_CLASSES, z, y, x)``, averaged over the slice thickness."""
    total = np.zeros((N_CLASSES, *grid.shape), dtype=np.float32)
    total[BODY] = 1
    box = _heart_box(phase, grid, frame)
    near = grid.crop(tuple(s.start for s in box), tuple(s.stop for s in box))
    planes = max(1, round(thickness_mm / PLANE_STEP_MM))
    offsets = ((np.arange(planes) + 0.5) / planes - 0.5) * thickness_mm
    edge = math.sqrt(grid.spacing[1] * grid.spacing[2])
    shares = (_plane_fractions(phase, heart_coordinates(near, float(o), frame), edge) for o in offsets)
    total[(slice(None), *box)] = sum(shares) / np.float32(planes)
    return total


def _heart_box(phase: Phase, grid: Grid, frame: FloatArray) -> tuple[slice, slice, slice]:
    """Index box of the heart and what hangs on it; the great vessels leave it upwards through the stack's end."""
    low, high = np.array(HEART_BOX_MM)
    high[2] += phase.heart.length
    corners = np.array(np.meshgrid(*np.stack([low, high], axis=1))).reshape(3, -1).T @ frame + BASE
    index = grid.patient_to_index(corners)
    start = np.clip(np.floor(index.min(axis=0)).astype(int), 0, np.array(grid.shape) - 1)
    stop = np.clip(np.ceil(index.max(axis=0)).astype(int) + 1, start + 1, grid.shape)
    k, j, i = (slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
    return k, j, i


def _plane_fractions(phase: Phase, p: Coordinates, edge_mm: float) -> Array:
    u, v, h = p
    share = np.zeros((N_CLASSES, *u.shape), dtype=np.float32)
    share[BODY] = 1

    def put(cls: int, distance: Array, onto: int | None = None) -> None:
        """Paint a body over everything, or only over the class ``onto``."""
        covered = coverage(distance, edge_mm)
        if onto is not None:
            covered *= share[onto]
            share[onto] -= covered
        else:
            share[...] *= 1 - covered
        share[cls] += covered

    left, right = phase.epicardium.distance(u, v, h), _right_distance(phase, p, 0.0)
    wall = _right_distance(phase, p, RV_WALL_MM)
    above, atrium = _above_base(phase, p)
    put(FAT, _fat_distance(phase, p, np.minimum(np.minimum(left, wall), np.minimum(above, atrium))))
    put(WALL, np.minimum(wall, np.minimum(above, atrium) - np.float32(2)))
    put(OTHER_BLOOD, above)
    put(Structure.AORTA, _root_distance(phase, p))
    put(Structure.LEFT_ATRIUM, atrium)
    put(Structure.RV_BLOOD, right)
    put(Structure.LV_MYOCARDIUM, left)
    if phase.heart.scar is not None:
        scar, obstruction = _scar_distances(phase, phase.heart.scar, p)
        put(SCAR, scar, Structure.LV_MYOCARDIUM)
        put(OBSTRUCTION, obstruction, SCAR)
    put(Structure.LV_BLOOD, phase.endocardium.distance(u, v, h))
    radius, reach, start, stop = phase.papillary()
    for angle in PAPILLARY_ANGLES:
        across = np.hypot(u - np.float32(reach * math.cos(angle)), v - np.float32(reach * math.sin(angle)))
        put(Structure.PAPILLARY, np.maximum(across - radius, np.maximum(start - h, h - stop)), Structure.LV_BLOOD)
    return share


def _right_distance(phase: Phase, p: Coordinates, margin: float) -> Array:
    u, v, h = p
    offset = phase.right_offset(h).astype(np.float32)
    return phase.right.distance(u - offset * math.cos(RV_ANGLE), v - offset * math.sin(RV_ANGLE), h, margin)


def _above_base(phase: Phase, p: Coordinates) -> tuple[Array, Array]:
    """Right atrium with pulmonary trunk, and left atrium, which lies behind the aortic root."""
    u, v, h = p
    right_atrium = ellipsoid(p, (-44, 22, phase.base - 26), (22, 25, 27))
    trunk = np.hypot(u + 26, v + 36) - np.float32(13)
    right = np.minimum(right_atrium, trunk)
    atrium = phase.atrium
    left = atrium.distance(u - np.float32(atrium.radius - 10), v - 4, -h)
    return np.asarray(np.maximum(right, h - np.float32(phase.base))), left


def _root_distance(phase: Phase, p: Coordinates) -> Array:
    u, v, h = p
    return np.asarray(np.maximum(np.hypot(u + 25, v + 8) - np.float32(14), h - np.float32(phase.base)))


def _fat_distance(phase: Phase, p: Coordinates, heart: Array) -> Array:
    """Epicardial fat: thick in the atrioventricular groove and over the right ventricle, thin elsewhere."""
    u, v, h = p
    groove = np.exp(-(((h - np.float32(phase.base)) / 14) ** 2))
    right = np.clip(-u / 40, 0, 1)
    angle = np.arctan2(v, u)
    uneven = 1 + 0.4 * np.sin(3 * angle + h / 17) + 0.3 * np.sin(5 * angle - h / 11)
    return np.asarray(heart - (1 + 4 * groove + 2.5 * right) * uneven, dtype=np.float32)


def _scar_distances(phase: Phase, scar: Scar, p: Coordinates) -> tuple[Array, Array]:
    """Signed distances of the scar and of the obstruction; what lies within or beyond the wall is not cut off."""
    u, v, h = p
    rho = np.hypot(u, v)
    turn = np.abs((np.arctan2(v, u) - math.radians(scar.angle) + math.pi) % (2 * math.pi) - math.pi)
    start, stop = phase.along(scar.span)
    middle = (start + stop) / 2
    inner = phase.endocardium.square_radius(h)
    wall = phase.epicardium.square_radius(h) - inner

    def body(share: float, first: float, last: float) -> Array:
        """Part of the wall: ``share`` of width and span, between two shares of its area."""
        sector = rho * (turn - math.radians(share * scar.width / 2))
        slab = np.abs(h - middle) - share * (stop - start) / 2
        within = np.maximum(sector, slab)
        if first > 0:
            within = np.maximum(within, np.sqrt(np.maximum(inner + first * wall, 0)) - rho)
        if last < 1:
            within = np.maximum(within, rho - np.sqrt(np.maximum(inner + last * wall, 0)))
        return np.asarray(within, dtype=np.float32)

    depth = scar.transmurality
    first = scar.obstruction_depth * depth
    whole = body(1.0, 0.0, depth)
    if not scar.obstruction:
        return whole, np.full_like(whole, np.inf)
    return whole, body(scar.obstruction, first, first + scar.obstruction * depth)


# Classes that each label takes in; the rest is 0.
LABEL_CLASSES: Mapping[Structure, tuple[int, ...]] = {
    Structure.LV_BLOOD: (Structure.LV_BLOOD,),
    Structure.LV_MYOCARDIUM: (Structure.LV_MYOCARDIUM, SCAR, OBSTRUCTION),
    Structure.RV_BLOOD: (Structure.RV_BLOOD,),
    Structure.PAPILLARY: (Structure.PAPILLARY,),
    Structure.LEFT_ATRIUM: (Structure.LEFT_ATRIUM,),
    Structure.AORTA: (Structure.AORTA,),
}


def label_map(share: Array, grid: Grid) -> Volume:
    """Label map of the structure that fills most of each voxel, from `fractions`."""
    taken = np.stack([share[list(classes)].sum(axis=0) for classes in LABEL_CLASSES.values()])
    rest = 1 - taken.sum(axis=0)
    values = np.array([0, *LABEL_CLASSES], dtype=np.uint8)
    return Volume(values[np.concatenate([rest[None], taken]).argmax(axis=0)], grid, "label")


def remote_region(phase: Phase, share: Array, grid: Grid, frame: FloatArray) -> Volume:
    """Pure healthy myocardium opposite the scar, within its span: where a reader would put the remote region."""
    scar = phase.heart.scar
    angle = 0.0 if scar is None else scar.angle + 180
    start, stop = phase.along((0.2, 0.7) if scar is None else scar.span)
    u, v, h = heart_coordinates(grid, 0.0, frame)
    turn = np.abs((np.degrees(np.arctan2(v, u)) - angle + 180) % 360 - 180)
    pure = share[Structure.LV_MYOCARDIUM] > 0.999
    mask = pure & (turn < 45) & (h > start) & (h < stop)
    return Volume(mask.astype(np.uint8), grid, "label")


def _body(grid: Grid, signal: tuple[float, ...], person: Participant) -> Array:
    """Signal of the trunk around the heart: wall with ribs, lungs, mediastinum, liver, stomach, spine, aorta."""
    lung, fat, muscle, liver, marrow, blood = signal
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    x, y, z = np.moveaxis(grid.index_to_patient(index).astype(np.float32), -1, 0)
    p = (x, y, z)
    edge = float(max(grid.spacing[1:]))
    fat_mm = 5 + 1.0 * max(person.bmi - 18, 0)
    endless = 1e5  # the trunk goes on beyond the stack
    size = 1 + 0.008 * (person.bmi - 25)
    inner = np.array((146.0, 94.0, endless)) * (size, size, 1)
    out = np.full(grid.shape, 6.0, dtype=np.float32)

    def put(distance: Array, value: float) -> None:
        out[...] += coverage(distance, edge) * (np.float32(value) - out)

    put(ellipsoid(p, (0, 8, 0), np.add(inner, (fat_mm, fat_mm, 0))), fat)
    put(ellipsoid(p, (0, 8, 0), inner), muscle)
    between = 24 * (np.abs((z - 0.4 * y) / 24 % 1 - 0.5) - 0.25)
    put(np.maximum(np.abs(ellipsoid(p, (0, 8, 0), inner - (9, 9, 0))) - 4, between), marrow)
    put(ellipsoid(p, (0, 8, 0), inner - (16, 16, 0)), lung)
    put(ellipsoid(p, (-4, 2, 20), (42, 84, 95)), fat)
    put(ellipsoid(p, (0, 84, 0), (30, 26, endless)), muscle)
    put(ellipsoid(p, (0, 70, 0), (19, 16, endless)), marrow)
    put(ellipsoid(p, (26, 56, 0), (12, 12, endless)), blood)
    # The heart lies on the domes of the diaphragm.
    put(ellipsoid(p, (-50, -2, -128), (96, 88, 112)), liver)
    put(ellipsoid(p, (66, 6, -136), (74, 84, 92)), liver * 0.8)
    return out


def _texture(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Unevenness of tissue and of the coil's sensitivity, around 1."""
    fine = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), (0.5, 2, 2))
    return np.asarray(1 + 0.035 * fine / fine.std(), dtype=np.float32)


def render(share: Array, body: Array, signal: Mapping[int, float], noise: float, rng: np.random.Generator) -> Array:
    """Magnitude image of `fractions` and the trunk around the heart: texture, in-plane blur, Rician noise of SD
    ``noise``.
    """
    image = share[BODY] * body
    for cls, value in signal.items():
        image += share[cls] * np.float32(value)
    grain = ndimage.gaussian_filter(rng.standard_normal(image.shape, dtype=np.float32), (0, 2, 2))
    image *= 1 + np.float32(0.03) * grain / grain.std()
    return rician(ndimage.gaussian_filter(image, (0, 0.5, 0.5)), noise, rng)


def coil_shading(grid: Grid) -> Array:
    """Sensitivity of surface coils on the chest, ``(z, y, x)``: 1 at the heart, less behind it."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    behind = grid.index_to_patient(index)[..., 1] - BASE[1]
    return np.asarray(np.clip(1 - 0.0022 * behind, 0.5, 1.2), dtype=np.float32)


def image_volume(image: Array, grid: Grid) -> Volume:
    """Int16 volume in ``a.u.`` of a rendered image."""
    return Volume(np.clip(np.round(image), 0, 4095).astype(np.int16), grid, "a.u.")


def sample_heart(rng: np.random.Generator, person: Participant) -> Heart:
    """Draw a heart: size with the body, one in five dilated with a low ejection fraction, one in three with a scar."""
    surface = math.sqrt(person.height * 100 * person.bmi * person.height**2 / 3600)
    male = person.sex == "M"
    dilated = rng.uniform() < 0.2
    edv = surface * float(np.clip(rng.normal(80 if male else 72, 11), 50, 110)) * (1.35 if dilated else 1.0)
    fraction = float(rng.uniform(0.25, 0.45) if dilated else np.clip(rng.normal(0.63, 0.055), 0.5, 0.75))
    stroke = edv * fraction
    length = float(np.clip(46 * (edv / 5.2) ** (1 / 6) + rng.normal(0, 3), 72, 105))
    return Heart(
        lv_edv=edv,
        lv_esv=edv - stroke,
        rv_edv=stroke / float(np.clip(rng.normal(0.56, 0.05), 0.42, 0.7)),
        lv_mass=surface * float(np.clip(rng.normal(60 if male else 50, 8), 34, 95)) * (1.2 if dilated else 1.0),
        length=length,
        shortening=0.26 * fraction,
        # They take up an eighth of the emptied cavity at most, and do not touch.
        papillary=min(float(rng.uniform(3, 8)), (edv - stroke) / 8),
        la_maximum=surface * float(rng.uniform(28, 50)),
        la_minimum=surface * float(rng.uniform(12, 22)),
        scar=sample_scar(rng) if rng.uniform() < 0.35 else None,
    )


def sample_scar(rng: np.random.Generator) -> Scar:
    """Draw an infarct of any wall; one in three has an obstruction, mostly at the endocardium."""
    start = float(rng.uniform(0.15, 0.4))
    obstructed = rng.uniform() < 0.35
    return Scar(
        angle=float(rng.uniform(0, 360)),
        width=float(rng.uniform(50, 130)),
        span=(start, start + float(rng.uniform(0.25, 0.4))),
        transmurality=float(rng.uniform(0.6 if obstructed else 0.4, 1.0)),
        obstruction=float(rng.uniform(0.4, 0.55)) if obstructed else 0.0,
        obstruction_depth=float(rng.choice([0.0, 0.0, 0.2])),
    )


def sample_study(rng: np.random.Generator) -> SimulatedStudy:
    """Draw one participant's short-axis study: cine and late enhancement on the same slices.

    Both are classic MR images, one file a slice and phase with TriggerTime, as scanners write cines almost without
    exception. Label roles are ``cine_00``, ``cine_01`` … by phase, ``lge``, and ``lge_remote`` for the region a reader
    would draw in healthy myocardium.
    """
    person = sample_participant(rng)
    heart = sample_heart(rng, person)
    rate, n_phases = float(np.clip(rng.normal(67, 9), 48, 95)), int(rng.choice(PHASES))
    thickness, gap = 8.0, float(rng.choice([0.0, 2.0]))
    distance = thickness + gap
    # A slice of margin at both ends, and the stack set without regard to where the base lies between two slices.
    above = distance * float(rng.uniform(1.1, 2.0))
    slices = math.ceil((heart.length + above + 2.2 * distance) / distance)
    frame = heart_frame(AXIS + rng.normal(0, 0.06, 3))
    grid = short_axis_grid(slices, distance, MATRIX, float(rng.uniform(1.35, 1.7)), above_base_mm=above, frame=frame)

    body, shading = _body(grid, CINE_BODY, person), coil_shading(grid)
    stacks, labels = [], {}
    for number, filling in enumerate(filling_curve(n_phases)):
        share = fractions(heart.at(float(filling)), grid, thickness, frame)
        image = render(share, body, CINE_SIGNAL, 20.0, rng) * shading
        time = {"TriggerTime": f"{number * 60_000 / rate / n_phases:.1f}"}
        stacks.append(Stack(image_volume(image, grid), time))
        labels[f"cine_{number:02d}"] = label_map(share, grid)
    diastole = heart.at(1.0)
    share = fractions(diastole, grid, thickness, frame)
    enhanced = image_volume(render(share, _body(grid, LGE_BODY, person), LGE_SIGNAL, 26.0, rng), grid)
    labels |= {"lge": label_map(share, grid), "lge_remote": remote_region(diastole, share, grid, frame)}

    spacing = {"SliceThickness": f"{thickness:g}", "SpacingBetweenSlices": f"{distance:g}"}
    cine = {**spacing, "HeartRate": str(round(rate)), "CardiacNumberOfImages": str(n_phases)}
    late = {**spacing, "InversionTime": "300", "ContrastBolusAgent": "gadobutrol"}
    output = {"cardiac_output": heart.stroke_volume * rate / 1000}
    return SimulatedStudy(
        person,
        "Cardiac MR",
        (
            SliceSeries("cine", "MR", "cine_sa_bSSFP", tuple(stacks), attributes=cine),
            SliceSeries("lge", "MR", "lge_sa_10min", (Stack(enhanced),), attributes=late),
        ),
        labels,
        heart.truth() | heart.scar_truth() | output,
    )
