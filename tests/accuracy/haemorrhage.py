"""Volumes, ABC/2 and midline shift of simulated haemorrhages, by slice thickness.

Every participant has one haemorrhage, the subtypes in turn. It is labelled as a careful reader would: every voxel that
is at least half blood. Truth is what the phantom says, but for ABC/2, whose truth is ABC/2 itself in the limit of thin
slices: C of an ellipsoid is then 0.683 of its height, so that ABC/2 is 35 % below the true volume by definition.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ops.diseases.haemorrhage.measurement import MidlineLandmarks, measure
from ops.phantoms.head.anatomy import MONRO, Head, sample_head
from ops.phantoms.head.bleeds import (
    SUBTYPE_LABELS,
    Bleed,
    Intraparenchymal,
    bleed_box,
    label_bleeds,
    sample_bleed,
    true_volumes,
)
from ops.phantoms.lattice import centred_grid
from ops.phantoms.participant import sample_participant
from ops.volume import Grid
from tests.accuracy.draw import Draw

SLICES_MM = (0.6, 2.5, 5.0)
PIXEL_MM = 0.45
# Share of an ellipsoid's height that its slices' weights add up to: areas go as 1 - t², so that slices count whole up
# to t = 1/2 and half up to t = √3/2.
C_SHARE = 0.5 + (math.sqrt(0.75) - 0.5) / 2


def ellipsoid_bleed(rng: np.random.Generator) -> tuple[Intraparenchymal, float]:
    """One ellipsoid clear of the skull, and the shift it causes."""
    side = rng.choice([-1.0, 1.0])
    axes = rng.uniform(9, 21, (1, 3))
    centre = np.array([[side * 32, rng.uniform(-25, 30), rng.uniform(15, 30)]])
    return Intraparenchymal(centre, axes, oedema_mm=4.0), -side * max(0.0, axes.mean() - 9)


def ellipsoid_truth(head: Head, bleed: Intraparenchymal) -> tuple[float, float]:
    """Volume and ABC/2 in mL of an ellipsoid cut by axial slices, in closed form."""
    axes = bleed.semi_axes[0] * head.scale
    shape = head.turn @ np.diag(axes**2) @ head.turn.T
    half_height = math.sqrt(shape[2, 2])
    # The section through the centre is the ellipse of the shape's inverse restricted to the plane.
    in_plane = 1 / np.sqrt(np.linalg.eigvalsh(np.linalg.inv(shape)[:2, :2]))
    volume = 4 / 3 * math.pi * float(axes.prod())
    abc2 = 2 * in_plane[0] * 2 * in_plane[1] * C_SHARE * 2 * half_height / 2
    return volume / 1000, float(abc2) / 1000


def landmarks(head: Head, grid: Grid) -> MidlineLandmarks:
    """Pixels that a reader clicks in the slice nearest to the foramina of Monro, found from the parameters alone."""
    k = int(np.rint(grid.patient_to_index(head.septum)[0]))
    z = float(grid.index_to_patient((k, 0, 0))[2])

    def in_slice(template: np.ndarray) -> np.ndarray:
        """Move a template point along the head's z until it lies in the slice."""
        point = np.array(template, dtype=np.float64)
        for _ in range(3):
            point[2] += (z - head.to_patient(point)[2]) / head.scale[2] / head.turn[2, 2]
        return point

    septum = in_slice(MONRO)
    for _ in range(200):  # where the tissue of the median plane lies: x - displacement(x) = 0
        x, _, _ = head.unshifted(tuple(np.array([c], dtype=np.float32) for c in septum))
        septum = in_slice(septum - [0.5 * float(x[0]), 0, 0])
    front, back = in_slice(np.array([0, -85.0, 10.0])), in_slice(np.array([0, 85.0, 10.0]))
    clicked = [grid.index_to_patient(np.rint(grid.patient_to_index(head.to_patient(p)))) for p in (septum, front, back)]
    return MidlineLandmarks(*(tuple(map(float, p)) for p in clicked))


def participant(rng: np.random.Generator, subtype: str) -> tuple[Head, Bleed]:
    bleed, shift = ellipsoid_bleed(rng) if subtype == "IPH" else sample_bleed(subtype, rng)
    return sample_head(sample_participant(rng), rng, shift), bleed


def draws(n: int, seed: int) -> Iterator[Draw]:
    """``n`` participants at three slice thicknesses."""
    for number in range(n):
        rng = np.random.default_rng((seed, number))
        subtype = list(SUBTYPE_LABELS)[number % len(SUBTYPE_LABELS)]
        head, bleed = participant(rng, subtype)
        truth = {}
        if isinstance(bleed, Intraparenchymal):
            truth["volume_iph"], truth["abc2_iph_largest"] = ellipsoid_truth(head, bleed)
        else:
            truth[f"volume_{subtype.lower()}"] = true_volumes(head, [bleed])[subtype]
        truth["volume_total"] = next(iter(truth.values()))
        truth["midline_shift"] = abs(head.shift_mm)
        low, high = bleed_box(head, [bleed])
        offset = rng.uniform(-0.5, 0.5, 3)
        for thickness in SLICES_MM:
            spacing = (thickness, PIXEL_MM, PIXEL_MM)
            size = high - low + [0, 0, 2 * thickness]
            grid = centred_grid((low + high) / 2 + offset * spacing[::-1], size, spacing)
            record = measure(label_bleeds(head, [bleed], grid), landmarks=landmarks(head, grid))
            for name, value in truth.items():
                found = record.measurement(name)
                yield Draw(
                    name,
                    "mm" if name == "midline_shift" else "mL",
                    f"{thickness:g} mm",
                    value,
                    found.value if isinstance(found.value, float) else None,
                    found.reason,
                )
