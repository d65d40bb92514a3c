"""The sections of a report: each what the bundle knows, or the command that would bring it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..core.intervals import CONFIDENCE
from ..runtime.bundle import Manifest, StoredCodes
from ..runtime.parity import NumericParity, ParityReport
from .recorded import Recorded
from .tables import (
    Table,
    change_of,
    count,
    interval,
    megabytes,
    metric_name,
    percent,
    points,
    signed_points,
)

__all__ = ["LEVEL", "Figure", "Section", "machine_section", "proof_section", "size_section"]

LEVEL = f"{100 * CONFIDENCE:.0f} %"
"""Of every interval."""
_MOST_CHANGES = 16
"""Of one rewrite that are listed."""


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
        ("", "baseline.onnx", "model.onnx", "change", f"{LEVEL} interval", "bound", "result"),
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
    changed = "none" if not numeric.changed else f"{100 * numeric.changed:.1f} %"
    return (
        what,
        f"{numeric.max_abs_error:.1e}",
        f"{numeric.tolerance:.1e}",
        f"{count(numeric.samples)} in {count(numeric.batches)} batches",
        "-" if numeric.changed is None else changed,
        f"row {numeric.worst_sample}, {numeric.worst_output}",
        _result(numeric.passed),
    )


def _result(passed: bool) -> str:
    return "passes" if passed else "FAILS"


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
