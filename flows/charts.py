"""Small charts as inline SVG, so that a report needs no script, font or file beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 460, 220
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 52, 24, 14, 40
AXIS = "#667"
BLUE, ORANGE = "#2f6f9f", "#c8690c"
DECADES = (0, 1, 10, 100, 1000, 10000)


def bar_chart(counts: Sequence[tuple[str, int]], title: str, axis: str = "") -> str:
    """Vertical bars with their counts; ``counts`` are (label, count)."""
    highest = max((count for _, count in counts), default=0) or 1
    plot_height = HEIGHT - MARGIN_TOP - MARGIN_BOTTOM
    step = (WIDTH - MARGIN_LEFT - MARGIN_RIGHT) / max(len(counts), 1)
    parts = []
    for n, (label, count) in enumerate(counts):
        tall = plot_height * count / highest * 0.92
        x, y = MARGIN_LEFT + n * step, HEIGHT - MARGIN_BOTTOM - tall
        parts.append(
            f'<rect x="{x + step * 0.12:.1f}" y="{y:.1f}" width="{step * 0.76:.1f}" height="{tall:.1f}" fill="{BLUE}"/>'
        )
        parts.append(_text(x + step / 2, y - 3, str(count), "middle"))
        parts.append(_text(x + step / 2, HEIGHT - MARGIN_BOTTOM + 15, label, "middle"))
    parts.append(_text(WIDTH / 2, HEIGHT - 6, axis, "middle"))
    return _figure(title, parts)


def log_histogram(scores: Sequence[float], title: str, axis: str) -> str:
    """Histogram of scores: exact zeros in their own bar, then four bins a decade up to the highest."""
    zeros = sum(score == 0 for score in scores)
    top = max((math.log10(score) for score in scores if score > 0), default=0.0)
    edges = [10 ** (n / 2) for n in range(-1, 2 * max(1, math.ceil(top)) + 1)]
    counts = [("0", zeros)]
    for low, high in zip([0.0, *edges[:-1]], edges, strict=True):
        counts.append((f"≤{high:.3g}" if high < 1000 else f"≤{high / 1000:.2g}k", sum(low < s <= high for s in scores)))
    return bar_chart(counts, title, axis)


def scatter(points: Sequence[tuple[float, float]], title: str, x_axis: str, y_axis: str) -> str:
    """Scatter of non-negative pairs on log(1 + value) axes, with the line of identity."""
    highest = max([1.0, *(max(pair) for pair in points)])  # all zero is a common screening result
    top = next((edge for edge in DECADES if edge >= highest), highest)
    parts = [_line(_at_x(0, top), _at_y(0, top), _at_x(top, top), _at_y(top, top), "4 3")]
    for edge in (edge for edge in DECADES if edge <= top):
        parts.append(_text(_at_x(edge, top), HEIGHT - MARGIN_BOTTOM + 15, f"{edge:g}", "middle"))
        parts.append(_text(MARGIN_LEFT - 6, _at_y(edge, top) + 4, f"{edge:g}", "end"))
    parts += [_dot(_at_x(x, top), _at_y(y, top)) for x, y in points]
    return _figure(title, [*parts, *_axis_names(x_axis, y_axis)])


def bland_altman(points: Sequence[tuple[float, float]], lines: Sequence[float], title: str) -> str:
    """Difference against mean: ``points`` are (mean ≥ 0, difference), ``lines`` are bias and limits."""
    highest = max([1.0, *(mean for mean, _ in points)])
    top = next((edge for edge in DECADES if edge >= highest), highest)
    reach = max([abs(value) for value in [*(d for _, d in points), *lines] if math.isfinite(value)], default=1.0) or 1.0
    middle = (HEIGHT - MARGIN_BOTTOM + MARGIN_TOP) / 2
    half = (HEIGHT - MARGIN_BOTTOM - MARGIN_TOP) / 2 * 0.94

    def y(difference: float) -> float:
        return middle - half * difference / reach

    right = WIDTH - MARGIN_RIGHT
    parts = [_line(MARGIN_LEFT, y(0), right, y(0), "")]
    for value in (value for value in lines if math.isfinite(value)):
        parts += [
            _line(MARGIN_LEFT, y(value), right, y(value), "5 4"),
            _text(right, y(value) - 3, f"{value:.1f}", "end"),
        ]
    parts += [_text(_at_x(e, top), HEIGHT - MARGIN_BOTTOM + 15, f"{e:g}", "middle") for e in DECADES if e <= top]
    parts += [_text(MARGIN_LEFT - 6, y(value) + 4, f"{value:.3g}", "end") for value in (-reach, 0, reach)]
    parts += [_dot(_at_x(mean, top), y(difference)) for mean, difference in points]
    return _figure(title, [*parts, *_axis_names("mean of both", "measured − true")])


def _at_x(value: float, top: float) -> float:
    return MARGIN_LEFT + (WIDTH - MARGIN_LEFT - MARGIN_RIGHT) * math.log1p(value) / math.log1p(top)


def _at_y(value: float, top: float) -> float:
    plot_height = HEIGHT - MARGIN_TOP - MARGIN_BOTTOM
    return HEIGHT - MARGIN_BOTTOM - plot_height * math.log1p(value) / math.log1p(top)


def _dot(x: float, y: float) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="{ORANGE}" fill-opacity="0.65"/>'


def _line(x1: float, y1: float, x2: float, y2: float, dashes: str) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{AXIS}" stroke-dasharray="{dashes}"/>'
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _axis_names(x_axis: str, y_axis: str) -> list[str]:
    middle = HEIGHT / 2
    turned = f'<text transform="translate(12 {middle:.0f}) rotate(-90)" text-anchor="middle">{escape(y_axis)}</text>'
    return [_text(WIDTH / 2, HEIGHT - 6, x_axis, "middle"), turned]


def _figure(title: str, parts: Sequence[str]) -> str:
    base = HEIGHT - MARGIN_BOTTOM
    axes = _line(MARGIN_LEFT, base, WIDTH - MARGIN_RIGHT, base, "") + _line(
        MARGIN_LEFT, MARGIN_TOP, MARGIN_LEFT, base, ""
    )
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">{axes}{"".join(parts)}</svg></figure>'
    )
