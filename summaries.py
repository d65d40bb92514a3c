"""The tables that the command line prints: what was removed, what it cost and what it gained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from .console import table
from .core.intervals import CONFIDENCE
from .core.plan import ApproximationPlan

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .core.intervals import Change
    from .custom_ops import BuildInfo
    from .exporters.inspection import FileContents
    from .exporters.pareto import State
    from .runtime.bundle import Report
    from .runtime.gate import GatedShape, GateReport
    from .runtime.latency import LatencyReport, ShapeLatency
    from .runtime.parity import NumericParity, ParityReport
    from .toolchain.run_folder import RunRecord

__all__ = [
    "bench_tables",
    "check_tables",
    "contents_tables",
    "gate_line",
    "gate_tables",
    "ops_table",
    "optimize_tables",
    "pareto_table",
]


def optimize_tables(record: RunRecord, plan: ApproximationPlan) -> list[Table]:
    """What the plan does to each layer, and the losses and metrics before and after."""
    layers = table(
        f"Plan ({plan.focus} focus, groups of {plan.group_size})",
        ("layer", "ATTN", "FFN"),
        [
            (str(index), layer.describe("attn") or "kept", layer.describe("ffn") or "kept")
            for index, layer in enumerate(plan.layers)
        ],
    )
    if plan.word_embeddings is not None:
        rest = "as they are" if plan.rest is None else f"in {plan.rest.said}"
        layers.caption = f"word embeddings in {plan.word_embeddings.said}; weights that no cell names {rest}"
        layers.caption_justify = "left"
    rows = (
        ("judged trials", record.selection_rows, record.baseline.metric, record.final.metric, None),
        (
            "decided what is kept",
            record.acceptance.rows,
            record.acceptance.before,
            record.acceptance.after,
            record.acceptance,
        ),
        ("reported", record.report.rows, record.report.before, record.report.after, record.report),
    )
    measured = table(
        f"{record.options.task}: {record.metric}",
        ("rows that", "rows", "baseline", "result", "change", f"{CONFIDENCE:.0%} interval"),
        [
            (name, str(count), f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}", _ends(change))
            for name, count, before, after, change in rows
        ],
    )
    measured.caption = (
        f"round {record.round} of {record.rounds}; {record.trials} trials in {record.search_seconds:.0f} s; "
        f"trained on {record.train_rows} rows{_coarse(record)}"
    )
    measured.caption_justify = "left"
    return [layers, measured]


def _ends(change: Change | None) -> str:
    return "" if change is None else f"{change.low:+.4f} to {change.high:+.4f}"


def _coarse(record: RunRecord) -> str:
    """Whether the rows can tell the drop that was allowed from none."""
    if not record.round:
        return "; no round kept the bound of --max-drop, so the result is the baseline"
    change, allowed = record.acceptance, record.options.max_drop
    if record.options.focus == "accuracy" or change.resolution <= allowed * abs(change.before):
        return ""
    return (
        f"; {change.rows} rows resolve {change.resolution:.2%}, more than --max-drop allows "
        f"({allowed * abs(change.before):.2%}): --confidence asks for the interval's end"
    )


def pareto_table(states: Sequence[State], metric: str, batch: int, sequence: int) -> Table:
    """One row per round, the baseline first."""
    base = states[0]
    rows = []
    for state in states:
        change, record = state.change, state.record
        left = (
            record.parameters / base.record.parameters,
            record.encoder_flops / base.record.encoder_flops,
        )
        rows.append(
            (
                str(state.step),
                _result(record.is_accepted, "kept", "refused"),
                f"{change.after:.4f}",
                "" if state is base else f"{100 * change.low:+.1f} to {100 * change.high:+.1f}",
                f"{left[0]:.0%}, {left[1]:.0%}",
                f"{state.bytes / 1e6:.1f}",
                f"{state.milliseconds:.2f}",
                f"{state.ratio:.2f}x",
            )
        )
    columns = ("step", "bound", metric, "change, %", "parameters, FLOPs", "MB", "ms", "faster")
    result = table("Rounds", columns, rows)
    result.caption = (
        f"{metric} on {base.change.rows} rows that no trial saw, with the {CONFIDENCE:.0%} interval of its change; FLOPs of "
        f"the encoder's layers; latency at batch {batch}, {sequence} tokens, all rounds timed in turn"
    )
    result.caption_justify = "left"
    return result


def check_tables(report: ParityReport) -> list[Table]:
    """The parity checks with their bounds."""
    task = report.task
    rows = [_numbers("model.onnx", report.numeric)]
    if report.bodies is not None:
        rows.append(_numbers("model.onnx without the op library", report.bodies))
    rows.append(
        (
            f"task: {task.metric} of model.onnx, {task.samples} samples; baseline.onnx: {task.baseline:.4f}, change "
            f"{task.model - task.baseline:+.4f}, {CONFIDENCE:.0%} interval {task.low:+.4f} to {task.high:+.4f}",
            f"{task.model:.4f}",
            f"{task.bound:.4f}",
            _result(task.passed),
        )
    )
    result = table("Parity", ("check", "measured", "bound", "result"), rows)
    result.caption = f"{report.provider}{_unless_recorded(report)}"
    result.caption_justify = "left"
    return [result]


def _unless_recorded(report: Report) -> str:
    return "" if report.not_recorded is None else f"; not recorded in the bundle: {report.not_recorded}"


def _numbers(what: str, numeric: NumericParity) -> tuple[str, str, str, Text]:
    changed = ""
    if numeric.changed is not None:
        changed = f"; {f'{numeric.changed:.1%} of the answers' if numeric.changed else 'no answer'} changed"
    return (
        f"numbers: {what} against PyTorch with the plan applied, {numeric.samples} samples in {numeric.batches} padded "
        f"batches; worst: row {numeric.worst_sample}, {numeric.worst_output}{changed}",
        f"{numeric.max_abs_error:.1e}",
        f"{numeric.tolerance:.1e}",
        _result(numeric.passed),
    )


def _result(passed: bool, good: str = "passed", bad: str = "FAILED") -> Text:
    return Text(good, style="green") if passed else Text(bad, style="red")


def bench_tables(report: LatencyReport, files: tuple[Path, Path] | None = None) -> list[Table]:
    """Milliseconds per run of both models and the ratio, one row per shape.

    Args:
        files: the two that were timed; None = those of a bundle.
    """
    baseline, model = ("baseline", "model") if files is None else ("first", "second")
    rows: list[tuple[str, ...]] = []
    for shape in report.shapes:
        timing = shape.model
        rows.append(
            (
                f"{shape.batch} x {shape.sequence}",
                f"{shape.baseline.median:.2f}",
                f"{timing.median:.2f}",
                f"{timing.p10:.2f} / {timing.p90:.2f} / {timing.p99:.2f}",
                f"{shape.ratio:.2f}x",
                _interval(shape.ratio_low, shape.ratio_high),
                str(shape.runs),
            )
        )
    columns: tuple[str, ...] = (
        "batch x seq",
        f"{baseline} ms",
        f"{model} ms",
        f"{model} p10/p90/p99",
        "ratio",
        "95 % interval",
        "runs",
    )
    if report.energy_of is not None:
        columns = (*columns, f"{baseline} J", f"{model} J")
        rows = [(*row, *_joules(shape)) for row, shape in zip(rows, report.shapes, strict=True)]
    result = table("Latency", columns, rows)
    result.caption = "" if files is None else f"first: {files[0]}\nsecond: {files[1]}\n"
    result.caption += (
        f"{report.provider}, {report.threads} threads, {report.machine}; onnxruntime {report.versions['onnxruntime']}; "
        f"interleaved runs, medians{_loading(report, baseline, model)}{_energy(report)}{_unless_recorded(report)}"
    )
    result.caption_justify = "left"
    return [result, *_plan_tables(report)]


def _loading(report: LatencyReport, baseline: str, model: str) -> str:
    if report.load_seconds is None:
        return ""
    before, after = (f"{1000 * seconds:.0f} ms" for seconds in report.load_seconds)
    if report.resident is not None:
        before, after = (f"{one} into {mb:.0f} MB" for one, mb in zip((before, after), report.resident, strict=True))
    return f"; {baseline} loads in {before}, {model} in {after}"


def _joules(shape: ShapeLatency) -> tuple[str, str]:
    return ("", "") if shape.joules is None else (f"{shape.joules[0]:.3g}", f"{shape.joules[1]:.3g}")


def _energy(report: LatencyReport) -> str:
    return "" if report.energy_of is None else f"; J of a run, all that the {report.energy_of} does counted"


def _plan_tables(report: LatencyReport) -> list[Table]:
    """What the plan gains by itself, where the baseline was timed in the model's form."""
    rows = [
        (
            f"{shape.batch} x {shape.sequence}",
            f"{shape.same_form.median:.2f}",
            f"{shape.model.median:.2f}",
            f"{shape.plan_ratio:.2f}x",
            _interval(shape.plan_low, shape.plan_high),
        )
        for shape in report.shapes
        if shape.same_form is not None
    ]
    columns = ("batch x seq", "baseline in the model's precision and layout, ms", "model ms", "ratio", "95 % interval")
    return [table("What the plan gains by itself", columns, rows)] if rows else []


