"""Small pictures as SVG text, for reports that are one file: lines over time, bars of shares, and a Gantt chart."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Sequence

PALETTE = ("#3b6ea8", "#d98a29", "#4c9a6a", "#9a5ba5", "#c0504d", "#7f7f7f", "#17a2b8")
"""Told apart by most colour-blind readers too, in this order."""
WIDTH = 920
LEFT, RIGHT, TOP, BOTTOM = 78, 12, 10, 34
INK, FAINT = "#333", "#ddd"
_FONT = 'font-family="system-ui, sans-serif" font-size="12"'


@dataclasses.dataclass(frozen=True, slots=True)
class Bar:
    """A stretch of a Gantt row: `colour` counts into the palette, `title` is shown on hovering."""

    row: int
    begin: float
    end: float
    colour: int
    title: str


def lines(
    x: Sequence[float],
    series: dict[str, Sequence[float]],
    colours: dict[str, int],
    x_unit: str,
    y_unit: str,
    top: float,
) -> str:
    """One line per series over a common x, both axes from zero, cut off a little above `top`."""
    height = 240
    top = nice(min(top, max(value for values in series.values() for value in values)) or 1.0)
    width, tall = WIDTH - LEFT - RIGHT, height - TOP - BOTTOM
    end = max(x[-1] if x else 0.0, 1e-9)
    parts = _y_axis(top, height, y_unit) + _x_axis(end, height, x_unit)
    for name, values in series.items():
        points = " ".join(
            f"{LEFT + width * at / end:.1f},{TOP + tall * max(0.0, 1 - value / top):.1f}"
            for at, value in zip(x, values, strict=True)
        )
        stroke = f'fill="none" stroke="{_colour(colours[name])}" stroke-width="1.8"'
        parts.append(f'<polyline points="{points}" {stroke}><title>{_text(name)}</title></polyline>')
    return _svg(height, parts, f"{y_unit} over time")


def gantt(labels: Sequence[str], bars: Sequence[Bar], end: float, x_unit: str) -> str:
    """One row per label, bars where it was at work; `end` is the right edge in the unit of the bars."""
    row_height = 18 if len(labels) <= 24 else 9
    height = TOP + BOTTOM + row_height * max(1, len(labels))
    scale = (WIDTH - LEFT - RIGHT) / max(end, 1e-9)
    parts = _x_axis(max(end, 1e-9), height, x_unit)
    every = 1 if row_height > 12 else 2
    for number, label in enumerate(labels):
        y = TOP + number * row_height
        parts.append(
            f'<rect x="{LEFT}" y="{y + 1}" width="{WIDTH - LEFT - RIGHT}" height="{row_height - 2}" fill="#f3f3f3"/>'
        )
        if number % every == 0:
            short = label if len(label) <= 12 else f"…{label[-11:]}"
            parts.append(
                f'<text x="{LEFT - 6}" y="{y + row_height - 4 if every == 1 else y + 8}" text-anchor="end" '
                f'font-size="{11 if every == 1 else 9}" fill="{INK}"><title>{_text(label)}</title>{_text(short)}</text>'
            )
    for bar in bars:
        x, y = LEFT + scale * bar.begin, TOP + bar.row * row_height + 1
        width = max(scale * (bar.end - bar.begin) - 0.3, 0.4)
        place = f'x="{x:.1f}" y="{y}" width="{width:.1f}" height="{row_height - 2}"'
        parts.append(f'<rect {place} fill="{_colour(bar.colour)}"><title>{_text(bar.title)}</title></rect>')
    return _svg(height, parts, "what each worker did when")


def shares(parts_of: dict[str, float], colours: dict[str, int]) -> str:
    """One bar cut in proportion to positive numbers."""
    total = sum(parts_of.values()) or 1.0
    x, height, parts = 0.0, 34, []
    for name, value in parts_of.items():
        width = WIDTH * value / total
        parts.append(
            f'<rect x="{x:.1f}" y="2" width="{width:.1f}" height="30" fill="{_colour(colours[name])}">'
            f"<title>{_text(name)}: {100 * value / total:.1f} %</title></rect>"
        )
        said = f"{name} {100 * value / total:.0f} %"
        if width > 8 * len(said):
            parts.append(f'<text x="{x + width / 2:.1f}" y="22" text-anchor="middle" fill="#fff">{_text(said)}</text>')
        x += width
    return _svg(height, parts, "shares")


def legend(names: Sequence[str], colours: dict[str, int]) -> str:
    """Names with their colours, as HTML."""
    marks = (f'<span><i style="background:{_colour(colours[name])}"></i>{_text(name)}</span>' for name in names)
    return f'<p class="legend">{"".join(marks)}</p>'


def nice(value: float) -> float:
    """The next of 1, 2, 2.5 or 5 times a power of ten that is not below a positive value."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value * (1 - 1e-9))


def _ticks(end: float) -> list[float]:
    step = nice(end / 6)
    return [step * number for number in range(int(end / step + 1e-9) + 1)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"


def _x_axis(end: float, height: int, unit: str) -> list[str]:
    width, foot = WIDTH - LEFT - RIGHT, height - BOTTOM
    parts = [f'<line x1="{LEFT}" y1="{foot}" x2="{WIDTH - RIGHT}" y2="{foot}" stroke="{INK}"/>']
    for tick in _ticks(end):
        x = LEFT + width * tick / end
        parts.append(f'<line x1="{x:.1f}" y1="{foot}" x2="{x:.1f}" y2="{foot + 4}" stroke="{INK}"/>')
        parts.append(f'<text x="{x:.1f}" y="{foot + 16}" text-anchor="middle" fill="{INK}">{_number(tick)}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{height - 3}" text-anchor="end" fill="{INK}">{_text(unit)}</text>')
    return parts


def _y_axis(top: float, height: int, unit: str) -> list[str]:
    tall = height - TOP - BOTTOM
    parts = []
    for tick in (top * number / 4 for number in range(5)):
        y = TOP + tall * (1 - tick / top)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="{FAINT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="{INK}">{_number(tick)}</text>')
    middle = TOP + tall / 2
    turned = f'transform="rotate(-90 14 {middle:.0f})"'
    parts.append(f'<text x="14" y="{middle:.0f}" text-anchor="middle" fill="{INK}" {turned}>{_text(unit)}</text>')
    return parts


def _svg(height: int, parts: Sequence[str], label: str) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{_text(label)}" {_FONT}>\n{body}\n</svg>'
    )


def _colour(number: int) -> str:
    return PALETTE[number % len(PALETTE)]


def _text(text: str) -> str:
    return html.escape(text)
