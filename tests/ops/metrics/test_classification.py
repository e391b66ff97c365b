from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from ops.measure.errors import NotEvaluableError
from ops.metrics.classification import BinaryCounts, auc, binary_counts, cohen_kappa, confusion, counts_at, delong

binary = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6).map(float)), min_size=2, max_size=40)


@settings(max_examples=50, deadline=None)
@given(binary)
def test_auc_is_scikit_learns_ties_counting_half(cases: list[tuple[int, float]]) -> None:
    truth, scores = zip(*cases, strict=True)
    if len(set(truth)) < 2:
        assert math.isnan(auc(truth, scores))
        return
    assert auc(truth, scores) == pytest.approx(roc_auc_score(truth, scores))
    assert delong(truth, scores).auc == pytest.approx(auc(truth, scores))


def test_delong_variance_is_that_of_repeated_sampling() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat([1, 0], [60, 90])
    drawn = [delong(truth, rng.normal(truth * 1.0)) for _ in range(400)]
    assert np.std([each.auc for each in drawn]) == pytest.approx(
        np.mean([each.variance**0.5 for each in drawn]), rel=0.1
    )


def test_undefined_is_never_a_number() -> None:
    assert math.isnan(BinaryCounts(0, 0, 0, 5).f1), "no positive case"
    assert math.isnan(BinaryCounts(0, 3, 0, 5).f1), "no positive case, though some were called"
    assert math.isnan(BinaryCounts(0, 0, 4, 5).precision)
    assert math.isnan(BinaryCounts(0, 3, 0, 5).recall)
    assert math.isnan(BinaryCounts(3, 0, 1, 0).specificity)
    assert math.isnan(BinaryCounts(0, 0, 0, 0).accuracy)
    assert math.isnan(cohen_kappa([[7, 0], [0, 0]], "linear")), "two constant readers"
    assert math.isnan(cohen_kappa([[0, 0], [0, 0]], "unweighted"))
    assert math.isnan(delong([1, 0, 0], [3, 1, 2]).variance)
    perfect = delong([1, 1, 0, 0], [4, 3, 2, 1])
    assert perfect.auc == 1
    assert math.isnan(perfect.interval().lower)


def test_counts_at_a_threshold_include_it() -> None:
    truth, scores = [1, 1, 0, 0], [0.5, 0.4, 0.5, 0.1]
    assert counts_at(truth, scores, 0.5) == BinaryCounts(1, 1, 1, 1)
    assert counts_at(truth, scores, 0.5 + 1e-9) == BinaryCounts(0, 0, 2, 2)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), min_size=1, max_size=60))
def test_kappa_is_scikit_learns(pairs: list[tuple[str, str]]) -> None:
    first, second = zip(*pairs, strict=True)
    labels = ["a", "b", "c", "d"]
    counts = confusion(first, second, labels)
    assert counts.sum() == len(pairs)
    constant = len(set(first)) == len(set(second)) == 1 and first[0] == second[0]
    for weights, theirs in (("unweighted", None), ("linear", "linear"), ("quadratic", "quadratic")):
        found = cohen_kappa(counts, weights)
        if constant:
            assert math.isnan(found)
        else:
            assert found == pytest.approx(cohen_kappa_score(first, second, labels=labels, weights=theirs), abs=1e-9)


def test_a_class_that_does_not_occur_keeps_its_place() -> None:
    with_gap = confusion(["a", "c", "c"], ["a", "c", "a"], ["a", "b", "c"])
    without = confusion(["a", "c", "c"], ["a", "c", "a"], ["a", "c"])
    assert with_gap[2, 0] == without[1, 0] == 1
    assert cohen_kappa(with_gap, "linear") == pytest.approx(cohen_kappa(without, "linear"))
    with pytest.raises(KeyError):
        confusion(["a"], ["z"], ["a", "b"])


@pytest.mark.parametrize(
    ("truth", "scores", "reason"),
    [
        ([0, 2], [0.1, 0.2], "not_binary"),
        ([0, 1], [0.1, math.nan], "not_finite"),
        ([0, 1], [0.1, math.inf], "not_finite"),
        ([0, 1, 1], [0.1, 0.2], "length_mismatch"),
        ([[0, 1]], [[0.1, 0.2]], "length_mismatch"),
    ],
)
def test_bad_input_has_a_reason(truth: list[int], scores: list[float], reason: str) -> None:
    for function in (auc, delong, lambda t, s: counts_at(t, s, 0.5)):
        with pytest.raises(NotEvaluableError) as caught:
            function(truth, scores)
        assert caught.value.reason == reason
    with pytest.raises(NotEvaluableError):
        binary_counts([0, 1], [0, 0.5])
