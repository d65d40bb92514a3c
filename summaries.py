"""The tables that the command line prints: what was removed, what it cost and what it gained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from .console import table
from .core.plan import ApproximationPlan, LayerPlan, group_count

if TYPE_CHECKING:
    from .custom_ops import BuildInfo
    from .runtime.bundle import Report
    from .runtime.latency import LatencyReport, ShapeLatency
    from .runtime.parity import NumericParity, ParityReport
    from .toolchain.run_folder import RunRecord

__all__ = ["bench_tables", "check_tables", "ops_table", "optimize_tables"]


def optimize_tables(record: RunRecord, plan: ApproximationPlan) -> list[Table]:
    """What the plan does to each layer, and the losses and metrics before and after."""
    layers = table(
        f"Plan ({plan.focus} focus, groups of {plan.group_size})",
        ("layer", "ATTN", "FFN"),
        [(str(index), _attention(layer, plan), _feed_forward(layer, plan)) for index, layer in enumerate(plan.layers)],
    )
    stages = (("baseline", record.baseline), ("plan applied", record.searched), ("fine-tuned", record.final))
    measured = table(
        f"{record.options.task}: {record.metric}",
        ("", "selection loss", f"selection {record.metric}", f"reported {record.metric}"),
        [(name, f"{m.loss:.4f}", f"{m.metric:.4f}", f"{m.report_metric:.4f}") for name, m in stages],
    )
    verdict = "kept" if record.final.metric >= record.metric_bound else "NOT kept"
    measured.caption = (
        f"bound of --max-drop on the selection split: {record.metric_bound:.4f} ({verdict}); "
        f"{record.trials} trials in {record.search_seconds:.0f} s; "
        f"rows: {record.train_rows} train, {record.selection_rows} selection, {record.report_rows} reported"
    )
    measured.caption_justify = "left"
    return [layers, measured]


def _attention(layer: LayerPlan, plan: ApproximationPlan) -> str:
    attention = layer.attention
    if attention.skipped:
        return "skipped"
    parts = []
    if attention.pruned_heads:
        parts.append(f"{len(attention.pruned_heads)} of {plan.model.num_heads} heads pruned")
    if attention.pruned_input_groups:
        count = group_count(plan.model.hidden_size, plan.group_size)
        parts.append(f"{len(attention.pruned_input_groups)} of {count} input groups pruned")
    if attention.sign_matching is not None:
        parts.append(f"sign matching, k = {attention.sign_matching.k}")
    return ", ".join(parts) or "kept"


def _feed_forward(layer: LayerPlan, plan: ApproximationPlan) -> str:
    if layer.feed_forward.skipped:
        return "skipped"
    count = group_count(plan.model.intermediate_size, plan.group_size)
    pruned = len(layer.feed_forward.pruned_groups)
    return f"{pruned} of {count} groups pruned" if pruned else "kept"


def check_tables(report: ParityReport) -> list[Table]:
    """The parity checks with their bounds."""
    task = report.task
    rows = [_numbers("model.onnx", report.numeric)]
    if report.bodies is not None:
        rows.append(_numbers("model.onnx without the op library", report.bodies))
    rows.append(
        (
            f"task: {task.metric} of model.onnx, {task.samples} samples (baseline.onnx: {task.baseline:.4f})",
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
    return (
        f"numbers: {what} against PyTorch with the plan applied, {numeric.samples} samples in {numeric.batches} padded "
        f"batches; worst: row {numeric.worst_sample}, {numeric.worst_output}",
        f"{numeric.max_abs_error:.1e}",
        f"{numeric.tolerance:.0e}",
        _result(numeric.passed),
    )


def _result(passed: bool) -> Text:
    return Text("passed", style="green") if passed else Text("FAILED", style="red")


def bench_tables(report: LatencyReport) -> list[Table]:
    """Milliseconds per run of both models and the ratio, one row per shape."""
    rows = []
    for shape in report.shapes:
        model = shape.model
        rows.append(
            (
                f"{shape.batch} x {shape.sequence}",
                f"{shape.baseline.median:.2f}",
                f"{model.median:.2f}",
                f"{model.p10:.2f} / {model.p90:.2f} / {model.p99:.2f}",
                f"{shape.ratio:.2f}x",
                _interval(shape),
                str(shape.runs),
            )
        )
    columns = ("batch x seq", "baseline ms", "model ms", "model p10/p90/p99", "ratio", "95 % interval", "runs")
    result = table("Latency", columns, rows)
    result.caption = (
        f"{report.provider}, {report.threads} threads, {report.machine}; onnxruntime {report.versions['onnxruntime']}; "
        f"interleaved runs, medians{_unless_recorded(report)}"
    )
    result.caption_justify = "left"
    return [result]


def _interval(shape: ShapeLatency) -> str:
    if shape.ratio_low is None:
        return "too few runs"
    return f"{shape.ratio_low:.2f} - {shape.ratio_high:.2f}"


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
