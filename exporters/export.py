"""From a model and its plan to a bundle: export, rewrite, save, and keep what the parity check needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import onnx
import torch

from .. import __version__
from ..core.bounds import smallest_accepted
from ..core.families import Family
from ..core.opset import DOMAIN, OLDEST_OPSET, OPSET
from ..core.plan import ApproximationPlan
from ..core.precision import DEFAULT_PRECISION, Precision
from ..core.progress import Progress
from ..errors import AxformError
from ..files import write_folder
from ..locks import locked
from ..outputs import check_output_folder, mark
from ..runtime.bundle import (
    Bundle,
    GraphSize,
    Manifest,
    OpLibrary,
    RewriteSummary,
    write_manifest,
)
from ..runtime.check_data import CheckData, ReferenceBatch, reference_batches
from ..seals import FileRecord, record_files
from ..toolchain.apply import apply_plan
from ..toolchain.run_folder import RunFolder
from .annotations import stored_codes
from .baseline import export_baseline, named_outputs
from .finished_run import FinishedRun
from .head_mode import DEFAULT_HEADS, HeadMode
from .int8_choice import metric_of, stays_float
from .passes import LAYOUT, Subject, asked_passes, lower_opset, run_passes
from .rewrites import REWRITES, RewriteReport, prune_heads
from .scoped_graph import ScopedGraph
from .source import Source

__all__ = ["EXTERNAL_DATA_ABOVE", "export", "export_source", "rewrite", "rewritten", "save_onnx"]

EXTERNAL_DATA_ABOVE = 2_000_000_000
"""Bytes of weights from which on they go into a file of their own: protobuf ends at 2 GiB."""


def export(
    run_path: Path,
    out: Path,
    *,
    heads: HeadMode = DEFAULT_HEADS,
    precision: Precision = DEFAULT_PRECISION,
    opset: int = OPSET,
    step: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    external_data_above: int = EXTERNAL_DATA_ABOVE,
) -> tuple[Bundle, list[RewriteReport]]:
    """Make a bundle from a finished run.

    Args:
        heads: how pruned heads are removed; both give the same numbers, ``fold`` is smaller and faster.
        precision: of model.onnx. What int8 would cost too much on the rows that judged trials stays float; fp16 and bf16
            are for CUDA.
        opset: of ONNX's operators, for runtimes that know no newer one; both files are written in it.
        step: the round to export; None = the one that counts.
        external_data_above: bytes of weights from which on they are stored beside the ONNX file.

    Raises:
        AxformError: an unfinished run, a plan that is not this model's, an output folder that cannot be written, or an
            approximation that the graph does not allow.
    """
    progress = progress or Progress()
    folders = RunFolder(run_path).read_record().options.folders

    def read() -> Source:
        progress.stage("reading the run")
        return FinishedRun(RunFolder(run_path), step).source()

    return export_source(
        read,
        out,
        keep={"the run": run_path, **folders},
        heads=heads,
        precision=precision,
        opset=opset,
        overwrite=overwrite,
        progress=progress,
        external_data_above=external_data_above,
    )


def export_source(
    read: Callable[[], Source],
    out: Path,
    *,
    keep: Mapping[str, Path],
    heads: HeadMode,
    precision: Precision,
    opset: int,
    overwrite: bool,
    progress: Progress,
    external_data_above: int,
) -> tuple[Bundle, list[RewriteReport]]:
    """Make a bundle from what ``read`` gives, which is called when ``out`` is known to be free.

    Args:
        keep: what the bundle must not replace, by what a message calls it.

    Other arguments, and errors, are those of `export`.
    """
    if not OLDEST_OPSET <= opset <= OPSET:
        raise AxformError(f"--opset {opset}: files are written in the opsets {OLDEST_OPSET} to {OPSET}.")
    check_output_folder(out, "bundle", overwrite, keep)
    with locked(out):
        source = read()
        progress.stage("exporting the baseline")
        baseline = export_baseline(source.baseline)
        progress.stage("exporting the approximated model")
        unpruned = baseline if source.student is source.baseline else export_baseline(source.student)
        graph, reports = rewritten(unpruned, source.plan, source.student.family, heads)
        subject = Subject(source.plan, source.student.family)
        reports += run_passes(graph, LAYOUT, subject)
        keep_float: list[str] = []
        if precision == "int8":
            keep_float = _stays_float(graph, baseline, source, progress)
        subject = replace(subject, keep_float=tuple(keep_float), opset=opset)
        asked = run_passes(graph, asked_passes(precision, opset), subject)
        reports += refused_none(asked, f"the graph does not allow --precision {precision} in opset {opset}")
        if opset != OPSET:
            baseline = _in_opset(baseline, opset)
        progress.stage("recording PyTorch's outputs for the parity check")
        data = _check_data(source)
        progress.stage("writing the bundle")
        with write_folder(out) as folder:
            optimized = graph.to_proto()
            save_onnx(baseline, folder / "baseline.onnx", external_data_above)
            save_onnx(optimized, folder / "model.onnx", external_data_above)
            source.student.model.config.save_pretrained(folder)
            source.student.tokenizer.save_pretrained(folder)
            data.save(folder / "check.npz")
            files = record_files(folder)
            manifest = Manifest(
                axform_version=__version__,
                plan=source.plan,
                task=source.task,
                metric=source.metric,
                labels=list(source.labels),
                max_drop=source.max_drop,
                max_length=source.student.max_length(None),
                precision=precision,
                opset=opset,
                stays_float=keep_float,
                baseline_size=_size(baseline, ScopedGraph(baseline), files, "baseline.onnx"),
                model_size=_size(optimized, graph, files, "model.onnx"),
                rewrites=[_summary(report) for report in reports if report.done],
                codes=stored_codes(optimized.graph),
                op_library=OpLibrary(
                    accelerates=sorted({n.op_type for n in optimized.graph.node if n.domain == DOMAIN})
                ),
                files=files,
                **source.from_run,
            )
            write_manifest(folder, manifest)
            mark(folder, "bundle")
    return Bundle(out), reports


def rewritten(
    proto: onnx.ModelProto, plan: ApproximationPlan, family: Family, heads: HeadMode = DEFAULT_HEADS
) -> tuple[ScopedGraph, list[RewriteReport]]:
    """A copy of an exported graph without what the plan removes, and what each rewrite did."""
    graph = ScopedGraph(proto)
    return graph, rewrite(graph, plan, family, heads)


def rewrite(
    graph: ScopedGraph, plan: ApproximationPlan, family: Family, heads: HeadMode = DEFAULT_HEADS
) -> list[RewriteReport]:
    """Run every rewrite.

    Raises:
        AxformError: something that the plan asks for could not be done; all refusals are named.
    """
    rewrites = REWRITES | {"prune_heads": partial(prune_heads, mode=heads)}
    reports = [run(graph, plan, family) for run in rewrites.values()]
    return refused_none(reports, "the graph does not allow what the plan asks for")


def _in_opset(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    graph = ScopedGraph(proto)
    refused_none([lower_opset(graph, opset)], f"the unpruned graph does not allow --opset {opset}")
    return graph.to_proto()


def refused_none(reports: list[RewriteReport], message: str) -> list[RewriteReport]:
    """The reports, if all was done that was asked for.

    Raises:
        AxformError: with ``message`` and all refusals.
    """
    refusals = [
        f"{r.rewrite}, {change.place} ({change.what}): {change.refused}" for r in reports for change in r.refused
    ]
    if refusals:
        raise AxformError(f"{message}:\n  " + "\n  ".join(refusals))
    return reports


def save_onnx(proto: onnx.ModelProto, path: Path, external_data_above: int = EXTERNAL_DATA_ABOVE) -> None:
    """Write a model, its weights in ``NAME.data`` beside it when they are large, and validate the file."""
    weights = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    if weights > external_data_above:
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        onnx.save_model(copy, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)
    else:
        onnx.save_model(proto, path)
    onnx.checker.check_model(str(path))


def _check_data(source: Source) -> CheckData:
    references = []
    with apply_plan(source.student.model, source.plan):
        for indices in reference_batches(source.report.lengths):
            batch = {name: torch.from_numpy(value) for name, value in source.report.batch(indices).items()}
            outputs = named_outputs(source.student.model, batch)
            references.append(ReferenceBatch(indices, {name: value.numpy() for name, value in outputs.items()}))
    return CheckData(source.report, references)


def _stays_float(graph: ScopedGraph, baseline: onnx.ModelProto, source: Source, progress: Progress) -> list[str]:
    progress.stage("choosing what may be int8")
    rows = source.selection()
    bound = smallest_accepted(metric_of(baseline, rows, source.metric), source.max_drop, source.plan.focus)
    return stays_float(graph.to_proto(), rows, source.metric, bound, progress.step)


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
