"""Which view an echo clip shows: the released 23 classes, how frames vote, and what a view may be used for (SPEC §7.1).

Class order as read in two public re-uses of the released model (Zhang 2018 Circulation 138:1623 [S]). Meanings are in
general form; expansions that no source states are marked [U] and must not be shown as fact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ops.measure.errors import NotEvaluableError

# In the order of the model's outputs.
MEANINGS: dict[str, str] = {
    "plax_far": "parasternal long axis, far: large depth",
    "plax_plax": "parasternal long axis, standard",
    "plax_laz": "parasternal long axis, zoomed on the left atrium [U]",
    "psax_az": "parasternal short axis at the aortic valve [U]",
    "psax_mv": "parasternal short axis at the mitral valve",
    "psax_pap": "parasternal short axis at the papillary muscles",
    "a2c_lvocc_s": "apical two-chamber, left ventricle occluded",
    "a2c_laocc": "apical two-chamber, left atrium occluded",
    "a2c": "apical two-chamber, complete",
    "a3c_lvocc_s": "apical three-chamber, left ventricle occluded",
    "a3c_laocc": "apical three-chamber, left atrium occluded",
    "a3c": "apical three-chamber, complete",
    "a4c_lvocc_s": "apical four-chamber, left ventricle occluded",
    "a4c_laocc": "apical four-chamber, left atrium occluded",
    "a4c": "apical four-chamber, complete",
    "a5c": "apical five-chamber",
    "other": "none of these views; Doppler and contrast clips land here too, so it does not mean a bad image [S]",
    "rvinf": "right ventricular inflow",
    "psax_avz": "parasternal short axis, zoomed on the aortic valve [U]",
    "suprasternal": "suprasternal",
    "subcostal": "subcostal",
    "plax_lac": "parasternal long axis, centred on the left atrium [U]",
    "psax_apex": "parasternal short axis at the apex",
}
VIEWS = tuple(MEANINGS)
OTHER = "other"
APICAL_VIEWS = ("a4c", "a2c", "a3c")

# Probabilities written with few decimals do not sum to 1 exactly.
SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class ClipView:
    """The view of one clip.

    Attributes
    ----------
    view
        One of `VIEWS`; None when the classifier abstains.
    probability
        Mean frame probability of the likeliest view, also when it abstains.
    likeliest
        That view.
    """

    view: str | None
    probability: float
    likeliest: str


def classify_clip(frame_probabilities: npt.ArrayLike, threshold: float) -> ClipView:
    """View of a clip by the mean probability of its frames.

    Parameters
    ----------
    frame_probabilities
        ``(frames, 23)`` in the order of `VIEWS`; rows sum to 1.
    threshold
        Abstain below this mean probability (equal is enough). Calibrated on the site's own data; no fixed value is
        published, so there is no default.

    Raises
    ------
    NotEvaluableError
        ``no_frames``, ``wrong_classes``, ``not_finite``, ``not_probabilities``.
    ValueError
        The threshold is not between 0 and 1.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is a probability from 0 to 1, got {threshold}")
    probabilities = np.asarray(frame_probabilities, dtype=np.float64)
    if probabilities.size == 0:
        raise NotEvaluableError("no_frames", "the clip has no classified frame")
    if probabilities.ndim != 2 or probabilities.shape[1] != len(VIEWS):
        detail = f"probabilities of shape {probabilities.shape}; one row per frame and {len(VIEWS)} classes are needed"
        raise NotEvaluableError("wrong_classes", detail)
    if not np.isfinite(probabilities).all():
        raise NotEvaluableError("not_finite", "a frame's probabilities are NaN or infinite")
    off = float(np.abs(probabilities.sum(axis=1) - 1).max())
    if probabilities.min() < 0 or off > SUM_TOLERANCE:
        raise NotEvaluableError("not_probabilities", f"a row is negative or misses a sum of 1 by {off:.3g}")
    mean = probabilities.mean(axis=0)
    best = int(mean.argmax())
    probability = float(mean[best])
    # The mean of equal probabilities may be 0.6999999999999998 for 0.7.
    enough = probability >= threshold or math.isclose(probability, threshold, rel_tol=1e-12)
    return ClipView(VIEWS[best] if enough else None, probability, VIEWS[best])


def is_occluded(view: str) -> bool:
    """Tell whether part of the chambers is hidden in this view."""
    return view.endswith(("_lvocc_s", "_laocc"))


def require_apical_view(view: str) -> None:
    """Refuse a view from which no LV volume or strain may be taken.

    Raises
    ------
    NotEvaluableError
        ``unknown_view``; ``occluded_view`` (a chamber is partly hidden, so every volume would be too small);
        ``wrong_view`` for all that are not a complete apical two-, three- or four-chamber view, ``other`` among them.
    """
    if view not in VIEWS:
        raise NotEvaluableError("unknown_view", f"{view!r} is none of the {len(VIEWS)} views")
    if is_occluded(view):
        raise NotEvaluableError("occluded_view", f"{view}: {MEANINGS[view]}; it is not measured")
    if view not in APICAL_VIEWS:
        raise NotEvaluableError("wrong_view", f"{view}: {MEANINGS[view]}; complete apical views are needed")
