from __future__ import annotations

import json
import subprocess
import sys

import pytest

from flows.programmes import load_programme
from ops.diseases.calcium.measurement import CalciumPolicy


def test_policy_survives_json() -> None:
    programme = load_programme("calcium")
    assert CalciumPolicy.from_dict(json.loads(json.dumps(programme.policy))) == CalciumPolicy()


def test_options_are_set_and_the_rest_keeps_its_defaults() -> None:
    programme = load_programme("calcium")
    changed = programme.with_policy({"assumed_kvp": 120, "score": {"connectivity": 4}})
    assert changed.policy["assumed_kvp"] == 120
    assert changed.policy["score"] == {**programme.policy["score"], "connectivity": 4}
    assert programme.policy["assumed_kvp"] is None


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"asumed_kvp": 120}, "asumed_kvp"),
        ({"score": {"conectivity": 4}}, "conectivity"),
        ({"assumed_kvp": "high"}, "assumed_kvp"),
        ({"score": {"connectivity": 5}}, "connectivity"),
        ({"score": 3}, "score"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(options: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        load_programme("calcium").with_policy(options)


def test_knowing_a_programme_does_not_take_torch() -> None:
    """Every command and flow process loads programmes; torch costs seconds and 200 MB, and only workers use it."""
    code = "import sys, flows.programmes as p; p.load_programme('calcium'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
