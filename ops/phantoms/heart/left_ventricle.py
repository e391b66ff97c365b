"""Simulated echocardiograms: five views of a beating heart with speckle, ECG and true label maps.

The left ventricle and atrium are the closed forms of `ops.phantoms.heart.chambers`; right heart, valves, papillary
muscles and pericardium are there to look at. Labels are those of `ops.diseases.echo.measurement`: 1 cavity with
papillary muscles, 2 myocardium, 3 left atrium, 4 aorta. Aorta and right heart are left out
where a real plane passes behind them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ops.phantoms.heart.chambers import MM3_PER_ML, MYOCARDIUM_G_PER_ML, BeatingHeart, TruncatedEllipsoid, sample_heart
from ops.phantoms.heart.ultrasound import ImagePlane, Scanner, Sector
from ops.phantoms.participant import sample_participant
from ops.phantoms.sdf import Array, Coordinates, ellipsoid, rotation
from ops.phantoms.study import SimulatedStudy, UltrasoundClip
from ops.volume import Grid, Volume

View = Literal["a4c", "a2c", "a3c", "plax", "psax_pap"]

VIEWS: tuple[View, ...] = ("a4c", "a2c", "a3c", "plax", "psax_pap")
LV_CAVITY, LV_MYOCARDIUM, LEFT_ATRIUM, AORTA = 1, 2, 3, 4
# Directions in which the long-axis planes cut the ventricle, degrees from the lateral towards the anterior wall; the
# right of the image. Simpson's biplane rule takes two planes at right angles.
AZIMUTHS = {"a4c": 0.0, "a2c": 90.0, "a3c": 135.0, "plax": 135.0}
_OUTFLOW = np.array([math.cos(math.radians(135)), math.sin(math.radians(135)), 0.0])
_AXIS = np.array([0.0, 0.0, 1.0])
_WITH_AORTA = ("a3c", "plax")
# Chest wall between the transducer and the heart.
_STANDOFF_MM = 14.0
_DESCRIPTIONS = {
    "a4c": "Apical 4 chamber",
    "a2c": "Apical 2 chamber",
    "a3c": "Apical 3 chamber",
    "plax": "Parasternal long axis",
    "psax_pap": "Parasternal short axis papillary",
}

BLOOD, MUSCLE, LUNG = 0.004, 0.26, 0.05
# Degrees by which the mitral leaflets swing from shut to wide open.
OPEN_ANGLE = 62.0


def view_plane(heart: BeatingHeart, view: View, tilt: float = 0.0, foreshortening: float = 0.0) -> ImagePlane:
    """Plane of a view.

    Parameters
    ----------
    heart
        Its size at end-diastole places the transducer.
    view
        Which one.
    tilt
        Degrees by which the image is turned within its plane; apical views then lean.
    foreshortening
        Degrees by which an apical plane is turned about the annulus, away from the apex.
    """
    base = heart.base(0.0)
    if view == "psax_pap":
        right = np.array([-_OUTFLOW[1], _OUTFLOW[0], 0.0]) * -1
        apex = _AXIS * (heart.wall + heart.diastole.a) + _OUTFLOW * (heart.diastole.half_width(135.0) + 48)
        return ImagePlane(apex, right, -_OUTFLOW)
    if view == "plax":
        down, right = _turned(-_OUTFLOW, _AXIS, tilt)
        target = _AXIS * 0.8 * base
        return ImagePlane(target - down * (heart.diastole.half_width(135.0) + 48), right, down)
    angle = math.radians(AZIMUTHS[view])
    across = np.array([math.cos(angle), math.sin(angle), 0.0])
    normal = np.cross(_AXIS, across)
    lean = math.radians(foreshortening)
    axis = _AXIS * math.cos(lean) + normal * math.sin(lean)
    down, right = _turned(axis, across, tilt)
    # The line from the annulus to the apex of the image keeps its length: transducers slide along the chest.
    at_apex = _AXIS * base - axis * base
    return ImagePlane(at_apex - down * _STANDOFF_MM, right, down)


def _turned(
    down: npt.NDArray[np.float64], right: npt.NDArray[np.float64], degrees: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    angle = math.radians(degrees)
    return down * math.cos(angle) + right * math.sin(angle), right * math.cos(angle) - down * math.sin(angle)


@dataclass(frozen=True, eq=False)
class _Scene:
    """Bodies of one moment at the points of one image, as signed distances; negative inside."""

    heart: BeatingHeart
    view: View
    contraction: float
    p: Coordinates

    @property
    def cavity_shape(self) -> TruncatedEllipsoid:
        return self.heart.cavity(self.contraction)

    @property
    def epicardium_shape(self) -> TruncatedEllipsoid:
        return self.cavity_shape.thickened(self.heart.wall_at(self.contraction))

    @property
    def above_base(self) -> Array:
        """From the annulus plane towards the apex."""
        return np.asarray(np.float32(self.heart.base(self.contraction)) - self.p[2], dtype=np.float32)

    def cavity(self) -> Array:
        return self.cavity_shape.distance(self.p[0], self.p[1], self.above_base)

    def epicardium(self) -> Array:
        return self.epicardium_shape.distance(self.p[0], self.p[1], self.above_base)

    def atrium(self) -> Array:
        return self.heart.atrium(self.contraction).distance(self.p[0], self.p[1], -self.above_base)

    def annulus(self) -> Array:
        """Return the opening between ventricle and atrium."""
        w = self.above_base
        shape = self.cavity_shape
        body = ellipsoid((self.p[0], self.p[1], w), (0.0, 0.0, shape.d), (shape.b_u, shape.b_v, shape.a))
        return np.maximum(body, np.abs(w) - np.float32(1.5))

    def aortic_axis(self) -> tuple[Array, Array]:
        """Distance from the axis of the aortic root, and height beyond the annulus plane."""
        along, across = _in_plane(self, 135.0)
        beyond = -self.above_base
        return np.hypot(along - np.float32(0.45 * self._outflow_radius) - np.float32(0.3) * beyond, across), beyond

    def aortic_radius(self) -> float:
        return 0.5 * self._outflow_radius + 1.0

    @property
    def _outflow_radius(self) -> float:
        return self.cavity_shape.half_width(135.0) * self.cavity_shape.cut_share

    def aorta(self) -> Array:
        from_axis, beyond = self.aortic_axis()
        return np.asarray(np.maximum(from_axis - np.float32(self.aortic_radius()), -beyond))


def paint_labels(
    heart: BeatingHeart, view: View, plane: ImagePlane, sector: Sector, times_ms: npt.ArrayLike
) -> npt.NDArray[np.uint8]:
    """Paint true labels ``(t, rows, columns)`` of a view at pixel centres; 0 outside the sector's region."""
    times = np.asarray(times_ms, dtype=np.float64)
    labels = np.zeros((len(times), *sector.shape), dtype=np.uint8)
    top, left, bottom, right = sector.region
    p = plane.points(*sector.pixel_positions())
    for frame, time in zip(labels, times, strict=True):
        scene = _Scene(heart, view, heart.contraction(float(time)), p)
        region = frame[top : bottom + 1, left : right + 1]
        u, v, w = p[0], p[1], scene.above_base
        region[scene.epicardium_shape.contains(u, v, w)] = LV_MYOCARDIUM
        region[scene.cavity_shape.contains(u, v, w)] = LV_CAVITY
        if view != "psax_pap":
            region[heart.atrium(scene.contraction).contains(u, v, -w)] = LEFT_ATRIUM
        if view in _WITH_AORTA:
            region[scene.aorta() < 0] = AORTA
    return labels


