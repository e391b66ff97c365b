"""The same tasks with SimpleITK: for comparison only."""

from __future__ import annotations

import numpy as np

from ops.registration.pyramid import working_lattices
from ops.registration.transforms import Affine, Displacement, Transform, chain
from ops.volume import Volume


def as_sitk(volume: Volume):
    """Image of SimpleITK with the same geometry (no shear)."""
    import SimpleITK

    out = SimpleITK.GetImageFromArray(volume.physical())
    out.SetOrigin(volume.grid.origin.tolist())
    out.SetSpacing(volume.grid.spacing[::-1])
    out.SetDirection(volume.grid.directions[:, ::-1].ravel().tolist())
    return out


def linear_mi(fixed: Volume, moving: Volume, rigid: bool) -> Affine:
    """Mattes mutual information, regular-step gradient descent, three levels, 5 % of the voxels: the usual recipe."""
    import SimpleITK

    method = SimpleITK.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.05, 1)
    method.SetInterpolator(SimpleITK.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 1e-3, 200, gradientMagnitudeTolerance=1e-6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    transform = SimpleITK.Euler3DTransform() if rigid else SimpleITK.AffineTransform(3)
    transform.SetCenter(fixed.grid.index_to_patient((np.array(fixed.grid.shape) - 1) / 2).tolist())
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(as_sitk(fixed), as_sitk(moving))
    corners = np.array([transform.TransformPoint(p) for p in np.vstack([np.zeros(3), np.eye(3)]).tolist()])
    matrix = np.eye(4)
    matrix[:3, 3], matrix[:3, :3] = corners[0], (corners[1:] - corners[0]).T
    return Affine(matrix)


def demons(fixed: Volume, moving: Volume, affine: Affine, spacings_mm: tuple[float, ...]) -> Transform:
    """Diffeomorphic demons of SimpleITK from the same affine map, on the same working lattices."""
    import SimpleITK

    levels = [working_lattices(image, None, spacings_mm, None, "cpu") for image in (fixed, moving)]
    field = None
    for first, second, iterations in zip(*levels, (40, 40, 20), strict=True):
        reference = as_sitk(Volume(first.values, first.grid, "a.u."))
        linear = SimpleITK.AffineTransform(affine.matrix[:3, :3].ravel().tolist(), affine.matrix[:3, 3].tolist())
        aligned = SimpleITK.Resample(as_sitk(Volume(second.values, second.grid, "a.u.")), reference, linear)
        filter_ = SimpleITK.DiffeomorphicDemonsRegistrationFilter()
        filter_.SetNumberOfIterations(iterations)
        filter_.SetStandardDeviations(1.0)
        if field is None:
            field = filter_.Execute(reference, aligned)
        else:
            field = filter_.Execute(reference, aligned, SimpleITK.Resample(field, reference))
    vectors = np.moveaxis(SimpleITK.GetArrayFromImage(field), -1, 0).astype(np.float32)
    return chain(Displacement(levels[0][-1].grid, np.ascontiguousarray(vectors)), affine)
