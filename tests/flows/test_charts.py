"""Charts of data as screening has it, most of all nothing but zeros."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from flows.charts import bland_altman, log_histogram, scatter


@pytest.mark.parametrize("points", [[], [(0.0, 0.0)], [(0.0, 0.0), (0.0, 3.0)], [(20000.0, 1.0)]])
def test_any_pairs_make_a_chart(points: list[tuple[float, float]]) -> None:
    for figure in (scatter(points, "title", "x", "y"), bland_altman(points, [0.0], "title")):
        assert figure.count("<circle") == len(points)
        assert "nan" not in figure
        ElementTree.fromstring(figure)


@pytest.mark.parametrize("scores", [[], [0.0], [0.0, 0.4, 1.0, 2500.0]])
def test_any_scores_make_a_histogram(scores: list[float]) -> None:
    ElementTree.fromstring(log_histogram(scores, "title", "axis"))