def paint_frames(
    heart: BeatingHeart,
    view: View,
    plane: ImagePlane,
    scanner: Scanner,
    times_ms: npt.ArrayLike,
    rng: np.random.Generator,
) -> npt.NDArray[np.uint8]:
    """Frames ``(t, rows, columns)`` as a scanner would show them, the ECG below."""
    times = np.asarray(times_ms, dtype=np.float64)
    sector = scanner.sector
    frames = np.zeros((len(times), *sector.shape), dtype=np.uint8)
    top, left, bottom, right = sector.region
    x, z = sector.beam_positions()
    p = plane.points(x, z)
    for frame, time in zip(frames, times, strict=True):
        scene = _Scene(heart, view, heart.contraction(float(time)), p)
        image = scanner.image(_reflectivity(scene, heart.mitral_opening(float(time)), z), _material(scene, plane), rng)
        frame[top : bottom + 1, left : right + 1] = np.clip(image, 0, 255)
    _draw_ecg(frames, heart, times, sector)
    return frames


def _material(scene: _Scene, plane: ImagePlane) -> tuple[Array, Array]:
    """In-plane coordinates that move with the wall: its base descends and it swings inwards."""
    heart, s = scene.heart, scene.contraction
    near = np.clip(1 - scene.epicardium() / 25, 0, 1)
    squeeze = near * np.float32(heart.diastole.b_u / scene.cavity_shape.b_u - 1) * np.float32(0.6)
    stretch = near * np.float32(heart.base(0.0) / heart.base(s) - 1)
    u, v, h = scene.p[0] * (1 + squeeze), scene.p[1] * (1 + squeeze), scene.p[2] * (1 + stretch)
    right, down = (np.asarray(vector, dtype=np.float32) for vector in (plane.right, plane.down))
    return u * right[0] + v * right[1] + h * right[2] + 300, u * down[0] + v * down[1] + h * down[2] + 300


