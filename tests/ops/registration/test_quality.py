"""Each limit of the policy, one unit to either side."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ops.measure.errors import NotEvaluableError
from ops.registration.quality import RegistrationPolicy, RegistrationQuality, require_enough_voxels, require_good
from ops.registration.similarity import Metric

GOOD = RegistrationQuality(
    metric=Metric.MI,
    similarity_before=0.2,
    similarity_after=0.5,
    shared_information=0.3,
    overlap=0.9,
    rotation_deg=5.0,
    translation_mm=10.0,
    smallest_stretch=0.9,
    largest_stretch=1.1,
    smallest_jacobian=0.5,
    largest_jacobian=2.0,
    folded_share=0.0,
    inverse_consistency_mm=0.1,
)
LIMITS = RegistrationPolicy(
    least_overlap=0.25, least_shared_information=0.1, largest_rotation_deg=45, largest_stretch=1.5,
    smallest_jacobian=0.02, largest_jacobian=20, largest_inconsistency_mm=2, largest_chance_nats=0.02,
)  # fmt: skip


@pytest.mark.parametrize(
    ("field", "accepted", "refused", "reason"),
    [
        ("overlap", 0.25, 0.249, "little_overlap"),
        ("shared_information", 0.1, 0.099, "images_do_not_match"),
        ("similarity_after", 0.1951, 0.1949, "similarity_fell"),
        ("rotation_deg", 45.0, 45.1, "implausible_rotation"),
        ("largest_stretch", 1.5, 1.501, "implausible_stretch"),
        ("smallest_stretch", 1 / 1.5, 1 / 1.501, "implausible_stretch"),
        ("folded_share", 0.0, 1e-6, "folding"),
        ("smallest_jacobian", 0.02, 0.019, "implausible_deformation"),
        ("largest_jacobian", 20.0, 20.1, "implausible_deformation"),
        ("inverse_consistency_mm", 2.0, 2.01, "inverse_inconsistent"),
    ],
)
def test_limit(field, accepted, refused, reason):
    require_good(GOOD, LIMITS)
    require_good(replace(GOOD, **{field: accepted}), LIMITS)
    with pytest.raises(NotEvaluableError) as caught:
        require_good(replace(GOOD, **{field: refused}), LIMITS)
    assert caught.value.reason == reason


def test_a_squared_difference_must_fall_and_images_that_did_not_meet_improve():
    assert replace(GOOD, metric=Metric.SSD, similarity_before=0.5, similarity_after=0.2).improved
    assert not replace(GOOD, metric=Metric.SSD).improved
    assert replace(GOOD, similarity_before=np.nan).improved


def test_a_field_of_view_of_few_voxels_is_refused():
    enough = 27**2 / (2 * 0.02)
    require_enough_voxels(enough + 1, LIMITS)
    with pytest.raises(NotEvaluableError) as caught:
        require_enough_voxels(enough - 1, LIMITS)
    assert caught.value.reason == "small_field_of_view"
