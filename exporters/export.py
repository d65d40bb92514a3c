"""From a run folder to a bundle: export, rewrite, save, and keep what the parity check needs."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch

from .. import __version__
from ..core.families import Family
from ..core.opset import DOMAIN
from ..core.plan import ApproximationPlan
from ..core.progress import Progress
from ..errors import AxformError
from ..files import write_folder
from ..locks import locked
from ..outputs import check_output_folder, mark
from ..runtime.bundle import (
    Bundle,
    FileRecord,
    GraphSize,
    Manifest,
    OpLibrary,
    RewriteSummary,
    file_record,
    write_manifest,
)
from ..runtime.check_data import CheckData, ReferenceBatch, reference_batches
from ..toolchain.apply import apply_plan
from ..toolchain.data import encode
from ..toolchain.models import LoadedModel, load_fine_tuned
from ..toolchain.optimize import max_length, settle_task_data
from ..toolchain.run_folder import RunFolder, RunRecord
from .baseline import export_baseline, named_outputs
from .head_mode import HeadMode
from .rewrites import RewriteReport, prune_heads, shrink_groups, sign_matching, skip_blocks
from .scoped_graph import ScopedGraph

__all__ = ["export", "rewrite", "save_onnx"]

_EXTERNAL_DATA_ABOVE = 2_000_000_000
"""Bytes of weights from which on they go into a file of their own: protobuf ends at 2 GiB."""


def export(
    run_path: Path,
    out: Path,
    *,
    heads: HeadMode = "fold",
    overwrite: bool = False,
    progress: Progress | None = None,
    external_data_above: int = _EXTERNAL_DATA_ABOVE,
) -> tuple[Bundle, list[RewriteReport]]:
    """Make a bundle from a finished run.

    Args:
        heads: how pruned heads are removed; both give the same numbers, ``fold`` is smaller and faster.
        external_data_above: bytes of weights from which on they are stored beside the ONNX file.

    Raises:
        AxformError: an unfinished run, a plan that is not this model's, an output folder that cannot be written, or an
            approximation that the graph does not allow.
    """
    progress = progress or Progress()
    run = RunFolder(run_path)
    record = run.read_record()
    plan = run.read_plan()
    check_output_folder(out, "bundle", overwrite, {"the run": run_path})
    student = load_fine_tuned(run.model)
    _check_belongs(plan, student, run)
    progress.stage("exporting the baseline")
    baseline = export_baseline(load_fine_tuned(run.baseline))
    progress.stage("exporting the approximated model")
    graph = ScopedGraph(export_baseline(student))
    reports = rewrite(graph, plan, student.family, heads)
    progress.stage("recording PyTorch's outputs for the parity check")
    data = _check_data(record, student, plan)
    progress.stage("writing the bundle")
    baseline_graph = ScopedGraph(baseline)
    with locked(out), write_folder(out) as folder:
        mark(folder, "bundle")
        save_onnx(baseline, folder / "baseline.onnx", external_data_above)
        optimized = graph.to_proto()
        save_onnx(optimized, folder / "model.onnx", external_data_above)
        student.model.config.save_pretrained(folder)
        student.tokenizer.save_pretrained(folder)
        data.save(folder / "check.npz")
        files = {path.name: file_record(path) for path in sorted(folder.iterdir())}
        manifest = Manifest(
            axform_version=__version__,
            plan=plan,
            task=record.options.task,
            metric=record.metric,
            labels=list(record.labels),
            max_drop=record.options.max_drop,
            max_length=max_length(None, student),
            baseline_size=_size(baseline, baseline_graph, files, "baseline.onnx"),
            model_size=_size(optimized, graph, files, "model.onnx"),
            rewrites=[_summary(report) for report in reports if report.done],
            op_library=OpLibrary(accelerates=sorted({n.op_type for n in optimized.graph.node if n.domain == DOMAIN})),
            run=record.model_dump(mode="json"),
            files=files,
        )
        write_manifest(folder, manifest)
    return Bundle(out), reports


def rewrite(
    graph: ScopedGraph, plan: ApproximationPlan, family: Family, heads: HeadMode = "fold"
) -> list[RewriteReport]:
    """Run every rewrite.

    Raises:
        AxformError: something that the plan asks for could not be done; all refusals are named.
    """
    reports = [
        skip_blocks(graph, plan, family),
        sign_matching(graph, plan, family),
        prune_heads(graph, plan, family, heads),
        shrink_groups(graph, plan, family),
    ]
    refusals = [
        f"{r.rewrite}, {change.place} ({change.what}): {change.refused}" for r in reports for change in r.refused
    ]
    if refusals:
        raise AxformError("the graph does not allow what the plan asks for:\n  " + "\n  ".join(refusals))
    return reports


def save_onnx(proto: onnx.ModelProto, path: Path, external_data_above: int = _EXTERNAL_DATA_ABOVE) -> None:
    """Write a model, its weights in ``NAME.data`` beside it when they are large, and validate the file."""
    weights = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    if weights > external_data_above:
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        onnx.save_model(copy, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)
    else:
        onnx.save_model(proto, path)
    onnx.checker.check_model(str(path))


def _check_belongs(plan: ApproximationPlan, student: LoadedModel, run: RunFolder) -> None:
    if plan.model != student.identity():
        raise AxformError(
            f"{run.plan_path}: belongs to another model: its fingerprint is {plan.model.fingerprint[:12]}..., that of "
            f"{run.model} is {student.identity().fingerprint[:12]}...; restore both from the same run."
        )


def _check_data(record: RunRecord, student: LoadedModel, plan: ApproximationPlan) -> CheckData:
    options = record.options
    task_data = settle_task_data(options)
    length = max_length(options.max_length or task_data.task.max_length, student)
    split = encode(task_data.task, task_data.report, student.tokenizer, student.inputs, length)
    references = []
    with apply_plan(student.model, plan):
        for indices in reference_batches(split.lengths):
            batch = {name: torch.from_numpy(value) for name, value in split.batch(indices).items()}
            outputs = named_outputs(student.model, batch)
            references.append(ReferenceBatch(indices, {name: value.numpy() for name, value in outputs.items()}))
    return CheckData(split, references)


def _size(proto: onnx.ModelProto, graph: ScopedGraph, files: dict[str, FileRecord], name: str) -> GraphSize:
    return GraphSize(
        parameters=graph.parameters(),
        nodes=len(proto.graph.node),
        bytes=sum(record.bytes for file, record in files.items() if file.startswith(name)),
    )


def _summary(report: RewriteReport) -> RewriteSummary:
    return RewriteSummary(
        rewrite=report.rewrite,
        changes=[(change.place, change.what) for change in report.done],
        nodes_removed=report.nodes_removed,
        parameters_removed=report.parameters_removed,
    )
