"""The pictures that people would rather look at than read a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import AxformError
from .files import writing

if TYPE_CHECKING:
    from .exporters.pareto import State
    from .runtime.gate_history import PastVerdict

__all__ = ["check_plot", "draw_history", "draw_states", "import_matplotlib"]

_KEPT, _REFUSED = "tab:blue", "tab:gray"
_VERDICTS = {"PASS": "tab:green", "FAIL": "tab:red", "UNDECIDED": "tab:orange"}


def import_matplotlib() -> Any:
    """The figure module of matplotlib, which needs no display.

    Raises:
        AxformError: it is not installed.
    """
    try:
        import matplotlib.figure
    except ImportError:
        raise AxformError("matplotlib is not installed; run `pip install 'axform[plot]'`.") from None
    return matplotlib.figure


def check_plot(file: Path) -> None:
    """Say before the work, not after it, that nothing can be drawn to a file of this name.

    Raises:
        AxformError: matplotlib is not installed, or knows no such kind of file.
    """
    known = import_matplotlib().Figure().canvas.get_supported_filetypes()
    if file.suffix[1:].lower() not in known:
        raise AxformError(
            f"--plot {file}: not a kind of picture that is known; name a file that ends in .svg, .png or .pdf."
        )


def draw_states(states: Sequence[State], metric: str, bound: float, file: Path) -> None:
    """The metric on unseen rows, with the interval of its change, against latency and against the file's size.

    Args:
        bound: the smallest metric that is accepted.

    Raises:
        AxformError: the file cannot be written.
    """
    figure = import_matplotlib().Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, label, places in (
        (axes[0], "latency, ms", [state.milliseconds for state in states]),
        (axes[1], "file, MB", [state.bytes / 1e6 for state in states]),
    ):
        for state, place in zip(states, places, strict=True):
            change, colour = state.change, _KEPT if state.record.is_accepted else _REFUSED
            ends = [[change.estimate - change.low], [change.high - change.estimate]] if state.step else None
            axis.errorbar([place], [change.after], yerr=ends, fmt="o", color=colour, capsize=3)
            axis.annotate(str(state.step), (place, change.after), textcoords="offset points", xytext=(6, 6))
        axis.axhline(bound, color=_REFUSED, linestyle="--", linewidth=1)
        axis.set_xlabel(label)
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f"{metric} on {states[0].change.rows} unseen rows")
    figure.suptitle(
        "Rounds of the run: kept in blue, refused in grey; bars are 95 % intervals of the change, dashed is the bound"
    )
    _save(figure, file)


def draw_history(verdicts: Sequence[PastVerdict], file: Path) -> None:
    """Slow-downs of every shape over time, with their bounds and what was tolerated.

    Raises:
        AxformError: the file cannot be written.
    """
    shapes = sorted({(shape.batch, shape.sequence) for past in verdicts for shape in past.report.shapes})
    figure = import_matplotlib().Figure(figsize=(10, 3 * len(shapes)), layout="constrained")
    for axis, key in zip(figure.subplots(len(shapes), 1, squeeze=False)[:, 0], shapes, strict=True):
        for number, past in enumerate(verdicts, 1):
            for shape in past.report.shapes:
                if (shape.batch, shape.sequence) == key:
                    low, middle, high = (100 * value for value in (shape.low, shape.slowdown, shape.high))
                    ends = [[middle - low], [high - middle]]
                    axis.errorbar([number], [middle], yerr=ends, fmt="o", color=_VERDICTS[shape.verdict], capsize=3)
        tolerated = [100 * past.report.max_regression for past in verdicts]
        axis.plot(range(1, len(verdicts) + 1), tolerated, color=_REFUSED, linestyle="--", linewidth=1)
        axis.set_ylabel(f"slower by, %, at {key[0]} x {key[1]}")
        axis.grid(alpha=0.3)
    axis.set_xlabel("verdict number; green passed, red failed, orange undecided; dashed is what is tolerated")
    _save(figure, file)


def _save(figure: Any, file: Path) -> None:
    with writing(file):
        figure.savefig(file)