def _interval(low: float | None, high: float | None) -> str:
    return "too few runs" if low is None or high is None else f"{low:.2f} - {high:.2f}"


def gate_tables(report: GateReport) -> list[Table]:
    """The verdict on each shape, with what it rests on."""
    colours = {"PASS": "green", "FAIL": "red", "UNDECIDED": "yellow"}
    rows = [
        (
            f"{shape.batch} x {shape.sequence}",
            Text(shape.verdict, style=colours[shape.verdict]),
            f"{shape.slowdown:+.1%}",
            f"{shape.low:+.1%} to {shape.high:+.1%}",
            f"{shape.noise:.1%}",
            f"{shape.looks}",
            f"{shape.rounds}",
        )
        for shape in report.shapes
    ]
    columns = ("batch x seq", "verdict", "slower by", "bounds", "noise", "looks", "runs")
    result = table("Latency gate", columns, rows)
    result.caption = (
        f"{report.candidate} against {report.reference}, tolerated {report.max_regression:.1%}; {report.provider}, "
        f"{report.threads} threads, {report.machine}; a verdict is wrong in at most {report.alpha:.1%} of the cases; "
        "noise: how far the reference is from itself"
    )
    result.caption_justify = "left"
    return [result]


def gate_line(report: GateReport, shape: GatedShape) -> str:
    """The verdict on one shape in a line of plain text."""
    return (
        f"{shape.verdict} at {shape.batch} x {shape.sequence}: slower by {shape.slowdown:+.1%} ({shape.low:+.1%} to "
        f"{shape.high:+.1%}), tolerated {report.max_regression:.1%}, noise {shape.noise:.1%}"
    )


