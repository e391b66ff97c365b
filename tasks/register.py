"""Registration as a stage of a case: the volume of one role is brought into register with that of another."""

from __future__ import annotations

from dataclasses import replace

import torch

from ops.measure.errors import NotEvaluableError
from ops.registration.linear import LinearModel
from ops.registration.quality import RegistrationQuality
from ops.registration.register import RegistrationPlan, register
from ops.registration.similarity import Metric
from storage.records import Measurement
from tasks.case import Work, end_not_evaluable
from tasks.infer import model_threads


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
        Metric of a deformable registration on top, or None: ``mind`` between modalities, else ``lncc`` or ``ssd``.

    Returns
    -------
    Work
        The result is an `ops.registration.register.Registration`; its transform maps patient points (LPS mm) of the
        fixed image to those of the moving one. A bad fit ends the case as not evaluable, with the reason.
    """
    plan = RegistrationPlan(LinearModel(model), Metric(metric), Metric(deformable) if deformable else None)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(model_threads())  # as for models: on busy cores more threads made it many times slower
    try:
        found = register(work.volumes[fixed], work.volumes[moving], plan, device=device)
    except NotEvaluableError as error:
        end_not_evaluable(error.reason, f"registering {moving} to {fixed}: {error.detail}")
    return replace(work, found={**work.found, f"{moving} to {fixed}": found})


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
