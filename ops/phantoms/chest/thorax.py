"""A simulated chest: sampled once from a participant, then painted on any axis-aligned grid.

Template and patient space are LPS mm with the origin near the heart's centre, x = 0 in the midline.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ops.phantoms.chest.abdomen import Abdomen, abdomen, paint_abdomen
from ops.phantoms.chest.canvas import FAR, Box, Canvas
from ops.phantoms.chest.coronaries import Branch, coronaries
from ops.phantoms.chest.great_vessels import GreatVessels, Vessel, great_vessels
from ops.phantoms.chest.heart import AORTIC_ANNULUS, LONG_AXIS, MITRAL_CENTRE, Heart, HeartField, heart
from ops.phantoms.chest.lungs import Diaphragm, diaphragm, paint_lung_vessels, paint_lungs, vessel_tree
from ops.phantoms.chest.skeleton import Skeleton, paint_skeleton, skeleton
from ops.phantoms.chest.trunk import Trunk, paint_trunk, trunk
from ops.phantoms.deformation import Deformation
from ops.phantoms.labels import ARTERIES, TERRITORY_LABELS, Tissue
from ops.phantoms.participant import Participant
from ops.phantoms.sdf import Points, unit
from ops.volume import Grid

DEFORMATION_MM = 9.0
PERICARDIUM_MM = 1.2
AORTIC_WALL_MM = 1.6
VALVE_MM = 2.5
MAX_WALL_SHARE = 0.5  # of the ventricle's outer short axis: a cavity always remains
VALVE_REGION_MM = 5.0  # label around the rings: annular calcium grows outwards from them
# A lesion's centre lies within the vessel; gated and non-gated images blur and displace it by some mm.
TERRITORY_MM = 7.5
# Territories reach this deep into chambers: a tube beside the wall, not half the myocardium.
TERRITORY_DEPTH_MM = 4.0

_HEART_TISSUES = (
    Tissue.PERICARDIUM,
    Tissue.EPICARDIAL_FAT,
    Tissue.MYOCARDIUM,
    Tissue.BLOOD_LV,
    Tissue.BLOOD_RV,
    Tissue.BLOOD_LA,
    Tissue.BLOOD_RA,
    Tissue.CORONARY,
)
_NO_TERRITORY = (
    Tissue.AORTA_BLOOD,
    Tissue.LUNG,
    Tissue.LUNG_VESSEL,
    Tissue.CORTICAL_BONE,
    Tissue.MARROW,
    Tissue.AIRWAY,
    Tissue.LIVER,
    Tissue.STOMACH,
    Tissue.STOMACH_GAS,
)


@dataclass(frozen=True, eq=False)
class Thorax:
    """Everything needed to paint one participant's chest.

    Attributes
    ----------
    deformation
        Template ← patient displacement.
    branches
        Coronary branches with centrelines in **patient** space.
    """

    participant: Participant
    deformation: Deformation
    heart: Heart
    body: Trunk
    bones: Skeleton
    diaphragm: Diaphragm
    abdomen: Abdomen
    vessels: GreatVessels
    branches: list[Branch]
    lung_trees: list[tuple[Points, Points, Points]]

    def patient(self, vessel: Vessel) -> Points:
        """Patient-space centreline of a great vessel."""
        return self.deformation.to_patient(vessel.points)


def thorax(participant: Participant, rng: np.random.Generator | None = None) -> Thorax:
    """Sample the anatomy of ``participant``; without ``rng`` its own seed makes it reproducible."""
    rng = np.random.default_rng(participant.seed) if rng is None else rng
    deformation = Deformation.sample(rng, DEFORMATION_MM)
    pump = heart(participant, rng)
    body = trunk(participant, pump, rng)
    spine_front = float(body.centre_y + body.depth - rng.uniform(40, 50))
    bones = skeleton(body, deformation, spine_front, participant.age, rng)
    dome = diaphragm(body, pump, rng)
    vessels = great_vessels(participant, pump, bones, rng)
    tree = [Branch(b.name, b.artery, deformation.to_patient(b.points), b.radii) for b in coronaries(pump, rng)]
    return Thorax(
        participant=participant,
        deformation=deformation,
        heart=pump,
        body=body,
        bones=bones,
        diaphragm=dome,
        abdomen=abdomen(body, dome, rng),
        vessels=vessels,
        branches=tree,
        lung_trees=[vessel_tree(h, s, deformation, rng) for h, s in zip(vessels.hila, (-1.0, 1.0), strict=True)],
    )


def paint(chest: Thorax, canvas: Canvas) -> HeartField | None:
    """Paint the chest without calcium on ``canvas``, from the outside inwards; return the heart's distances."""
    pump = chest.heart.field(canvas)
    cage = paint_trunk(canvas, chest.body)
    cavity = paint_lungs(canvas, cage, chest.body, chest.bones, pump, chest.heart, chest.diaphragm)
    paint_abdomen(canvas, cavity, chest.abdomen)
    paint_skeleton(canvas, chest.body, chest.bones)
    for tree in chest.lung_trees:
        paint_lung_vessels(canvas, tree)
    _paint_mediastinum(canvas, chest)
    if pump is not None:
        _paint_heart(canvas, chest, pump)
    _paint_aorta(canvas, chest)
    for branch in chest.branches:
        field = canvas.tube(branch.points, branch.radii, 1.0 + canvas.edge)
        if field is not None:
            canvas.paint(*field, Tissue.CORONARY)
    return pump


