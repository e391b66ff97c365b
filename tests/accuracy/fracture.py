"""Detection scores of simulated readers against closed forms, and projected fractures against their boxes.

Readers follow the search model: each fracture is marked with a hit rate of its own, other marks are Poisson, scores of
both are normal, and marks of fractures miss by a normal shift, so that some fall short of an IoU of 0.5 and are false
positives. Sensitivity, average precision and AUC (an image has its highest score) follow from these parameters by
integration. The limits are those of sampling so many images; the precision made non-increasing is a little high with
few of them.

The box around what a fracture changes in the ray sums, at three pixel sizes, is compared with its surfaces as projected
from their parameters; it runs from edge to edge of the outermost pixels and comes out about a pixel and a half long.
The fracture is not displaced here, as otherwise the whole limb beyond it changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import expit, ndtr

from ops.diseases.fracture.measurement import View, fuse, measure
from ops.metrics.classification import auc
from ops.metrics.detection import HitPolicy, Matches, ScoredBoxes, average_precision, match, rank
from ops.metrics.froc import froc
from ops.phantoms.bones.hip import Hip, sample_hip
from ops.phantoms.bones.projection import Projection, ray_sum
from ops.phantoms.bones.radiographs import TECHNIQUES, fracture_box
from ops.phantoms.bones.wrist import Wrist, sample_wrist
from ops.phantoms.participant import sample_participant
from ops.phantoms.sdf import Array, Points
from tests.accuracy.draw import Draw

IMAGES = (100, 300)
PREVALENCE = 0.4
BOX_PX = np.array([80.0, 60.0])
SHAPE = (600, 600)
# False marks lie on a lattice on the left, fractures on the right: no two boxes overlap.
LATTICE = np.array([(x, y) for x in (10.0, 100.0, 190.0) for y in np.arange(10.0, 530.0, 70.0)])
FRACTURE_AT = np.array([420.0, 300.0])
IOU = 0.5
FALSE_POSITIVES = (0.1, 0.5)
PIXELS_MM = (0.4, 0.6, 0.8)
AROUND_MM = 8.0
# Optical depth: that of an eighth of a millimetre of cortex along the ray.
CHANGED = 0.01


@dataclass(frozen=True)
class Reader:
    """Planted behaviour: chance to mark a fracture, other marks an image, mean score of the former, shift in pixels."""

    hit_rate: float
    false_marks: float
    separation: float
    shift_px: float

    def in_place(self) -> float:
        """Chance that a mark's IoU with its fracture is at least `IOU`: integral over the shift along x."""
        w, h = BOX_PX
        # (w − |dx|)(h − |dy|) ≥ s·w·h is an IoU ≥ s / (2 − s).
        s = 2 * IOU / (1 + IOU)

        def given(dx: float) -> float:
            most = h * (1 - s * w / (w - dx))
            return 2 * _density(dx / self.shift_px) / self.shift_px * (2 * ndtr(most / self.shift_px) - 1)

        return quad(given, 0, w * (1 - s))[0]

    def sensitivity(self, threshold: float) -> float:
        return self.hit_rate * self.in_place() * ndtr(self.separation - threshold)

    def false_positives(self, threshold: float) -> float:
        """Return those of an image: other marks, and marks of fractures that lie too far off."""
        astray = PREVALENCE * self.hit_rate * (1 - self.in_place())
        return self.false_marks * ndtr(-threshold) + astray * ndtr(self.separation - threshold)

    def sensitivity_at(self, false_positives: float) -> float:
        return self.sensitivity(brentq(lambda t: self.false_positives(t) - false_positives, -8, 8))

    def average_precision(self) -> float:
        """Precision integrated over the recall, which is highest at the highest thresholds."""
        most = self.hit_rate * self.in_place()

        def precision(t: float) -> float:
            hits = PREVALENCE * self.sensitivity(t)
            return hits / (hits + self.false_positives(t))

        return quad(lambda t: precision(t) * most * _density(self.separation - t), -6, 8, limit=200)[0]

    def auc(self) -> float:
        """P(highest score with a fracture > without), ties of images without a mark counting half."""

        def below(t: float) -> float:
            return float(np.exp(-self.false_marks * ndtr(-t)))

        def above(t: float) -> float:
            return 1 - (1 - self.hit_rate * ndtr(self.separation - t)) * below(t)

        none, none_broken = below(-40), 1 - above(-40)
        marked = quad(lambda t: above(t) * below(t) * self.false_marks * _density(t), -8, 8, limit=200)[0]
        return marked + none * (1 - none_broken) + none * none_broken / 2

    def read(self, is_broken: bool, rng: np.random.Generator) -> ScoredBoxes:
        """Mark one image."""
        n = min(rng.poisson(self.false_marks), len(LATTICE))
        corners = [LATTICE[rng.permutation(len(LATTICE))[:n]]]
        scores = [rng.normal(0, 1, n)]
        if is_broken and rng.uniform() < self.hit_rate:
            corners.append(FRACTURE_AT[None] + rng.normal(0, self.shift_px, (1, 2)))
            scores.append(rng.normal(self.separation, 1, 1))
        low = np.concatenate(corners)
        return ScoredBoxes(
            np.concatenate([low, low + BOX_PX], axis=1), expit(np.concatenate(scores)), np.zeros(len(low), dtype=int)
        )


