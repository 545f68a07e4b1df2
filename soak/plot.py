"""A line plot as SVG, without any library. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 860, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 130, 30, 34
_COLOURS = ("#0b6e99", "#c2410c", "#15803d", "#7e22ce", "#b45309", "#334155", "#be185d")
_TICKS = 5
_FONT = 'font-family="sans-serif" font-size="11"'
_DASHED = 'stroke="#94a3b8" stroke-dasharray="4 3"'

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes: named lines over the same x."""

    title: str
    lines: Mapping[str, Points]


def svg(panels: Sequence[Panel], across: str, mark: float) -> str:
    """All panels below one another; `mark` is an x with a dashed line."""
    height = _HEIGHT * len(panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" {_FONT}>',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
    ]
    for number, panel in enumerate(panels):
        parts.append(f'<g transform="translate(0 {number * _HEIGHT})">')
        parts += _panel(panel, across, mark)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, across: str, mark: float) -> list[str]:
    points = [point for line in panel.lines.values() for point in line]
    right = max((x for x, _ in points), default=1.0) or 1.0
    top = 1.08 * max((y for _, y in points), default=1.0) or 1.0
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return _LEFT + wide * x / right, _TOP + high * (1 - y / top)

    parts = [f'<text x="{_LEFT}" y="18" font-size="13">{escape(panel.title)}</text>']
    for tick in range(_TICKS + 1):
        share = tick / _TICKS
        x, y = place(right * share, top * share)
        parts += [
            f'<line x1="{_LEFT}" x2="{_LEFT + wide}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e5e7eb"/>',
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{top * share:,.0f}</text>',
            f'<text x="{x:.1f}" y="{_TOP + high + 15}" text-anchor="middle">{right * share:,.0f}</text>',
        ]
    x = place(min(mark, right), 0)[0]
    parts += [
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_TOP + high}" {_DASHED}/>',
        f'<text x="{_LEFT + wide}" y="{_HEIGHT - 4}" text-anchor="end">{escape(across)}</text>',
    ]
    for number, (name, line) in enumerate(panel.lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in line)
        told = f"{escape(name)} {line[-1][1] if line else 0.0:,.0f}"
        y = _TOP + 12 + 16 * number
        parts += [
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>',
            f'<text x="{_LEFT + wide + 10}" y="{y}" fill="{colour}">{told}</text>',
        ]
    return parts