def _reflectivity(scene: _Scene, opening: float, z: Array) -> Array:
    """Amplitude of every sample, painted from what lies behind to what lies in front."""
    cavity, outer, facing = scene.cavity(), scene.epicardium(), _facing(scene)
    # Lung and fat scatter less the farther the beam has gone through them.
    out = np.float32(LUNG) * np.exp(-np.maximum(outer, 0) / 22)
    out = _with_right_heart(out, scene, facing)
    long_axis = scene.view in AZIMUTHS
    if long_axis:
        out = _painted(out, scene.atrium() - 3, 0.65 * facing + 0.12)
    # The pericardium is brightest where the beam meets it squarely.
    out = _painted(out, outer - np.float32(2.2), 1.1 * facing**2 + 0.05)
    towards_septum = -scene.p[0] / np.float32(scene.cavity_shape.b_u)
    out = _painted(out, outer, MUSCLE * (0.35 + 0.65 * facing) + 0.15 * np.clip(towards_septum, 0, 1))
    endocardium = np.maximum(np.abs(cavity) - np.float32(0.7), np.float32(2) - scene.above_base)
    out = _painted(out, endocardium, 0.45 * (0.3 + 0.7 * facing))
    out = _painted(out, cavity, BLOOD)
    for muscle in _papillary_muscles(scene):
        out = _painted(out, np.maximum(muscle, cavity), 0.32)
    if long_axis:
        out = _painted(out, scene.atrium(), BLOOD)
        out = _painted(out, scene.annulus(), BLOOD)
        out = _with_valves(out, scene, opening)
    # Chest wall, and the ringing of the transducer itself.
    out += np.float32(0.9) * np.exp(-((z / 6) ** 2)) + np.float32(0.12) * np.exp(-((z / 22) ** 2))
    return out


