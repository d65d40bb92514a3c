"""The report's charts: matplotlib's SVG, whose colours the page's style sheet chooses, in the light and in the dark.

Charts are drawn in stand-in colours, one for each role, which are replaced by CSS variables in the text of the SVG. They
are as wide as a phone, so that their letters are as large there as the page's; wider screens set them side by side.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from ..plots import import_matplotlib

__all__ = ["Interval", "Spread", "bars_chart", "curve_chart", "ratio_chart", "spread_chart", "trials_chart"]

_WIDTH = 5.0
"""Inches of 72 units; a phone shows about so many pixels."""
_LONGEST_LABEL = 28
"""Characters; the table beside a chart has them all."""
_INK, _MUTED, _LINE, _BASELINE, _MODEL, _SAME, _BAD, _PAPER = (f"#0{digit}" + f"0{digit}" * 2 for digit in range(1, 9))
_VARIABLES = {
    _INK: "--ink",
    _MUTED: "--muted",
    _LINE: "--line",
    _BASELINE: "--baseline",
    _MODEL: "--model",
    _SAME: "--same",
    _BAD: "--bad",
    _PAPER: "--panel",
}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "text.color": _INK,
    "axes.labelcolor": _MUTED,
    "axes.edgecolor": _LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _INK,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "legend.labelcolor": _INK,
    "lines.solid_capstyle": "round",
}
Interval = tuple[float, float]
Spread = tuple[str, float, float, float, float]
"""Name of a model; its 10 %, 50 %, 90 % and 99 % percentile."""
_SPREADS = {"baseline": (_BASELINE, "o"), "same form": (_SAME, "s"), "model": (_MODEL, "D")}


def ratio_chart(
    name: str, rows: Sequence[tuple[str, float, Interval | None, float | None, Interval | None]]
) -> str | None:
    """How many times faster, a row for each shape.

    Args:
        rows: (shape, ratio, its interval, what the plan gains by itself, its interval), None where it is not known.
    """
    numbers = [value for row in rows for value in _flat(row[1:])]
    if not _drawable(numbers):
        return None

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        for place, (_, value, ends, alone, alone_ends) in enumerate(rows):
            shift = 0.0 if alone is None else 0.14
            _dot(axis, value, place - shift, ends, _MODEL, "D")
            if alone is not None:
                _dot(axis, alone, place + shift, alone_ends, _SAME, "s")
        axis.axvline(1, color=_BASELINE, linewidth=1.2, linestyle=(0, (4, 3)))
        _rows(axis, [row[0] for row in rows])
        axis.set_xlim(min(0.9, 0.95 * min(numbers)), 1.04 * max(numbers))
        axis.set_xlabel("times as fast as baseline.onnx; 1 = as fast")

    return _drawn(name, 0.62 + 0.42 * len(rows), draw)


def spread_chart(name: str, spreads: Sequence[Spread]) -> str | None:
    """Where the runs of each model lie, on one axis of milliseconds."""
    numbers = [value for spread in spreads for value in spread[1:]]
    if not _drawable(numbers):
        return None

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        for place, (label, p10, median, p90, p99) in enumerate(spreads):
            colour, marker = _SPREADS.get(label, (_MODEL, "o"))
            axis.plot([p10, p90], [place, place], color=colour, linewidth=7, alpha=0.35)
            axis.plot([p90, p99], [place, place], color=colour, linewidth=1.4)
            axis.plot([p99], [place], marker="|", color=colour, markersize=9, markeredgewidth=1.4)
            axis.plot([median], [place], marker=marker, color=colour, markersize=7)
        _rows(axis, [spread[0] for spread in spreads])
        axis.set_xlim(0, 1.05 * max(numbers))
        axis.set_xlabel("milliseconds")

    return _drawn(name, 0.68 + 0.36 * len(spreads), draw)


def bars_chart(name: str, rows: Sequence[tuple[str, float, float]]) -> str | None:
    """Milliseconds before and after, a pair of bars for each part."""
    if not _drawable([1.0, *(value for row in rows for value in row[1:])], zero=True):
        return None

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        for place, (_, before, after) in enumerate(rows):
            axis.barh(place - 0.19, before, 0.34, color=_BASELINE)
            axis.barh(place + 0.19, after, 0.34, color=_MODEL)
        _rows(axis, [row[0] for row in rows])
        axis.set_xlim(left=0)
        axis.set_xlabel("milliseconds per run")

    return _drawn(name, 0.6 + 0.27 * len(rows), draw)


def curve_chart(
    name: str, states: Sequence[tuple[str, float, float, Interval | None, bool]], bound: float, labels: tuple[str, str]
) -> str | None:
    """The metric of every round against what it costs.

    Args:
        states: (round, cost, metric, interval of the metric, whether it was kept).
        bound: the smallest metric that is accepted.
        labels: of the two axes.
    """
    if not _drawable([bound, *(value for state in states for value in _flat(state[1:4]))], zero=True, negative=True):
        return None

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        axis.axhline(bound, color=_BAD, linewidth=1.1, linestyle=(0, (4, 3)))
        kept = [state for state in states if state[4]]
        axis.plot([state[1] for state in kept], [state[2] for state in kept], color=_MODEL, linewidth=1.2, alpha=0.5)
        for label, cost, metric, ends, is_kept in states:
            colour = _MODEL if is_kept else _BASELINE
            if ends is not None:
                axis.plot([cost, cost], list(ends), color=colour, linewidth=1.4, alpha=0.55)
            face = colour if is_kept else _PAPER
            axis.plot(
                [cost], [metric], marker="D" if is_kept else "s", color=colour, markersize=7, markerfacecolor=face
            )
            axis.annotate(label, (cost, metric), textcoords="offset points", xytext=(7, 5), fontsize=9.5)
        axis.grid(axis="both")
        axis.margins(x=0.12)
        axis.set_xlabel(labels[0])
        axis.set_ylabel(labels[1])

    return _drawn(name, 2.9, draw)


def trials_chart(name: str, trials: Sequence[tuple[int, float, str]]) -> str | None:
    """Every trial of a search: how much more loss it cost.

    Args:
        trials: (number, loss over that of the start, ``accepted``, ``refused`` or ``ended early``).
    """
    known = sorted(value for _, value, _ in trials if math.isfinite(value))
    if not known or not _drawable(known):
        return None
    top = max(1.1, 1.15 * known[int(0.9 * (len(known) - 1))])

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        axis.axhline(1, color=_BASELINE, linewidth=1)
        for kind, colour, marker, face in (
            ("refused", _BASELINE, "s", _PAPER),
            ("ended early", _BASELINE, "^", _PAPER),
            ("accepted", _MODEL, "D", _MODEL),
        ):
            mine = [(number, min(value, top)) for number, value, found in trials if found == kind and value == value]
            if mine:
                places, values = zip(*mine, strict=True)
                axis.plot(places, values, marker, color=colour, markerfacecolor=face, markersize=5, clip_on=False)
        axis.set_ylim(top=top)
        axis.margins(x=0.03)
        axis.grid(axis="y")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_xlabel("trial")
        axis.set_ylabel("loss, of that at the start")

    return _drawn(name, 2.3, draw)


def _flat(values: Sequence[Any]) -> list[float]:
    flat: list[float] = []
    for value in values:
        flat += [] if value is None else list(value) if isinstance(value, tuple) else [value]
    return flat


def _drawable(numbers: Sequence[float], zero: bool = False, negative: bool = False) -> bool:
    """Whether an axis can hold them; what cannot be drawn stands in the table."""
    return bool(numbers) and all(
        math.isfinite(value) and abs(value) < 1e12 and (negative or value > 0 or (zero and value == 0))
        for value in numbers
    )


def _dot(axis: Any, value: float, place: float, ends: Interval | None, colour: str, marker: str) -> None:
    if ends is not None:
        axis.plot(list(ends), [place, place], color=colour, linewidth=2.4, alpha=0.55)
    axis.plot([value], [place], marker=marker, color=colour, markersize=6.5)


def _rows(axis: Any, labels: Sequence[str]) -> None:
    axis.set_yticks(range(len(labels)), labels=[label[:_LONGEST_LABEL] for label in labels])
    axis.set_ylim(len(labels) - 0.45, -0.55)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.grid(axis="x")


def _drawn(name: str, height: float, draw: Callable[[Any], None]) -> str:
    """The SVG, the same for the same figures; ``name`` keeps its ids apart from those of the page's other charts."""
    figure_module = import_matplotlib()
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font in which it measures lacks; the page's has them
        figure = figure_module.Figure(figsize=(_WIDTH, height), layout="constrained")
        draw(figure)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    return _inline(text.getvalue(), name)


def _inline(svg: str, name: str) -> str:
    """An SVG file as a part of a page."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r'\1 aria-hidden="true" focusable="false"', svg, count=1)
    return re.sub(r"<[^>]*>", lambda tag: _themed(tag[0], name), svg)


def _themed(tag: str, name: str) -> str:
    tag = re.sub(r'\b(id="|href="#)|(url\(#)', rf"\g<0>{name}-", tag)
    tag = re.sub(r" font-family: [^;\"]*;?", "", tag)
    return re.sub("#(0[1-8])\\1\\1", lambda found: f"var({_VARIABLES[found[0]]})", tag)
