"""Radiographs of a wrist (PA and lateral) or a hip (AP), with or without a fracture, and the box around it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ops.phantoms.bones.hip import Hip, sample_hip
from ops.phantoms.bones.projection import Projection, Tube, expose
from ops.phantoms.bones.wrist import Wrist, sample_wrist
from ops.phantoms.participant import sample_participant
from ops.phantoms.study import Radiograph, SimulatedStudy

Laterality = Literal["L", "R"]

# Readers draw a box around a fracture with some room.
BOX_MARGIN_MM = 3.0
FRACTURE_SHARE, WRIST_SHARE = 0.5, 0.6
TURN_SD_DEGREES = 3.0


@dataclass(frozen=True)
class Technique:
    """How a view is taken: DICOM attributes, field, exposure and display."""

    description: str
    body_part: str
    view: str
    orientation: tuple[str, str]
    field: Projection
    photons_per_mm2: float
    scatter_ratio: float
    latitude: float
    grey_per_unit: float


_WRIST_FIELD = Projection(0, (-62, -85), (62, 95), 0.2)
TECHNIQUES = {
    "wrist_pa": Technique("Wrist PA", "WRIST", "PA", ("L", "H"), _WRIST_FIELD, 6e4, 0.15, 0.4, 900),
    "wrist_lateral": Technique(
        "Wrist lateral", "WRIST", "LL", ("A", "H"), replace(_WRIST_FIELD, turn=90), 6e4, 0.15, 0.4, 900
    ),
    "hip_ap": Technique(
        "Hip AP", "HIP", "AP", ("L", "F"), Projection(0, (-115, -170), (105, 110), 0.3), 2e5, 0.5, 0.7, 900
    ),
}
"""By role."""


def radiograph(
    limb: Wrist | Hip, role: str, laterality: Laterality, field: Projection, rng: np.random.Generator
) -> Radiograph:
    """Expose one view of a limb.

    Parameters
    ----------
    limb
        Of the left side; a right one is its mirror image.
    role
        Of `TECHNIQUES`.
    field
        The technique's, perhaps turned a little or with other pixels.
    """
    technique = TECHNIQUES[role]
    pixels = expose(
        limb.bones(),
        limb.outlines(),
        field,
        rng,
        photons_per_mm2=technique.photons_per_mm2,
        scatter_ratio=technique.scatter_ratio,
        latitude=technique.latitude,
        grey_per_unit=technique.grey_per_unit,
    )
    return Radiograph(
        role=role,
        description=technique.description,
        pixels=np.ascontiguousarray(pixels[:, ::-1]) if _is_mirrored(role, laterality) else pixels,
        spacing_mm=(field.pixel_mm, field.pixel_mm),
        body_part=technique.body_part,
        view="RL" if (technique.view, laterality) == ("LL", "R") else technique.view,
        orientation=technique.orientation,
        laterality=laterality,
    )


def fracture_box(
    limb: Wrist | Hip, role: str, laterality: Laterality, field: Projection, margin_mm: float = BOX_MARGIN_MM
) -> tuple[float, float, float, float] | None:
    """Box ``(x0, y0, x1, y1)`` in pixels around both broken surfaces as projected, or None without a fracture.

    From the parameters alone: the rough plane cut by the tube of the bone that broke. It is cut off at the image.
    """
    if limb.broken is None:
        return None
    points = field.to_pixels(limb.broken.section(_broken_tube(limb)))
    rows, columns = field.shape
    margin = margin_mm / field.pixel_mm
    x0, y0 = np.clip(points.min(axis=0) - margin, 0, (columns, rows))
    x1, y1 = np.clip(points.max(axis=0) + margin, 0, (columns, rows))
    if _is_mirrored(role, laterality):
        x0, x1 = columns - x1, columns - x0
    return float(x0), float(y0), float(x1), float(y1)


def sample_study(rng: np.random.Generator) -> SimulatedStudy:
    """Draw one participant: two views of a wrist or one of a hip, half of them with a fracture."""
    person = sample_participant(rng)
    is_broken, is_wrist = bool(rng.uniform() < FRACTURE_SHARE), bool(rng.uniform() < WRIST_SHARE)
    side: Laterality = "L" if rng.uniform() < 0.5 else "R"
    limb: Wrist | Hip
    if is_wrist:
        limb, roles = sample_wrist(rng, person.sex, person.age, is_broken), ["wrist_pa", "wrist_lateral"]
    else:
        limb, roles = sample_hip(rng, person.sex, person.age, person.bmi, is_broken), ["hip_ap"]
    series, boxes = [], {}
    for role in roles:
        field = TECHNIQUES[role].field
        field = replace(field, turn=field.turn + float(rng.normal(0, TURN_SD_DEGREES)))
        series.append(radiograph(limb, role, side, field, rng))
        box = fracture_box(limb, role, side, field)
        boxes[role] = [] if box is None else [list(box)]
    truth: dict[str, Any] = {
        "fracture_call": "positive" if is_broken else "negative",
        "fracture_box_count": float(sum(map(len, boxes.values()))),
        **{f"fracture_box_count_{role}": float(len(found)) for role, found in boxes.items()},
        "boxes": boxes,
    }
    return SimulatedStudy(person, "Wrist" if is_wrist else "Hip", tuple(series), {}, truth)


def _broken_tube(limb: Wrist | Hip) -> Tube:
    return limb.radius() if isinstance(limb, Wrist) else limb.neck()


def _is_mirrored(role: str, laterality: Laterality) -> bool:
    """Seen from the side, a right limb looks as a left one."""
    return laterality == "R" and role != "wrist_lateral"