def draws(n: int, seed: int) -> Iterator[Draw]:
    """Scores of ``n`` readers at each number of images, and boxes of ``n`` fractures at each pixel size."""
    rng = np.random.default_rng(seed)
    readers = [
        Reader(*(float(rng.uniform(*span)) for span in ((0.7, 0.98), (0.6, 2.0), (1.0, 2.5), (4.0, 11.0))))
        for _ in range(n)
    ]
    for images in IMAGES:
        for reader in readers:
            yield from reader_draws(reader, images, rng)
    for number in range(n):
        yield from box_draws(np.random.default_rng([seed, number]), number)


def reader_draws(reader: Reader, images: int, rng: np.random.Generator) -> Iterator[Draw]:
    resolution = f"{images} images"
    lesion = np.concatenate([FRACTURE_AT, FRACTURE_AT + BOX_PX])[None]
    is_broken = np.arange(images) < round(PREVALENCE * images)
    matches: list[Matches] = []
    probabilities = []
    for broken in is_broken:
        view = View("wrist", "DX", SHAPE, (reader.read(bool(broken), rng),))
        found = fuse(view)
        matches.append(
            match(found.corners, found.scores, lesion if broken else np.zeros((0, 4)), HitPolicy("box_iou", IOU))
        )
        probabilities.append(float(measure([view])["fracture_probability"]))  # type: ignore[arg-type]
    curve = froc(matches)
    for allowed in FALSE_POSITIVES:
        name = f"sensitivity at {allowed:g} FP/I"
        yield Draw(name, "1", resolution, reader.sensitivity_at(allowed), curve.sensitivity_at(allowed))
    found_ap = average_precision(rank(matches), "all_point")
    yield Draw("average precision at IoU 0.5", "1", resolution, reader.average_precision(), found_ap)
    yield Draw("AUC of the image", "1", resolution, reader.auc(), auc(is_broken, probabilities))


def box_draws(rng: np.random.Generator, number: int) -> Iterator[Draw]:
    """Width, height and centre in mm of one fracture's box: of a wrist from the front or the side, or of a hip."""
    role = tuple(TECHNIQUES)[number % len(TECHNIQUES)]
    person = sample_participant(rng)
    limb: Wrist | Hip
    if role == "hip_ap":
        limb = sample_hip(rng, person.sex, person.age, person.bmi, True)
    else:
        limb = sample_wrist(rng, person.sex, person.age, True)
    assert limb.broken is not None
    limb = replace(limb, broken=replace(limb.broken, shift=(0.0, 0.0, 0.0)))
    turn = TECHNIQUES[role].field.turn + float(rng.normal(0, 3))
    for pixel_mm in PIXELS_MM:
        field = around(limb, role, replace(TECHNIQUES[role].field, turn=turn, pixel_mm=pixel_mm), rng)
        truth = sides(np.array(fracture_box(limb, role, "L", field, margin_mm=0)) * pixel_mm)
        changed = np.abs(depth(limb, field) - depth(replace(limb, broken=None), field)) > CHANGED
        rows, columns = np.nonzero(changed)
        found = sides(np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) * pixel_mm)
        for name in truth:
            yield Draw(f"fracture box {name}", "mm", f"{pixel_mm} mm", truth[name], found[name])


def around(limb: Wrist | Hip, role: str, field: Projection, rng: np.random.Generator) -> Projection:
    """Only the part of a field with the fracture, moved by a part of a pixel."""
    x0, y0, x1, y1 = np.array(fracture_box(limb, role, "L", field, AROUND_MM)) * field.pixel_mm
    part = rng.uniform(0, field.pixel_mm, 2)
    low = (field.low[0] + x0 + part[0], field.high[1] - y1 + part[1])
    size = (np.array([x1 - x0, y1 - y0]) // field.pixel_mm) * field.pixel_mm
    return replace(field, low=low, high=(low[0] + size[0], low[1] + size[1]))


def depth(limb: Wrist | Hip, field: Projection) -> Array:
    """Optical depth of the bone that broke, without noise."""
    cortex, inside = (np.zeros(field.shape, dtype=np.float32) for _ in range(2))
    ray_sum(limb.bones()[0], field, cortex, inside)
    return cortex + inside


def sides(box: Points) -> dict[str, float]:
    x0, y0, x1, y1 = map(float, box)
    return {"width": x1 - x0, "height": y1 - y0, "centre along x": (x0 + x1) / 2, "centre along y": (y0 + y1) / 2}


def _density(x: float) -> float:
    return float(np.exp(-x * x / 2) / np.sqrt(2 * np.pi))
