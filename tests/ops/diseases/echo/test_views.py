from __future__ import annotations

import numpy as np
import pytest

from ops.diseases.echo.views import MEANINGS, VIEWS, classify_clip, is_occluded, require_apical_view
from ops.measure.errors import NotEvaluableError

RELEASED_ORDER = (
    "plax_far, plax_plax, plax_laz, psax_az, psax_mv, psax_pap, a2c_lvocc_s, a2c_laocc, a2c, a3c_lvocc_s, a3c_laocc, "
    "a3c, a4c_lvocc_s, a4c_laocc, a4c, a5c, other, rvinf, psax_avz, suprasternal, subcostal, plax_lac, psax_apex"
)


def frames(*shares: dict[str, float]) -> np.ndarray:
    rows = np.zeros((len(shares), len(VIEWS)))
    for row, share in zip(rows, shares, strict=True):
        for view, value in share.items():
            row[VIEWS.index(view)] = value
    return rows


def test_released_order() -> None:
    assert ", ".join(VIEWS) == RELEASED_ORDER
    assert len(set(VIEWS)) == 23


def test_inferred_meanings_are_marked() -> None:
    assert all("[U]" in MEANINGS[view] for view in ("plax_laz", "plax_lac", "psax_az", "psax_avz"))
    assert "does not mean a bad image" in MEANINGS["other"]


def test_clip_is_the_mean_of_its_frames_and_not_their_majority() -> None:
    # Two of three frames lean towards a2c, the mean towards a4c.
    clip = classify_clip(
        frames({"a2c": 0.5, "a4c": 0.5 - 1e-9, "other": 1e-9}, {"a2c": 0.51, "a4c": 0.49}, {"a4c": 1}), 0.3
    )
    assert clip.view == "a4c"


@pytest.mark.parametrize(("threshold", "view"), [(0.69, "a4c"), (0.7, "a4c"), (0.71, None)])
def test_abstains_below_the_threshold(threshold: float, view: str | None) -> None:
    clip = classify_clip(frames(*[{"a4c": 0.7, "a2c": 0.3}] * 3), threshold)
    assert clip.view == view
    assert clip.likeliest == "a4c"
    assert clip.probability == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("reason", "probabilities"),
    [
        ("no_frames", np.zeros((0, 23))),
        ("wrong_classes", np.full((4, 22), 1 / 22)),
        ("wrong_classes", np.full(23, 1 / 23)),
        ("not_finite", np.full((2, 23), np.nan)),
        ("not_probabilities", np.zeros((2, 23))),
        ("not_probabilities", frames({"a4c": 1.5, "a2c": -0.5})),
    ],
)
def test_bad_probabilities(reason: str, probabilities: np.ndarray) -> None:
    with pytest.raises(NotEvaluableError) as caught:
        classify_clip(probabilities, 0.5)
    assert caught.value.reason == reason


@pytest.mark.parametrize("threshold", [-0.1, 1.1, np.nan])
def test_threshold_is_a_probability(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        classify_clip(frames({"a4c": 1}), threshold)


@pytest.mark.parametrize("view", [*(view for view in VIEWS if view not in ("a2c", "a3c", "a4c")), "A4C"])
def test_other_views_are_not_measured(view: str) -> None:
    with pytest.raises(NotEvaluableError) as caught:
        require_apical_view(view)
    expected = "unknown_view" if view == "A4C" else "occluded_view" if is_occluded(view) else "wrong_view"
    assert caught.value.reason == expected


def test_complete_apical_views_are_measured() -> None:
    assert sum(is_occluded(view) for view in VIEWS) == 6
    for view in ("a2c", "a3c", "a4c"):
        require_apical_view(view)