def _paint_tube(canvas: Canvas, chest: Thorax, vessel: Vessel, layers: tuple[tuple[float, Tissue], ...]) -> None:
    """Paint a tube from its outermost layer (offset from its radius in mm, tissue) inwards."""
    points = chest.patient(vessel)
    field = canvas.tube(points, vessel.radii, max(offset for offset, _ in layers) + canvas.edge)
    if field is not None:
        for offset, tissue in layers:
            only = (Tissue.LUNG, Tissue.LUNG_VESSEL) if tissue is Tissue.MEDIASTINAL_FAT else None
            canvas.paint(field[0], field[1] - np.float32(offset), tissue, only=only)


def _paint_mediastinum(canvas: Canvas, chest: Thorax) -> None:
    v = chest.vessels
    coat = (2.5, Tissue.MEDIASTINAL_FAT)
    _paint_tube(canvas, chest, v.oesophagus, (coat, (0.0, Tissue.OESOPHAGUS)))
    for vessel in v.veins:
        _paint_tube(canvas, chest, vessel, ((0.0, Tissue.BLOOD_VEIN),))
    for vessel in v.pulmonary:
        _paint_tube(canvas, chest, vessel, (coat, (0.0, Tissue.BLOOD_PULMONARY)))
    for vessel in v.arch_branches:
        _paint_tube(canvas, chest, vessel, (coat, (0.0, Tissue.BLOOD_VEIN)))
    for vessel in v.airways:
        _paint_tube(canvas, chest, vessel, ((1.5, Tissue.AIRWAY_WALL),))
    for vessel in v.airways:
        _paint_tube(canvas, chest, vessel, ((0.0, Tissue.AIRWAY),))


def _paint_heart(canvas: Canvas, chest: Thorax, field: HeartField) -> None:
    pump, slices = chest.heart, field.box
    canvas.paint(slices, field.sac, Tissue.PERICARDIUM)
    canvas.paint(slices, field.sac + np.float32(PERICARDIUM_MM), Tissue.EPICARDIAL_FAT)
    for name, tissue, wall in (
        ("LA", Tissue.BLOOD_LA, 1.5),
        ("LAA", Tissue.BLOOD_LA, 1.5),
        ("RA", Tissue.BLOOD_RA, 1.5),
        ("RAA", Tissue.BLOOD_RA, 1.5),
        ("RVOT", Tissue.BLOOD_RV, pump.rv_wall),
        ("RV", Tissue.BLOOD_RV, pump.rv_wall),
    ):
        outer = field.chambers[name]
        canvas.paint(slices, outer, Tissue.MYOCARDIUM)
        canvas.paint(slices, outer + np.float32(wall), tissue)
    lv = pump.chambers["LV"]
    canvas.paint(slices, field.chambers["LV"], Tissue.MYOCARDIUM)
    inset = pump.lv_wall * pump.scale
    cavity = lv.distance(canvas.at(slices), inset=min(inset, MAX_WALL_SHARE * float(lv.axes.min())))
    canvas.paint(slices, cavity, Tissue.BLOOD_LV)
    for vessel in chest.vessels.veins:
        if vessel.name in ("superior vena cava", "inferior vena cava", "pulmonary vein"):
            _paint_tube(canvas, chest, vessel, ((0.0, Tissue.BLOOD_VEIN),))
    _paint_tube(canvas, chest, chest.vessels.pulmonary[0], ((0.0, Tissue.BLOOD_PULMONARY),))


def annulus_rings(chest: Thorax) -> dict[str, tuple[Points, float]]:
    """Patient-space rings of the mitral and aortic annulus ``(n, 3)`` and the radius of their tubes, mm."""
    pump = chest.heart
    rings = {}
    turn = np.linspace(0, 2 * np.pi, 33)[:, None]
    for name, centre, normal, radius in (
        ("mitral", MITRAL_CENTRE - 1.0 * LONG_AXIS, LONG_AXIS, 19.0),
        ("aortic", AORTIC_ANNULUS, unit([-0.25, -0.2, 0.95]), 11.5),
    ):
        first = unit(np.cross(normal, [0.0, 1.0, 0.3]))
        second = np.cross(normal, first)
        ring = centre + radius * (np.cos(turn) * first + np.sin(turn) * second)
        rings[name] = (chest.deformation.to_patient(pump.place(ring)), VALVE_MM)
    return rings


