"""A small line chart as SVG: accuracy over events, with the drifts marked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

__all__ = ["Line", "chart"]

WIDTH, HEIGHT = 960, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 64, 48
Y_STEP = 0.05


class Line(NamedTuple):
    """A named series of (x, y) points."""

    name: str
    color: str
    points: Sequence[tuple[float, float]]


def chart(
    title: str,
    lines: Sequence[Line],
    marks: Sequence[float],
    *,
    x_label: str,
    mark_name: str,
) -> str:
    """The chart as SVG text; ``marks`` are drawn as vertical lines at these x."""
    points = [point for line in lines for point in line.points]
    if not points:
        raise ValueError("there is nothing to draw")
    x_max = max(x for x, _ in points)
    y_min = _floor(min(y for _, y in points))
    y_max = _floor(max(y for _, y in points)) + Y_STEP

    def x_at(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * x / (x_max or 1)

    def y_at(y: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (y_max - y) / (y_max - y_min)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="system-ui, sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="22" font-size="15" fill="#111">{escape(title)}</text>',
    ]
    for step in range(round((y_max - y_min) / Y_STEP) + 1):
        y = y_min + step * Y_STEP
        out += [
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y_at(y):.1f}" y2="{y_at(y):.1f}" '
            'stroke="#e4e4e4"/>',
            f'<text x="{LEFT - 8}" y="{y_at(y) + 4:.1f}" text-anchor="end" fill="#555">'
            f"{y:.0%}</text>",
        ]
    x_step = _round_step(x_max / 4)
    for step in range(int(x_max // x_step) + 1):
        out.append(
            f'<text x="{x_at(step * x_step):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle" '
            f'fill="#555">{step * x_step:,.0f}</text>'
        )
    out += [
        f'<line x1="{x_at(mark):.1f}" x2="{x_at(mark):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" '
        'stroke="#c62828" stroke-dasharray="3 3"/>'
        for mark in marks
    ]
    for line in lines:
        path = " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in line.points)
        out.append(
            f'<polyline points="{path}" fill="none" stroke="{line.color}" stroke-width="1.6"/>'
        )
    left = LEFT
    names = [(line.name, line.color) for line in lines]
    if marks:
        names.append((f"{mark_name} ({len(marks)})", "#c62828"))
    for name, color in names:
        out += [
            f'<rect x="{left}" y="36" width="14" height="4" fill="{color}"/>',
            f'<text x="{left + 20}" y="42" fill="#333">{escape(name)}</text>',
        ]
        left += 40 + 7 * len(name)
    out += [
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle" '
        f'fill="#555">{escape(x_label)}</text>',
        "</svg>",
    ]
    return "\n".join(out) + "\n"


def _floor(y: float) -> float:
    """Down to the next grid line."""
    return math.floor(y / Y_STEP + 1e-9) * Y_STEP


def _round_step(about: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above ``about``."""
    power = 10.0 ** math.floor(math.log10(max(about, 1)))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= max(about, 1))