def contents_tables(contents: FileContents, largest: int) -> list[Table]:
    """What an ONNX file holds, with that many of its largest weights."""
    stored = sum(tensor.bytes for tensor in contents.weights)
    listed = {
        "size": f"{contents.bytes:,} bytes, weights {stored:,} bytes",
        "made by": contents.producer or "not said",
        "opsets": ", ".join(f"{domain} {version}" for domain, version in contents.opsets.items()),
        "inputs": "\n".join(f"{name}: {kind}" for name, kind in contents.inputs.items()),
        "outputs": "\n".join(f"{name}: {kind}" for name, kind in contents.outputs.items()),
        "functions in the file": ", ".join(contents.functions) or "none",
        "operators": ", ".join(f"{count} {name}" for name, count in contents.operators.most_common()),
    }
    facts = table(str(contents.path), ("", ""), listed.items())
    facts.columns[1].justify = "left"
    types = table(
        "Weights by type",
        ("type", "bits", "tensors", "values", "bytes"),
        (
            (
                kind,
                str(tensors[0].bits),
                str(len(tensors)),
                f"{sum(tensor.values for tensor in tensors):,}",
                f"{sum(tensor.bytes for tensor in tensors):,}",
            )
            for kind, tensors in contents.by_type().items()
        ),
    )
    tensors = table(
        "Largest weights",
        ("name", "type", "shape", "bytes"),
        (
            (tensor.name, tensor.kind, " x ".join(map(str, tensor.shape)), f"{tensor.bytes:,}")
            for tensor in contents.weights[:largest]
        ),
    )
    return [facts, types, tensors] if largest else [facts, types]


def ops_table(info: BuildInfo, path: str) -> Table:
    """What is built into the op library and what of it runs on this machine."""
    cuda = "none (no nvcc when axform was installed, or AXFORM_CUDA=OFF)"
    if info["cuda_version"]:
        cuda = f"CUDA {info['cuda_version']}: sm_" + ", sm_".join(info["cuda_architectures"])
    rows = (
        ("operators", "SignMatchingAttention, HardAttention, UnpackBits"),
        ("CPU kernels", ", ".join(info["cpu_instruction_sets"])),
        ("used on this machine", info["cpu_dispatched"]),
        ("CUDA kernels", cuda),
        ("oldest ONNX Runtime", f"1.{info['abi_version']}"),
        ("library", path),
    )
    return table("Op library ai.axform", ("", "built in"), rows)
