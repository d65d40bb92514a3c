"""The sections of times: of whole runs at every shape, and of the model's parts."""

from __future__ import annotations

from ..runtime.latency import LatencyReport, ShapeLatency, Timing
from ..runtime.layers import LayersReport
from .pictures import Spread, bars_chart, ratio_chart, spread_chart
from .sections import LEVEL, Figure, Section
from .tables import Table, count, milliseconds, ratio, threads_of

__all__ = ["latency_section", "layers_section"]

_BARS = (("baseline", "baseline.onnx"), ("model", "model.onnx"))


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
            f"How many times as fast, with {LEVEL} intervals",
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
    columns = ["shape", "baseline, ms", "model, ms", f"times as fast ({LEVEL} interval)"]
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
