"""The sections of a report: each what the bundle knows, or the command that would bring it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..core.intervals import CONFIDENCE
from ..runtime.bundle import Manifest, StoredCodes
from ..runtime.latency import LatencyReport, ShapeLatency, Timing
from ..runtime.parity import NumericParity, ParityReport
from .pictures import Spread, bars_chart, ratio_chart, spread_chart
from .recorded import LayersReport, Recorded
from .tables import (
    Table,
    change_of,
    count,
    interval,
    megabytes,
    metric_name,
    milliseconds,
    percent,
    points,
    ratio,
    signed_points,
    threads_of,
)

__all__ = ["Figure", "Section", "latency_section", "layers_section", "machine_section", "proof_section", "size_section"]

_LEVEL = f"{100 * CONFIDENCE:.0f} %"
_MOST_CHANGES = 16
"""Of one rewrite that are listed."""
_BARS = (("baseline", "baseline.onnx"), ("model", "model.onnx"))


@dataclass(frozen=True)
class Figure:
    svg: str
    caption: str
    described: str
    """What it shows, for those who do not see it; the figures themselves stand in the table."""
    legend: tuple[tuple[str, str], ...] = ()
    """(class in the style sheet, what it stands for)."""
    is_wide: bool = False


@dataclass(frozen=True)
class Section:
    id: str
    title: str
    text: str = ""
    missing: str = ""
    """What is not there and why; ``command`` then brings it."""
    command: str = ""
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = field(default=())


def proof_section(name: str, check: ParityReport | None) -> Section:
    title = "Proof"
    if check is None:
        missing = "The bundle holds no result of a check: numbers against PyTorch, and the task's metric."
        return Section("proof", title, missing=missing, command=f"axform check {name}")
    numbers = [_numbers("model.onnx", check.numeric)]
    if check.bodies is not None:
        numbers.append(_numbers("model.onnx without the op library", check.bodies))
    task = check.task
    metric = Table.of(
        f"{metric_name(task.metric).capitalize()} × 100 on the reported split",
        ("", "baseline.onnx", "model.onnx", "change", f"{_LEVEL} interval", "bound", "result"),
        [
            (
                f"{count(task.samples)} samples",
                points(task.baseline),
                points(task.model),
                signed_points(task.model - task.baseline),
                interval(task.low, task.high),
                f"at least {points(task.bound)}",
                _result(task.passed),
            )
        ],
        "Both models answer the same samples, so the interval is that of the paired difference.",
    )
    parity = Table.of(
        "Numbers against PyTorch with the same parts removed",
        ("file", "largest difference", "tolerance", "samples", "answers changed", "worst", "result"),
        numbers,
        f"Ran on {check.provider}, in padded batches.",
    )
    return Section("proof", title, tables=(metric, parity))


def _numbers(what: str, numeric: NumericParity) -> tuple[str, ...]:
    return (
        what,
        f"{numeric.max_abs_error:.1e}",
        f"{numeric.tolerance:.1e}",
        f"{count(numeric.samples)} in {count(numeric.batches)} batches",
        "none" if not numeric.changed else f"{100 * numeric.changed:.1f} %",
        f"row {numeric.worst_sample}, {numeric.worst_output}",
        _result(numeric.passed),
    )


def _result(passed: bool) -> str:
    return "passes" if passed else "FAILS"


def latency_section(name: str, bench: LatencyReport | None) -> Section:
    title = "Latency"
    if bench is None:
        missing = "The bundle holds no latencies."
        return Section("latency", title, missing=missing, command=f"axform bench {name}")
    alone = any(shape.same_form is not None for shape in bench.shapes)
    rows = [
        (_shape(shape), shape.ratio, _ends(shape.ratio_low, shape.ratio_high), shape.plan_ratio,
         _ends(shape.plan_low, shape.plan_high))
        for shape in bench.shapes
    ]  # fmt: skip
    legend: tuple[tuple[str, str], ...] = (("model", "model.onnx over baseline.onnx"),)
    if alone:
        legend += (("same", "over the baseline in the model's precision and layout: the plan by itself"),)
    figures = [
        _figure(
            ratio_chart("ratios", rows),
            f"How many times as fast, with {_LEVEL} intervals",
            "Ratios of the median latencies, one row for each shape",
            legend,
        )
    ]
    for number, shape in enumerate(bench.shapes):
        figures.append(
            _figure(
                spread_chart(f"spread-{number}", _spreads(shape)),
                _shape(shape).capitalize(),
                f"Distribution of {shape.runs} runs of each model at batch {shape.batch}, {shape.sequence} tokens",
                (),
            )
        )
    return Section(
        "latency",
        title,
        "Both models ran in turn in one process, so that what disturbed the machine disturbed both; the ratio is that of "
        "the medians. Of each shape the picture shows the median (mark), 10 % to 90 % of the runs (band) and 99 % (line).",
        figures=tuple(figure for figure in figures if figure is not None),
        tables=(_ratio_table(bench, alone), _timing_table(bench)),
    )


def _shape(shape: ShapeLatency) -> str:
    return f"batch {shape.batch}, {shape.sequence} tokens"


def _ends(low: float | None, high: float | None) -> tuple[float, float] | None:
    return None if low is None or high is None else (low, high)


def _figure(
    svg: str | None, caption: str, described: str, legend: tuple[tuple[str, str], ...], is_wide: bool = False
) -> Figure | None:
    return None if svg is None else Figure(svg, caption, described, legend, is_wide)


def _timings(shape: ShapeLatency) -> list[tuple[str, Timing]]:
    same = [] if shape.same_form is None else [("same form", shape.same_form)]
    return [("baseline", shape.baseline), *same, ("model", shape.model)]


def _spreads(shape: ShapeLatency) -> list[Spread]:
    return [(name, time.p10, time.median, time.p90, time.p99) for name, time in _timings(shape)]


def _ratio_table(bench: LatencyReport, alone: bool) -> Table:
    columns = ["shape", "baseline, ms", "model, ms", f"times as fast ({_LEVEL} interval)"]
    if alone:
        columns.append("the plan by itself")
    rows = []
    for shape in bench.shapes:
        row = [
            _shape(shape),
            milliseconds(shape.baseline.median),
            milliseconds(shape.model.median),
            ratio(shape.ratio, shape.ratio_low, shape.ratio_high),
        ]
        if alone:
            row.append("" if shape.plan_ratio is None else ratio(shape.plan_ratio, shape.plan_low, shape.plan_high))
        rows.append(row)
    note = f"{bench.machine}; {threads_of(bench.threads)}, {bench.provider}"
    if bench.load_seconds is not None:
        before, after = (f"{1000 * seconds:.0f} ms" for seconds in bench.load_seconds)
        note += f"; baseline.onnx loads in {before}, model.onnx in {after}"
    return Table.of("Medians and their ratio", columns, rows, note + ".")


def _timing_table(bench: LatencyReport) -> Table:
    rows = [
        (_shape(shape), name, *map(milliseconds, (time.p10, time.median, time.p90, time.p99)), count(shape.runs))
        for shape in bench.shapes
        for name, time in _timings(shape)
    ]
    columns = ("shape", "model", "10 %", "median", "90 %", "99 %", "runs")
    return Table.of("Milliseconds per run", columns, rows, text=(1,), is_folded=True)


def layers_section(name: str, layers: LayersReport | None) -> Section:
    title = "Where the time goes"
    if layers is None:
        missing = "The bundle holds no times of its layers."
        return Section("layers", title, missing=missing, command=f"axform bench {name} --layers")
    figure = _figure(
        bars_chart("layers", [(part.part, part.baseline, part.model) for part in layers.parts]),
        "Milliseconds of every part, before and after",
        "A pair of bars for every part of the model",
        _BARS,
        is_wide=True,
    )
    parts = Table.of(
        "Parts",
        ("part", "baseline, ms", "model, ms", "what was done"),
        [(part.part, milliseconds(part.baseline), milliseconds(part.model), part.done) for part in layers.parts],
        f"Batch {layers.batch}, {layers.sequence} tokens, {layers.runs} runs, {threads_of(layers.threads)}, "
        f"{layers.provider}; {layers.machine}.",
        text=(3,),
    )
    operators = Table.of(
        "Operators",
        ("operator", "calls before", "calls after", "baseline, ms", "model, ms"),
        [
            (
                one.operator,
                count(one.baseline_calls),
                count(one.model_calls),
                milliseconds(one.baseline),
                milliseconds(one.model),
            )
            for one in layers.operators
        ],
        is_folded=bool(layers.parts),
    )
    return Section(
        "layers",
        title,
        figures=() if figure is None else (figure,),
        tables=tuple(table for table in (parts, operators) if table.rows),
    )


def size_section(manifest: Manifest) -> Section:
    before, after = manifest.baseline_size, manifest.model_size
    sizes = Table.of(
        "Sizes",
        ("", "baseline.onnx", "model.onnx", "left"),
        [
            (
                "parameters",
                count(before.parameters),
                count(after.parameters),
                percent(after.parameters, before.parameters),
            ),
            ("file", megabytes(before.bytes), megabytes(after.bytes), percent(after.bytes, before.bytes)),
            ("nodes of the graph", count(before.nodes), count(after.nodes), percent(after.nodes, before.nodes)),
        ],
        f"The file is {change_of(after.bytes, before.bytes)}.",
    )
    tables = [sizes]
    if manifest.rewrites:
        tables.append(_rewrites_table(manifest))
    if manifest.codes:
        tables.append(_codes_table(manifest.codes))
    return Section("size", "Size and rewrites", _floats(manifest), tables=tuple(tables))


def _floats(manifest: Manifest) -> str:
    if not manifest.stays_float:
        return ""
    return f"Float as before, since {manifest.precision} would cost too much: {', '.join(manifest.stays_float)}."


def _rewrites_table(manifest: Manifest) -> Table:
    rows = []
    for rewrite in manifest.rewrites:
        done = "; ".join(f"{place}: {what}" for place, what in rewrite.changes)
        if len(rewrite.changes) > _MOST_CHANGES:
            done = f"{len(rewrite.changes)} places, listed in axform.json"
        rows.append((rewrite.rewrite, done, count(rewrite.nodes_removed), count(rewrite.parameters_removed)))
    columns = ("rewrite", "what", "nodes removed", "parameters removed")
    added = any(rewrite.nodes_removed < 0 for rewrite in manifest.rewrites)
    note = "A negative count is of nodes that were added." if added else ""
    return Table.of("Rewrites of the graph", columns, rows, note, text=(1,))


def _codes_table(codes: Sequence[StoredCodes]) -> Table:
    """One row for every kind of code: a model has one or two hundred tensors of few kinds."""
    kinds: dict[tuple[int, float, int], list[StoredCodes]] = defaultdict(list)
    for code in codes:
        kinds[code.bits, code.storage_bits, code.group].append(code)
    rows = []
    for (bits, storage, group), mine in sorted(kinds.items()):
        modules = sorted({code.module for code in mine})
        rows.append(
            (
                f"{bits}",
                f"{storage:.3g}",
                count(group),
                count(len(mine)),
                megabytes(sum(code.bytes for code in mine)),
                modules[0] if len(modules) == 1 else f"{modules[0]} and {len(modules) - 1} more",
            )
        )
    return Table.of(
        "Weights as codes of fewer bits",
        ("bits", "bits in the file", "weights a scale", "tensors", "size", "of"),
        rows,
        "Sizes with their scales. A weight is its code times the scale of its group.",
        text=(5,),
    )


def machine_section(manifest: Manifest, recorded: Recorded, name: str, commands: Sequence[str]) -> Section:
    rows = [
        ("exported by", f"axform {manifest.axform_version}"),
        ("precision, opset", f"{manifest.precision}, {manifest.opset}"),
        ("longest input", f"{count(manifest.max_length)} tokens"),
        ("allowed drop of the metric", percent(manifest.max_drop, 1, 2)),
        ("labels", ", ".join(manifest.labels) or "none: a regression"),
        ("weights", manifest.plan.model.fingerprint or "not told by the plan"),
    ]
    if manifest.op_library.accelerates:
        operators = ", ".join(manifest.op_library.accelerates)
        rows.append(("operators that the op library accelerates", f"{operators}; without it their function bodies run"))
    for what, report in (("latency", recorded.bench), ("layers' times", recorded.layers)):
        if report is not None:
            rows += [(f"machine, {what}", report.machine), (f"versions, {what}", _versions(report.versions))]
    if recorded.run is not None:
        rows.append(("versions, search", _versions(recorded.run.versions)))
    table = Table.of("How it was made and measured", ("", ""), rows, text=(1,))
    return Section("machine", "Machine and commands", tables=(table,), command="\n".join(commands))


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
