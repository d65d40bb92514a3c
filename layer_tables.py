"""The tables of ``axform bench --layers``: where the time of a run goes, and what was saved where."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from .console import table

if TYPE_CHECKING:
    from .runtime.layers import LayersReport

__all__ = ["layers_tables", "named"]

_BLOCKS = {"attn": "ATTN", "ffn": "FFN"}


def layers_tables(report: LayersReport, between_files: bool = False) -> list[Table]:
    """One row per part of the model in order, and one per operator, with totals.

    Args:
        between_files: the two models are any two files, not those of a bundle.
    """
    baseline, model = ("first", "second") if between_files else ("baseline", "model")
    shown = [_operators(report, baseline, model)]
    if report.parts:
        shown.insert(0, _parts(report, baseline, model))
    shown[-1].caption = _caption(report)
    shown[-1].caption_justify = "left"
    return shown


def named(part: str) -> str:
    """layer.0.attn -> layer 0 ATTN; other parts are called as they are."""
    if not part.startswith("layer."):
        return part
    _, layer, block = part.split(".")
    return f"layer {layer} {_BLOCKS[block]}"


def _parts(report: LayersReport, baseline: str, model: str) -> Table:
    rows = [(named(part.part), *_figures(part.baseline, part.model), part.done) for part in report.parts]
    whole = sum(part.baseline for part in report.parts), sum(part.model for part in report.parts)
    rows.append(("all nodes", *_figures(*whole), ""))
    rows.append(("a whole run, profiled", *_figures(*report.profiled), ""))
    rows.append(("a whole run, not profiled", *_figures(*report.plain), ""))
    columns = ("part", f"{baseline} ms", f"{model} ms", "saved ms", "done to it")
    result = table(f"Parts of the model, batch {report.batch}, {report.sequence} tokens", columns, rows)
    result.columns[-1].justify = "left"
    form = f"; {report.form}" if report.form else ""
    result.caption = (
        f"medians of each node over {report.runs} runs, added up{form}; a run is longer by what lies between nodes and by "
        f"what disturbs it; not told: {report.not_told:.1%}, nodes that ONNX Runtime made and that nothing ties to a part"
    )
    result.caption_justify = "left"
    return result


def _figures(before: float, after: float) -> tuple[str, str, str]:
    return f"{before:.3f}", f"{after:.3f}", f"{before - after:+.3f}"


def _operators(report: LayersReport, baseline: str, model: str) -> Table:
    rows: list[tuple[str, ...]] = [
        (one.operator, str(one.baseline_calls), str(one.model_calls), *_figures(one.baseline, one.model))
        for one in report.operators
    ]
    found = report.operators
    whole = sum(one.baseline for one in found), sum(one.model for one in found)
    calls = sum(one.baseline_calls for one in found), sum(one.model_calls for one in found)
    rows.append(("all", *map(str, calls), *_figures(*whole)))
    columns = ("operator", f"{baseline} calls", f"{model} calls", f"{baseline} ms", f"{model} ms", "saved ms")
    return table(f"Operators, batch {report.batch}, {report.sequence} tokens", columns, rows)


def _caption(report: LayersReport) -> str:
    parts = "" if report.parts else "No table of parts: the files name no modules of one and the same known family. "
    recorded = "" if report.not_recorded is None else f"; not recorded in the bundle: {report.not_recorded}"
    return (
        f"{parts}{report.provider}, {report.threads} threads, {report.machine}; onnxruntime "
        f"{report.versions['onnxruntime']}; the profiler costs a little itself: a run takes {report.profiled[0]:.3f} and "
        f"{report.profiled[1]:.3f} ms with it, {report.plain[0]:.3f} and {report.plain[1]:.3f} ms without{recorded}"
    )
