"""Train the keypoint network: simulated heads in any pose and any contrast, and where their landmarks are.

KeyMorph (Wang 2023, MedIA 90:102962 [R]) finds keypoints of its own by asking that they move with the image. A
simulated head knows its template, so the keypoints are given: places in the template, which the network must find in
every view. Contrast is drawn per tissue, far wider than it occurs (SynthMorph: Hoffmann 2022, IEEE TMI 41:543 [R]).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, interpolate

from ops.phantoms.head.anatomy import BRAIN_TISSUES, HeadTissue, hounsfield_table, sample_head
from ops.phantoms.participant import sample_participant
from ops.registration.fields import identity, sample, transform_points, units_to_patient
from ops.registration.keypoints import SIDE, SPACING_MM, centre_of_mass, keypoint_index, normalised
from ops.training.learner import Learner
from ops.training.network import UNet3d
from ops.volume import FloatArray, Grid

KEYPOINTS = 16
# Widths of the network: 227,000 weights, 0.9 MB.
WIDTHS = (8, 24, 72)
BATCH = 16
# Turns grow with the training: from EARLY_TURN to any, between these parts of it.
EARLY_TURN, EARLY_SHARE, WIDE_SHARE = math.radians(60.0), 0.08, 0.5
# A head from the neck to the vertex, with room for the largest: painted at 3 mm.
HEAD_SHAPE, HEAD_SPACING_MM, HEAD_ORIGIN = (90, 84, 72), 3.0, (-106.5, -132.0, -150.0)
# Landmarks: spread over an ellipsoid near the inner table of the skull and the roof of the mouth, template mm.
LANDMARK_CENTRE, LANDMARK_AXES = (0.0, -5.0, 0.0), (55.0, 75.0, 60.0)
# Points on which the linear map that the keypoints give is compared with the true one: corners of a cube, template mm.
CUBE_MM = 70.0

STRIPPED_SHARE = 0.2  # of images without skull and face
CT_SHARE = 0.35
CUT_SHARE = 0.6  # of images whose field of view ends within the head or neck
STRETCH = 0.10  # σ of the logarithm of size, and of stretches and shears
BEND_MM = 6.0  # largest σ of the smooth displacement; landmarks stay, so that the network learns the pose of the whole
JITTER_MM = 12.0
NOISE = 0.08  # largest σ, of the range of intensities
INTRACRANIAL = (*BRAIN_TISSUES, HeadTissue.CSF, HeadTissue.VENTRICLE, HeadTissue.DURA, HeadTissue.SINUS)


@dataclass(frozen=True, eq=False)
class LabelledHead:
    """One simulated head in the pose of its template.

    Attributes
    ----------
    labels
        `HeadTissue` codes ``(z, y, x)`` on :func:`head_grid`.
    landmarks
        ``(KEYPOINTS, 3)`` LPS mm.
    """

    labels: npt.NDArray[np.uint8]
    landmarks: FloatArray


@dataclass(frozen=True, eq=False)
class Views:
    """A batch of images and where their landmarks are.

    Attributes
    ----------
    images
        ``(n, 1, SIDE, SIDE, SIDE)`` float32, as :func:`ops.registration.keypoints.network_field` makes them.
    landmarks
        ``(n, KEYPOINTS, 3)`` float32, index ``(k, j, i)``.
    """

    images: Tensor
    landmarks: Tensor


def head_grid() -> Grid:
    """Lattice on which the heads to train on are painted."""
    return Grid.from_spacing(HEAD_SHAPE, (HEAD_SPACING_MM,) * 3, HEAD_ORIGIN)


def image_grid() -> Grid:
    """Lattice of their images: means of 3 × 3 × 3 voxels of :func:`head_grid`."""
    affine = head_grid().affine.copy()
    affine[:3, 3] += HEAD_SPACING_MM
    affine[:3, :3] *= 3
    nz, ny, nx = HEAD_SHAPE
    return Grid((nz // 3, ny // 3, nx // 3), affine)


def template_landmarks() -> FloatArray:
    """Landmarks ``(KEYPOINTS, 3)`` in template mm: a Fibonacci lattice on an ellipsoid."""
    rank = np.arange(KEYPOINTS) + 0.5
    height, turn = 1 - 2 * rank / KEYPOINTS, rank * math.pi * (3 - math.sqrt(5))
    radius = np.sqrt(1 - height**2)
    sphere = np.stack([radius * np.cos(turn), radius * np.sin(turn), height], axis=1)
    return np.asarray(sphere * LANDMARK_AXES + LANDMARK_CENTRE)


def simulated_head(seed: int) -> LabelledHead:
    """Paint the head of one random participant, upright and about the origin."""
    rng = np.random.default_rng(seed)
    head = replace(sample_head(sample_participant(rng), rng), turn=np.eye(3), centre=(0.0, 0.0, 0.0))
    return LabelledHead(head.fields(head_grid()).labels(), head.to_patient(template_landmarks()))


def random_contrast(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Draw a brightness per `HeadTissue`: a CT seen through a random window, or anything at all."""
    if rng.uniform() < CT_SHARE:
        low = rng.choice([-1000.0, rng.uniform(-1000, 0)])
        values = np.clip((hounsfield_table(rng) - low) / (rng.uniform(80, 1500) - low), 0, 1)
    else:
        values = rng.uniform(0.05, 1, len(HeadTissue))
        values[HeadTissue.AIR] = 0
        if rng.uniform() < 0.4:
            values[[HeadTissue.BONE, HeadTissue.DIPLOE]] = rng.uniform(0, 0.2)
        if rng.uniform() < 0.3:  # white and grey matter hardly told apart
            values[list(BRAIN_TISSUES)] = rng.uniform(0.2, 1) * rng.normal(1, 0.05, len(BRAIN_TISSUES))
    if rng.uniform() < STRIPPED_SHARE:
        values[[tissue for tissue in HeadTissue if tissue not in INTRACRANIAL]] = 0
    return np.asarray(values, dtype=np.float32)


