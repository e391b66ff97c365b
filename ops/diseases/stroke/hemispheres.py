"""The mid-sagittal plane of a brain mask, and on which side of it voxels lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage, optimize

from ops.measure.checks import require_orthogonal
from ops.measure.errors import NotEvaluableError
from ops.volume import Grid

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]

# Heads lie in the scanner to within about this angle; a plane found beyond it is another plane (policy).
LARGEST_TILT_DEGREES = 30.0
# The contour of a brain has some 10⁵ voxels. A few thousand of them place a plane to a tenth of a millimetre.
CONTOUR_POINTS = 4000


@dataclass(frozen=True, eq=False)
class MidsagittalPlane:
    """A plane in patient space.

    Attributes
    ----------
    point
        A point on it, LPS mm.
    normal
        Unit vector towards the patient's left.
    """

    point: FloatArray
    normal: FloatArray

    def distance(self, grid: Grid) -> npt.NDArray[np.float32]:
        """Distance in mm of every voxel centre ``(z, y, x)`` from the plane; positive on the patient's left."""
        steps = self.normal @ grid.affine[:3, :3]
        offset = float(self.normal @ (grid.origin - self.point))
        k, j, i = (np.arange(n, dtype=np.float32) * np.float32(s) for n, s in zip(grid.shape, steps, strict=True))
        return np.asarray(k[:, None, None] + j[None, :, None] + i[None, None, :] + np.float32(offset))


def midsagittal_plane(brain: BoolArray, grid: Grid) -> MidsagittalPlane:
    """Plane about which a brain mask is most nearly its own mirror image.

    Starting from the sagittal plane through the centre of gravity, yaw, roll and offset are chosen so that points of
    the contour, mirrored, lie nearest to the contour (mean absolute distance, so that one deformed side does not
    tilt it).

    Parameters
    ----------
    brain
        ``(z, y, x)``; whole brain or a slab of it.
    grid
        Its grid, in any orientation.

    Raises
    ------
    NotEvaluableError
        ``gantry_tilt``; ``no_contour`` when the mask is empty or fills its grid; ``midsagittal_not_found`` when the
        best plane is more than `LARGEST_TILT_DEGREES` from sagittal.
    """
    require_orthogonal(grid)
    if not brain.any() or brain.all():
        raise NotEvaluableError("no_contour", "the brain mask is empty or fills the whole scan: it has no contour")
    # A face of the scan cuts through the brain and is no contour of it: the distances do not see it.
    outside = ndimage.distance_transform_edt(~brain, grid.spacing)
    inside = ndimage.distance_transform_edt(brain, grid.spacing)
    distance = (outside - inside).astype(np.float32)
    contour = np.argwhere(brain & (inside <= 1.01 * min(grid.spacing[1:])))
    points = grid.index_to_patient(contour[:: max(1, len(contour) // CONTOUR_POINTS)])
    centre = grid.index_to_patient(np.argwhere(brain).mean(axis=0))
    to_index = np.linalg.inv(grid.affine[:3, :3])

    def asymmetry(parameters: FloatArray) -> float:
        normal, offset = _normal(parameters), parameters[2]
        mirrored = points - 2 * ((points - centre) @ normal - offset)[:, None] * normal
        index = (mirrored - grid.origin) @ to_index.T
        return float(np.abs(ndimage.map_coordinates(distance, index.T, order=1, mode="nearest")).mean())

    start = np.array([[0, 0, 0], [8, 0, 0], [0, 8, 0], [0, 0, 5]], dtype=np.float64)
    options = {"initial_simplex": start, "xatol": 0.02, "fatol": 1e-3, "maxiter": 400}
    best = optimize.minimize(asymmetry, start[0], method="Nelder-Mead", options=options).x
    normal = _normal(best)
    if normal[0] < np.cos(np.radians(LARGEST_TILT_DEGREES)):
        tilt = np.degrees(np.arccos(normal[0]))
        raise NotEvaluableError("midsagittal_not_found", f"the plane of symmetry is {tilt:.0f}° from sagittal")
    return MidsagittalPlane(centre + best[2] * normal, normal)


def _normal(parameters: FloatArray) -> FloatArray:
    """Patient's left, turned by yaw and roll in degrees."""
    yaw, roll = np.radians(parameters[:2])
    return np.array([np.cos(yaw) * np.cos(roll), np.sin(yaw) * np.cos(roll), np.sin(roll)])
