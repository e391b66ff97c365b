"""The same tasks by SimpleITK, elastix and ANTs, each imported when it is asked; only the first is a requirement."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


def as_itk(volume: Volume):
    """Image of ITK with the same geometry (no shear)."""
    import itk

    out = itk.image_from_array(np.ascontiguousarray(volume.physical(), dtype=np.float32))
    out.SetOrigin(volume.grid.origin.tolist())
    out.SetSpacing(volume.grid.spacing[::-1])
    out.SetDirection(itk.matrix_from_array(np.ascontiguousarray(volume.grid.directions[:, ::-1])))
    return out


def as_ants(volume: Volume):
    """Image of ANTs with the same geometry (no shear)."""
    import ants

    values = np.ascontiguousarray(volume.physical().T, dtype=np.float32)
    grid = volume.grid
    return ants.from_numpy(values, grid.origin.tolist(), grid.spacing[::-1], grid.directions[:, ::-1])


def sitk_linear(
    fixed: Volume,
    moving: Volume,
    rigid: bool,
    share: float = 0.05,
    shrink: tuple[int, ...] = (4, 2, 1),
) -> Affine:
    """Mattes mutual information by regular steps from aligned centres, three levels: SimpleITK's usual recipe.

    Parameters
    ----------
    share
        Part of each level's voxels that is sampled, at random.
    shrink
        Factor of each level; it is smoothed by half as many voxels, the full resolution not at all.
    """
    import SimpleITK

    images = as_sitk(fixed), as_sitk(moving)
    method = SimpleITK.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(share, 1)
    method.SetInterpolator(SimpleITK.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 1e-3, 200, gradientMagnitudeTolerance=1e-6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(shrink)
    method.SetSmoothingSigmasPerLevel([n // 2 for n in shrink])
    transform = SimpleITK.Euler3DTransform() if rigid else SimpleITK.AffineTransform(3)
    start = SimpleITK.CenteredTransformInitializer(
        *images, transform, SimpleITK.CenteredTransformInitializerFilter.GEOMETRY
    )
    method.SetInitialTransform(start, inPlace=False)
    found = method.Execute(*images)
    return _through(found.TransformPoint)


def elastix_linear(fixed: Volume, moving: Volume, rigid: bool, changes: Mapping[str, str]) -> Affine:
    """elastix's default parameter map with ``changes``, from aligned centres."""
    import itk

    parameters = itk.ParameterObject.New()
    settings = parameters.GetDefaultParameterMap("rigid" if rigid else "affine")
    for name, value in {"AutomaticTransformInitialization": "true", "WriteResultImage": "false", **changes}.items():
        settings[name] = value.split()
    parameters.AddParameterMap(settings)
    _, found = itk.elastix_registration_method(
        as_itk(fixed), as_itk(moving), parameter_object=parameters, number_of_threads=1
    )
    return _elastix_map(found.GetParameterMap(0))


def _elastix_map(found: Mapping[str, Any]) -> Affine:
    """Euler transform (R = Rz Rx Ry) or affine transform about a centre."""
    values, centre = (np.array(found[name], dtype=float) for name in ("TransformParameters", "CenterOfRotationPoint"))
    if len(values) == 12:
        return Affine.about(values[:9].reshape(3, 3), values[9:], centre)
    x, y, z = (
        Affine.rigid(np.rad2deg(angle) * axis, (0, 0, 0)) for angle, axis in zip(values, np.eye(3), strict=False)
    )
    return Affine.about((z.matrix @ x.matrix @ y.matrix)[:3, :3], values[3:], centre)


def ants_linear(fixed: Volume, moving: Volume, rigid: bool, **settings: Any) -> Affine:
    """Register by ``ants.registration``, whose defaults ``settings`` change."""
    import ants

    with tempfile.TemporaryDirectory() as folder:
        found = ants.registration(
            as_ants(fixed),
            as_ants(moving),
            type_of_transform="Rigid" if rigid else "Affine",
            outprefix=str(Path(folder) / "ants"),
            random_seed=1,
            **settings,
        )
        transform = ants.read_transform(found["fwdtransforms"][0])
        return _through(transform.apply_to_point)


def _through(maps_point: Any) -> Affine:
    """Linear map from what it does to four points."""
    corners = np.array([maps_point(p) for p in np.vstack([np.zeros(3), np.eye(3)]).tolist()])
    matrix = np.eye(4)
    matrix[:3, 3], matrix[:3, :3] = corners[0], (corners[1:] - corners[0]).T
    return Affine(matrix)


def ants_syn(fixed: Volume, moving: Volume, metric: str, **settings: Any) -> tuple[Affine, Transform]:
    """ANTs' affine map, and that with SyN after it, by ``mattes`` or ``CC``; ``settings`` change the defaults."""
    import ants

    with tempfile.TemporaryDirectory() as folder:
        found = ants.registration(
            as_ants(fixed),
            as_ants(moving),
            type_of_transform="SyN",
            syn_metric=metric,
            outprefix=str(Path(folder) / "ants"),
            random_seed=1,
            **settings,
        )
        field, linear = found["fwdtransforms"]
        affine = _through(ants.read_transform(linear).apply_to_point)
        vectors = ants.image_read(field).numpy().astype(np.float32).T
        return affine, chain(Displacement(fixed.grid, np.ascontiguousarray(vectors)), affine)


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
