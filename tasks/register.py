"""Registration as a stage of a case: the volume of one role is brought into register with that of another."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from ops.inference.ladder import descend, rungs
from ops.measure.errors import NotEvaluableError
from ops.registration.atlas import organs_in_view
from ops.registration.linear import LinearModel
from ops.registration.quality import RegistrationQuality
from ops.registration.register import Registration, RegistrationPlan, register
from ops.registration.similarity import Metric
from ops.volume import Volume
from storage.records import Measurement
from storage.urls import Location
from storage.volumes import VolumeStore
from tasks.case import Case, Work, end_not_evaluable
from tasks.infer import descent_flags, guarded, limit_threads, model_device


def register_roles(
    work: Work, fixed: str, moving: str, model: str = "rigid", metric: str = "mi", deformable: str | None = None
) -> Work:
    """Register role ``moving`` to role ``fixed``; add the result as ``found["<moving> to <fixed>"]``.

    Declare the stage with ``needs="gpu"``: it runs on the worker's GPU where there is one, else on the CPU.

    Parameters
    ----------
    work
        With a volume in both roles: prior and current study, atlas and participant, MR and CT.
    fixed, moving
        Roles.
    model
        ``rigid`` within one participant, ``affine`` between two.
    metric
        ``mi`` for images of different contrast, ``ncc`` of the same, ``ssd`` of the same units. A small MR within a PET
        has too few voxels for ``mi``: the case ends as not evaluable, ``small_field_of_view``.
    deformable
        Metric of a deformable registration on top, or None: ``ssd`` for one contrast, ``lncc`` also for the reverse of
        it (T1 and T2), ``mind`` between modalities whose brightness is related in no simple way.

    Returns
    -------
    Work
        The result is an `ops.registration.register.Registration`; its transform maps patient points (LPS mm) of the
        fixed image to those of the moving one. A bad fit ends the case as not evaluable, with the reason.
    """
    plan = RegistrationPlan(LinearModel(model), Metric(metric), Metric(deformable) if deformable else None)
    found, flags = _register(work.case, work.volumes[fixed], work.volumes[moving], plan, f"{moving} to {fixed}")
    return replace(work, found={**work.found, f"{moving} to {fixed}": found}, flags=(*work.flags, *flags))


def locate_organs(work: Work, role: str, atlas: str) -> Work:
    """Look up the organs of an atlas in the volume of ``role``; they are ``found["organs of <role>"]``.

    Declare the stage with ``needs="gpu"``, and put a new version of an atlas under a new address: only that makes
    earlier results stale.

    Parameters
    ----------
    work
        With a volume in the role.
    role
        Of a volume of the same kind as the atlas (affine registration, mutual information).
    atlas
        Address of a `storage.volumes.VolumeStore` with the volumes ``image`` and ``labels``; read once in a process.

    Returns
    -------
    Work
        Label → `ops.registration.atlas.OrganInView`. A bad fit ends the case as not evaluable, with the reason.
    """
    image, labels = _read_atlas(atlas)
    volume = work.volumes[role]
    plan = RegistrationPlan(LinearModel.AFFINE, Metric.MI)
    fit, flags = _register(work.case, image, volume, plan, f"{role} to the atlas")
    organs = organs_in_view(labels, fit.transform, volume.grid)
    return replace(work, found={**work.found, f"organs of {role}": organs}, flags=(*work.flags, *flags))


@lru_cache(maxsize=2)
def _read_atlas(address: str) -> tuple[Volume, Volume]:
    store = VolumeStore(Location(address))
    return store.open("image").read(), store.open("labels").read()


def _register(
    case: Case, fixed: Volume, moving: Volume, plan: RegistrationPlan, what: str
) -> tuple[Registration, tuple[str, ...]]:
    """Register on the worker's device, or the CPU where that has too little memory; a bad fit is not evaluable."""
    limit_threads()
    device = model_device().replace("tensorrt", "cuda")
    ladder = [rung for rung in rungs(device, None) if rung.name != "tiled"]
    try:
        with guarded(device, case):
            found, descent = descend(
                ladder, lambda rung: rung.device, lambda device: register(fixed, moving, plan, device=device)
            )
    except NotEvaluableError as error:
        end_not_evaluable(error.reason, f"registering {what}: {error.detail}")
    return found, descent_flags(descent, case)


def quality_measurements(quality: RegistrationQuality) -> tuple[Measurement, ...]:
    """Quality figures of a registration for the findings of a case, by the names they have in `RegistrationQuality`."""
    units = {
        "shared_information": "1",
        "overlap": "1",
        "rotation_deg": "deg",
        "translation_mm": "mm",
        "smallest_jacobian": "1",
        "largest_jacobian": "1",
        "inverse_consistency_mm": "mm",
    }
    return tuple(Measurement(f"registration_{name}", getattr(quality, name), unit) for name, unit in units.items())