def _with_right_heart(out: Array, scene: _Scene, facing: Array) -> Array:
    """Right ventricle, at the septal side and a little in front, and the atrium below it."""
    s, base = scene.contraction, scene.heart.base(scene.contraction)
    side = scene.cavity_shape.b_u + scene.heart.wall_at(s)
    frame = rotation(171, 0, 0).T
    centre = (side + 3) * frame[0] + 0.94 * base * _AXIS
    size = np.array([22 - 3 * s, 38 - 3 * s, 0.76 * base])
    above = scene.p[2] - np.float32(base)
    wall = np.maximum(ellipsoid(scene.p, centre, size + 4, frame), above + 3)
    atrium = ellipsoid(scene.p, (-side - 9, -4.0, base + 17), (20 + 2 * s, 19, 23 + 2 * s))
    atrium = np.maximum(atrium, -4 - above)
    out = _painted(out, wall, 0.30 * facing)
    out = _painted(out, atrium - np.float32(2.5), 0.5 * facing)
    out = _painted(out, np.maximum(ellipsoid(scene.p, centre, size, frame), above + 5), BLOOD)
    return _painted(out, atrium, BLOOD)


def _painted(out: Array, distance: Array, value: Array | float) -> Array:
    """Body with edges of about a sample over ``out``."""
    share = np.clip(0.5 - distance, 0, 1)
    return np.asarray(out + share * (value - out), dtype=np.float32)


def _facing(scene: _Scene) -> Array:
    """How squarely the beam meets the wall of the ventricle, 0–1: the cosine of beam and normal."""
    u, v, h = scene.p
    outer = scene.epicardium_shape
    below = h - np.float32(scene.heart.base(scene.contraction) - outer.d)
    n = np.stack([u / outer.b_u**2, v / outer.b_v**2, below / outer.a**2])
    n /= np.maximum(np.sqrt((n**2).sum(axis=0)), 1e-9)
    # Beams run along the first axis's lines: the difference of neighbouring samples is their direction.
    beam = np.stack([part[:, -1:] - part[:, :1] for part in scene.p])
    beam /= np.sqrt((beam**2).sum(axis=0))
    return np.asarray(np.abs((n * beam).sum(axis=0)), dtype=np.float32)


def _papillary_muscles(scene: _Scene) -> list[Array]:
    cavity = scene.cavity_shape
    bodies = []
    for azimuth in (32.0, 262.0):
        angle = math.radians(azimuth)
        radius = cavity.half_width(azimuth)
        h = scene.heart.base(scene.contraction) - 0.44 * cavity.length
        place = (0.74 * radius * math.cos(angle), 0.74 * radius * math.sin(angle), h)
        thick = 4.2 + 1.2 * scene.contraction
        bodies.append(ellipsoid(scene.p, place, (thick, thick, 0.26 * cavity.length)))
    return bodies


def _with_valves(out: Array, scene: _Scene, opening: float) -> Array:
    """Mitral leaflets, and in planes with the aorta its root and cusps."""
    azimuth = AZIMUTHS[scene.view]
    radius = scene.cavity_shape.half_width(azimuth) * scene.cavity_shape.cut_share
    centre, reach = 0.0, radius
    if scene.view in _WITH_AORTA:
        centre, reach = -0.5 * radius, 0.5 * radius
        from_axis, beyond = scene.aortic_axis()
        root = np.float32(scene.aortic_radius())
        out = _painted(out, np.maximum(from_axis - root - np.float32(1.5), -1 - beyond), 0.6)
        out = _painted(out, np.maximum(from_axis - root, -3 - beyond), BLOOD)
        if opening > 0:
            out = _painted(out, np.maximum(np.abs(beyond - 8) - np.float32(0.7), from_axis - root), 0.45)
    along, aside = _in_plane(scene, azimuth)
    along, height = along - np.float32(centre), scene.above_base
    # The anterior leaflet is the longer one.
    for side, share in ((-1.0, 0.85), (1.0, 1.15)):
        hinge = np.array([side * reach, 0.5])
        swing = rotation(-side * OPEN_ANGLE * opening, 0, 0)[:2, :2]
        leaflet = _segment(along, height, hinge, hinge + swing @ np.array([-side * reach * share, 3.5]))
        out = _painted(out, np.maximum(leaflet - np.float32(0.9), aside - 12), 0.62)
        hinge_spot = np.hypot(along - np.float32(hinge[0] + side), height + 1)
        out = _painted(out, np.maximum(hinge_spot - np.float32(2.2), aside - 12), 0.7)
    return out