def _paint_aorta(canvas: Canvas, chest: Thorax) -> None:
    coat = (3.0, Tissue.MEDIASTINAL_FAT)
    layers = (coat, (0.0, Tissue.AORTA_WALL), (-AORTIC_WALL_MM, Tissue.AORTA_BLOOD))
    _paint_tube(canvas, chest, chest.vessels.aorta, layers)
    for ring, radius in annulus_rings(chest).values():
        field = canvas.tube(ring, radius, canvas.edge)
        if field is not None:
            canvas.paint(*field, Tissue.VALVE, only=(*_HEART_TISSUES, Tissue.AORTA_BLOOD, Tissue.AORTA_WALL))


def artery_distances(
    canvas: Canvas, branches: list[Branch], reach: float
) -> tuple[Box, npt.NDArray[np.float32]] | None:
    """Distance to the centreline of each reporting artery ``(4, nz, ny, nx)`` mm within ``reach``, else FAR."""
    points = np.concatenate([b.points for b in branches])
    slices = canvas.box(points.min(axis=0), points.max(axis=0), reach)
    if slices is None:
        return None
    out = np.full((len(ARTERIES), *(s.stop - s.start for s in slices)), FAR, dtype=np.float32)
    for branch in branches:
        field = canvas.tube(branch.points, 0.0, reach)
        if field is not None:
            offset = tuple(slice(f.start - s.start, f.stop - s.start) for f, s in zip(field[0], slices, strict=True))
            view = out[ARTERIES.index(branch.artery)][offset]
            np.minimum(view, field[1], out=view)
    return slices, out


def territories(
    chest: Thorax, canvas: Canvas, pump: HeartField | None, reach: float = TERRITORY_MM
) -> npt.NDArray[np.uint8]:
    """Territory labels (``TERRITORY_LABELS``) of a painted canvas ``(nz, ny, nx)`` uint8."""
    lut = np.zeros(256, dtype=np.uint8)
    lut[list(_HEART_TISSUES)] = TERRITORY_LABELS["heart"]
    lut[[Tissue.AORTA_BLOOD, Tissue.AORTA_WALL]] = TERRITORY_LABELS["aorta"]
    lut[Tissue.VALVE] = TERRITORY_LABELS["valve"]
    lut[[Tissue.CORTICAL_BONE, Tissue.MARROW, Tissue.DISC]] = TERRITORY_LABELS["bone"]
    labels = lut[canvas.tissue]
    if pump is None:
        return labels
    part = labels[pump.box]  # pulmonary trunk and vein stubs inside the sac belong to the heart
    part[(pump.sac < 0) & (part == 0)] = TERRITORY_LABELS["heart"]
    for ring, _ in annulus_rings(chest).values():
        field = canvas.tube(ring, VALVE_REGION_MM, canvas.edge)
        if field is not None:
            part = labels[field[0]]
            part[(field[1] < 0) & (part == TERRITORY_LABELS["heart"])] = TERRITORY_LABELS["valve"]
    near = artery_distances(canvas, chest.branches, reach)
    if near is None:
        return labels
    slices, distance = near
    nearest = distance.argmin(axis=0)
    allowed = (distance.min(axis=0) < reach) & ~np.isin(canvas.tissue[slices], _NO_TERRITORY)
    allowed &= (labels[slices] != TERRITORY_LABELS["valve"]) | (distance.min(axis=0) < VALVE_REGION_MM)
    allowed &= chest.heart.surface(canvas.at(slices)) > -TERRITORY_DEPTH_MM
    labels[slices][allowed] = (nearest + TERRITORY_LABELS["LM"])[allowed].astype(np.uint8)
    return labels


def maps(chest: Thorax, grid: Grid, reach: float = TERRITORY_MM) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Territory labels and tissue codes on ``grid``, both uint8 ``(nz, ny, nx)``, painted once."""
    canvas = Canvas(grid, chest.deformation)
    pump = paint(chest, canvas)
    return territories(chest, canvas, pump, reach), canvas.tissue


def label_map(chest: Thorax, grid: Grid) -> npt.NDArray[np.uint8]:
    """Territory labels (``TERRITORY_LABELS``) on an axis-aligned ``grid``, uint8 ``(nz, ny, nx)``."""
    return maps(chest, grid)[0]


def tissue_map(chest: Thorax, grid: Grid) -> npt.NDArray[np.uint8]:
    """Tissue codes (``Tissue``) on an axis-aligned ``grid``, uint8 ``(nz, ny, nx)``."""
    return maps(chest, grid)[1]