def random_image(head: LabelledHead, rng: np.random.Generator) -> Tensor:
    """Image ``(1, 1, z, y, x)`` of a head in its own pose, on :func:`image_grid`, 0 to 1."""
    bright = torch.from_numpy(random_contrast(rng)[head.labels])[None, None]
    image = avg_pool3d(bright, 3)
    shading = torch.from_numpy(rng.normal(0, rng.uniform(0, 0.3), (1, 1, 3, 3, 3)).astype(np.float32)).exp()
    image = image * interpolate(shading, size=image.shape[2:], mode="trilinear", align_corners=True)
    if rng.uniform() < CUT_SHARE:
        image = image * _random_cut(image, rng)
    return normalised(image)


def _random_cut(image: Tensor, rng: np.random.Generator) -> Tensor:
    """One on this side of a plane across a head, zero beyond: mostly through neck or vertex, sometimes anywhere."""
    normal = np.array([0, 0, rng.choice([-1.0, -1.0, 1.0])]) + rng.normal(0, 0.15, 3)
    if rng.uniform() < 0.2:
        normal = rng.normal(size=3)
    normal /= np.linalg.norm(normal)
    points = transform_points(_units_to_mm(), identity(image.shape, image.device).reshape(1, -1, 3))
    height = points[0] @ torch.from_numpy(normal).float()
    return (height < rng.uniform(30, 110)).reshape(image.shape)


def _units_to_mm() -> Tensor:
    return torch.from_numpy(units_to_patient(image_grid()))[None]


def random_rotation(largest: float, rng: np.random.Generator) -> FloatArray:
    """Draw a 3×3 rotation, uniform over all of at most ``largest`` radians.

    The density of the angle is that of the uniform distribution on the rotations, 1 − cos (Miles 1965, Biometrika
    52:636 [R]), cut at ``largest``.
    """
    angles = np.linspace(0, largest, 200)
    below = angles - np.sin(angles)
    axis = rng.normal(size=3)
    x, y, z = axis / np.linalg.norm(axis) * np.interp(rng.uniform(0, below[-1]), below, angles)
    return np.asarray(torch.matrix_exp(torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)))


def random_strain(rng: np.random.Generator) -> FloatArray:
    """Draw a change of size with stretches along any axes: 3×3, symmetric, positive definite."""
    strain = rng.normal(0, STRETCH, (3, 3))
    stretch = torch.matrix_exp(torch.from_numpy((strain + strain.T) / 2)).numpy()
    return np.asarray(stretch * math.exp(rng.normal(0, STRETCH)))


def largest_turn(progress: float) -> float:
    """Largest turn in radians at a fraction ``progress`` 0–1 of the training.

    Turns of every size from the beginning are hardly learned: after 700 steps the loss stood at 13 voxels, and at 4 for
    turns of up to 63°.
    """
    share = (progress - EARLY_SHARE) / (WIDE_SHARE - EARLY_SHARE)
    return float(np.interp(share, (0, 1), (EARLY_TURN, math.pi)))