def _in_plane(scene: _Scene, azimuth: float) -> tuple[Array, Array]:
    """Signed distance from the long axis along ``azimuth``, and distance from the plane that it spans."""
    cosine, sine = np.float32(math.cos(math.radians(azimuth))), np.float32(math.sin(math.radians(azimuth)))
    return scene.p[0] * cosine + scene.p[1] * sine, np.abs(scene.p[1] * cosine - scene.p[0] * sine)


def _segment(x: Array, y: Array, start: npt.NDArray[np.float64], stop: npt.NDArray[np.float64]) -> Array:
    """Distance to a straight segment in a plane."""
    dx, dy = (np.float32(value) for value in stop - start)
    px, py = x - np.float32(start[0]), y - np.float32(start[1])
    t = np.clip((px * dx + py * dy) / (dx * dx + dy * dy), 0, 1)
    return np.asarray(np.hypot(px - t * dx, py - t * dy), dtype=np.float32)


def _draw_ecg(
    frames: npt.NDArray[np.uint8], heart: BeatingHeart, times: npt.NDArray[np.float64], sector: Sector
) -> None:
    """Trace of the whole clip below the sector, and a mark at each frame's time."""
    bottom, columns = sector.region[2], sector.shape[1]
    height = sector.margins[2] - 16
    column = np.arange(12, columns // 2)
    time = np.interp(column, [column[0], column[-1]], [times[0], times[-1]])
    since = np.min(np.abs(time[:, None] - np.asarray(heart.r_peaks_ms)), axis=1)
    after = np.min(np.where((d := time[:, None] - np.asarray(heart.r_peaks_ms)) >= 0, d, np.inf), axis=1)
    level = np.exp(-((since / 14) ** 2)) + 0.18 * np.exp(-(((after - 290) / 50) ** 2))
    row = (bottom + 6 + height * (1 - 0.9 * level / 1.2)).astype(int)
    for previous, here, at in zip(row[:-1], row[1:], column[1:], strict=True):
        frames[:, min(previous, here) : max(previous, here) + 1, at] = 150
    now = np.interp(times, [times[0], times[-1]], [column[0], column[-1]]).astype(int)
    for frame, at in zip(frames, now, strict=True):
        frame[bottom + 6 : bottom + 6 + height, at] = 220


def short_axis_mass_g(heart: BeatingHeart) -> float:
    """Mass that the area–length formula gives for the true areas and length; `BeatingHeart.mass_g` is the mass itself.

    1.05 · 5/6 · (A₁ (L + t) − A₂ L) with the areas at the widest level and the mean radii's difference t, in cm.
    """
    cavity = heart.diastole
    inner = math.pi * cavity.b_u * cavity.b_v / 100
    outer = math.pi * (cavity.b_u + heart.wall) * (cavity.b_v + heart.wall) / 100
    t = math.sqrt(outer / math.pi) - math.sqrt(inner / math.pi)
    return MYOCARDIUM_G_PER_ML * 5 / 6 * (outer * (cavity.length / 10 + t) - inner * cavity.length / 10)


def area_length_atrium_ml(heart: BeatingHeart) -> float:
    """Volume that biplane area–length gives for the true areas and length of the atrium at ventricular end-systole."""
    atrium = heart.atrium(1.0)
    areas = atrium.area_mm2(AZIMUTHS["a4c"]) * atrium.area_mm2(AZIMUTHS["a2c"])
    return 8 * areas / (3 * math.pi * atrium.length) / MM3_PER_ML


def truths(heart: BeatingHeart) -> dict[str, float]:
    """Collect true values by the names of `ops.diseases.echo.measurement`, each in the unit it has there."""
    strains = {view: heart.strain_percent(AZIMUTHS[view]) for view in ("a4c", "a2c", "a3c")}
    return {
        "edv_biplane": heart.diastole.volume_ml,
        "esv_biplane": heart.systole.volume_ml,
        "ef_biplane": heart.ejection_fraction,
        **{f"longitudinal_strain_{view}": strain for view, strain in strains.items()},
        "gls": sum(strains.values()) / len(strains),
        "la_volume": area_length_atrium_ml(heart),
        "lv_mass_area_length": short_axis_mass_g(heart),
        "ivsd_mm": heart.wall,
        "lvidd_mm": 2 * heart.diastole.half_width(AZIMUTHS["plax"]),
        "pwd_mm": heart.wall,
    }


def clip_times(heart: BeatingHeart, frame_time_ms: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Frame times of a clip of a good four beats; it starts at an R wave, as triggered clips do, or anywhere."""
    peaks = heart.r_peaks_ms
    beat = (peaks[-1] - peaks[0]) / (len(peaks) - 1)
    start = peaks[1] if rng.uniform() < 0.4 else peaks[0] + rng.uniform(0, 1) * beat
    return np.asarray(start + np.arange(int(4.2 * beat / frame_time_ms)) * frame_time_ms)


def sample_study(rng: np.random.Generator) -> SimulatedStudy:
    """Draw a participant and paint the five views, each a loop of more than three beats."""
    participant = sample_participant(rng)
    height_cm, weight = 100 * participant.height, participant.bmi * participant.height**2
    body_surface = math.sqrt(height_cm * weight / 3600)
    heart = sample_heart(rng, participant.sex, body_surface)
    clips: list[UltrasoundClip] = []
    labels: dict[str, Volume] = {}
    for view in VIEWS:
        clip, volume = _sample_clip(heart, view, rng)
        clips.append(clip)
        labels[view] = volume
    truth = truths(heart) | {"bsa": body_surface, "lv_mass_true_g": heart.mass_g}
    return SimulatedStudy(participant, "Transthoracic echocardiogram", tuple(clips), labels, truth)


def _sample_clip(heart: BeatingHeart, view: View, rng: np.random.Generator) -> tuple[UltrasoundClip, Volume]:
    tilt = {"a4c": -9.0, "plax": 8.0}.get(view, 0.0) + (0.0 if view == "psax_pap" else float(rng.normal(0, 2.5)))
    plane = view_plane(heart, view, tilt)
    pixel = float(rng.uniform(0.48, 0.6))
    sector = Sector(_depth(heart, view), pixel_mm=(pixel, pixel * float(rng.choice([1.0, 1.0, 0.94, 1.06]))))
    frame_time = float(rng.uniform(28, 40))
    times = clip_times(heart, frame_time, rng)
    frames = paint_frames(heart, view, plane, Scanner.sample(sector, rng), times, rng)
    painted = paint_labels(heart, view, plane, sector, times)
    # Some scanners let the physical axis run against the columns and write a negative PhysicalDeltaX.
    sign = -1 if rng.uniform() < 0.4 else 1
    spacing = (sector.pixel_mm[0], sign * sector.pixel_mm[1])
    clip = UltrasoundClip(view, _DESCRIPTIONS[view], frames, spacing, frame_time, sector.region)
    grid = Grid.from_spacing((len(painted), *sector.shape), (1.0, *sector.pixel_mm))
    return clip, Volume(painted, grid, "label")


def _depth(heart: BeatingHeart, view: View) -> float:
    """Depth in mm, in steps of 10 as scanners offer it, that shows the whole heart."""
    if view in ("plax", "psax_pap"):
        needed = 2 * heart.diastole.half_width(135.0) + heart.wall + 70
    else:
        needed = _STANDOFF_MM + heart.base(0.0) + max(heart.atrial_lengths) + 14
    return 10.0 * math.ceil(needed / 10)