def random_view(image: Tensor, head: LabelledHead, largest: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Turn, stretch and shift a head's image into the network's field.

    Returns
    -------
    image, landmarks
        ``(SIDE, SIDE, SIDE)`` and ``(KEYPOINTS, 3)``, index ``(k, j, i)``.
    """
    linear = random_rotation(largest, rng) @ random_strain(rng)
    centre = image_grid().index_to_patient(centre_of_mass(image[0, 0])) + rng.uniform(-JITTER_MM, JITTER_MM, 3)
    half = (SIDE - 1) / 2 * SPACING_MM
    field = identity((SIDE,) * 3, image.device) * half
    bends = torch.from_numpy(rng.normal(0, rng.uniform(0, BEND_MM), (1, 3, 4, 4, 4)).astype(np.float32))
    bent = field + interpolate(bends, size=(SIDE,) * 3, mode="trilinear", align_corners=True)[0].movedim(0, -1)
    to_head = torch.from_numpy(linear.T).float()
    places = bent.reshape(1, -1, 3) @ to_head + torch.from_numpy(centre).float()
    units = transform_points(torch.linalg.inv(_units_to_mm()), places).reshape(1, SIDE, SIDE, SIDE, 3)
    view = sample(image, units, padding="zeros")[0, 0]
    found = (head.landmarks - centre) @ np.linalg.inv(linear).T / SPACING_MM
    return _degrade(view, rng), torch.from_numpy(found[:, ::-1] + (SIDE - 1) / 2).float()


def _degrade(view: Tensor, rng: np.random.Generator) -> Tensor:
    """Curve the scale of brightness and add noise."""
    noise = rng.standard_normal(tuple(view.shape), dtype=np.float32) * rng.uniform(0, NOISE)
    curved = view.clamp(min=0) ** math.exp(rng.normal(0, 0.3))
    return (curved + torch.from_numpy(noise).float()).abs().clamp(max=1)


def random_views(heads: Sequence[LabelledHead], count: int, largest: float, rng: np.random.Generator) -> Views:
    """Draw a batch: ``count`` views, two of each of ``count / 2`` images, turned by ``largest`` radians at most."""
    views = []
    for _ in range(count // 2):
        head = heads[int(rng.integers(len(heads)))]
        image = random_image(head, rng)
        views += [random_view(image, head, largest, rng) for _ in range(2)]
    images, landmarks = zip(*views, strict=True)
    return Views(torch.stack(images)[:, None], torch.stack(landmarks))


def keypoint_loss(found: Tensor, landmarks: Tensor) -> Tensor:
    """Mean distance of the keypoints from the landmarks, plus that of the linear map they give from the true one.

    The map is that of least squares from the template to the keypoints, closed form and linear in them; it is compared
    on the corners of a cube about the head.

    Parameters
    ----------
    found, landmarks
        ``(n, KEYPOINTS, 3)``, index ``(k, j, i)``.
    """
    error = found - landmarks
    corners = torch.cartesian_prod(*[torch.tensor([-CUBE_MM, CUBE_MM])] * 3)
    fit = _homogeneous(corners) @ torch.linalg.pinv(_homogeneous(torch.from_numpy(template_landmarks()).float()))
    loss: Tensor = error.norm(dim=2).mean() + (fit @ error).norm(dim=2).mean()
    return loss


def _homogeneous(points: Tensor) -> Tensor:
    return torch.cat([points, torch.ones(len(points), 1)], dim=1)


class KeypointLearner(Learner):
    """Trains a keypoint network: :meth:`step` takes images and landmarks of :class:`Views`."""

    def __init__(self, network: UNet3d, autocast: bool | None = None) -> None:
        super().__init__(network, torch.ones(KEYPOINTS), autocast=autocast)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return keypoint_loss(keypoint_index(logits), labels)


def train_keypoints(
    heads: Sequence[LabelledHead],
    minutes: float,
    seed: int,
    on_step: Callable[[KeypointLearner, float, float], None] | None = None,
    widths: tuple[int, ...] = WIDTHS,
) -> KeypointLearner:
    """Train a new network for some minutes of this process's CPU time, on as many threads as torch has.

    Parameters
    ----------
    heads
        To draw views of.
    minutes
        Sets the learning rate's and the turns' schedule too.
    seed
        Initial weights and views. Same seed, machine and number of steps: same network up to float rounding.
    on_step
        Called after every step with the learner, the loss and the part of the training that is over; it may save
        ``learner.state()``.
    widths
        Of the network.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    learner = KeypointLearner(UNet3d(KEYPOINTS, widths))
    started = time.process_time()
    while (progress := (time.process_time() - started) / (60 * minutes)) < 1:
        views = random_views(heads, BATCH, largest_turn(progress), rng)
        loss = learner.step(views.images, views.landmarks, progress)
        if on_step is not None:
            on_step(learner, loss, progress)
    return learner
