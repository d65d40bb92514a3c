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
    BASELINE,
    CHECK_DATA,
    MODEL,
    Bundle,
    GraphSize,
    Manifest,
    OpLibrary,
    RewriteSummary,
    write_manifest,
)
from ..runtime.check_data import CheckData, ReferenceBatch, reference_batches
from ..seals import record_files
from ..toolchain.apply import apply_plan
from ..toolchain.run_folder import RunFolder
from .annotations import stored_codes
from .baseline import export_baseline, named_outputs
from .finished_run import FinishedRun
from .head_mode import DEFAULT_HEADS, HeadMode
from .int8_choice import metric_of, stays_float
from .onnx_file import EXTERNAL_DATA_ABOVE, save_in_parts, save_onnx
from .passes import LAYOUT, Subject, asked_passes, lower_opset, run_passes
from .rewrites import REWRITES, RewriteReport, prune_heads
from .scoped_graph import ScopedGraph
from .source import Promise, Source

__all__ = ["export", "export_source", "rewrite", "rewritten"]


def export(
    run_path: Path,
    out: Path,
    *,
    heads: HeadMode = DEFAULT_HEADS,
    precision: Precision = DEFAULT_PRECISION,
    opset: int = OPSET,
    inline: bool = False,
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
        inline: write operators of ai.axform out in ONNX's own, for readers that know no functions.
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
        inline=inline,
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
    inline: bool,
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
        promise = source.promise
        with write_folder(out) as folder:
            unpruned, baseline_size = _written_models(source, folder, opset, external_data_above, progress)
            del source  # its weights are in the graph
            graph, reports = rewritten(unpruned, promise.plan, promise.family, heads)
            del unpruned
            subject = Subject(promise.plan, promise.family)
            reports += run_passes(graph, LAYOUT, subject)
            keep_float: list[str] = []
            if precision == "int8":
                progress.stage("choosing what may be int8")
                keep_float = _stays_float(graph, folder / BASELINE, promise, progress)
            subject = replace(subject, keep_float=tuple(keep_float), opset=opset)
            asked = run_passes(graph, asked_passes(precision, opset, inline), subject)
            reports += refused_none(asked, f"the graph does not allow --precision {precision} in opset {opset}")
            if inline and not asked[-1].done:
                raise AxformError("--inline: the model calls no operator of ai.axform as it is; leave it out.")
            progress.stage("writing the bundle")
            optimized = graph.bare_proto()
            save_in_parts(optimized, graph.weights, folder / MODEL, external_data_above)
            manifest = Manifest(
                axform_version=__version__,
                plan=promise.plan,
                task=promise.task,
                metric=promise.metric,
                labels=list(promise.labels),
                max_drop=promise.max_drop,
                max_length=promise.max_length,
                precision=precision,
                opset=opset,
                inline=inline,
                stays_float=keep_float,
                baseline_size=baseline_size,
                model_size=_size(optimized, graph, folder / MODEL),
                rewrites=[_summary(report) for report in reports if report.done],
                codes=stored_codes(optimized.graph, graph.weights()),
                op_library=OpLibrary(
                    accelerates=sorted({n.op_type for n in optimized.graph.node if n.domain == DOMAIN})
                ),
                files=record_files(folder),
                **promise.from_run,
            )
            write_manifest(folder, manifest)
            mark(folder, "bundle")
    return Bundle(out), reports


def _written_models(
    source: Source, folder: Path, opset: int, external_data_above: int, progress: Progress
) -> tuple[onnx.ModelProto, GraphSize]:
    """All that needs torch: the baseline's file and what goes with the model; the graph to rewrite, the baseline's size."""
    progress.stage("recording PyTorch's outputs for the parity check")
    _check_data(source).save(folder / CHECK_DATA)
    source.student.model.config.save_pretrained(folder)
    source.student.tokenizer.save_pretrained(folder)
    progress.stage("exporting the baseline")
    baseline = export_baseline(source.baseline)
    lowered = baseline if opset == OPSET else _in_opset(baseline, opset)
    save_onnx(lowered, folder / BASELINE, external_data_above)
    size = _size(lowered, ScopedGraph(lowered), folder / BASELINE)
    if source.student is not source.baseline:
        del baseline, lowered
        progress.stage("exporting the approximated model")
        baseline = export_baseline(source.student)
    return baseline, size


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


def _check_data(source: Source) -> CheckData:
    references = []
    rows = source.promise.report
    with apply_plan(source.student.model, source.promise.plan):
        for indices in reference_batches(rows.lengths):
            batch = {name: torch.from_numpy(value) for name, value in rows.batch(indices).items()}
            outputs = named_outputs(source.student.model, batch)
            references.append(ReferenceBatch(indices, {name: value.numpy() for name, value in outputs.items()}))
    return CheckData(rows, references)


def _stays_float(graph: ScopedGraph, baseline: Path, promise: Promise, progress: Progress) -> list[str]:
    rows = promise.selection()
    bound = smallest_accepted(metric_of(baseline, rows, promise.metric), promise.max_drop, promise.plan.focus)
    return stays_float(graph.to_proto(), rows, promise.metric, bound, progress.step)


def _size(proto: onnx.ModelProto, graph: ScopedGraph, file: Path) -> GraphSize:
    return GraphSize(
        parameters=graph.parameters(),
        nodes=len(proto.graph.node),
        bytes=sum(part.stat().st_size for part in file.parent.glob(f"{file.name}*")),
    )


def _summary(report: RewriteReport) -> RewriteSummary:
    return RewriteSummary(
        rewrite=report.rewrite,
        changes=[(change.place, change.what) for change in report.done],
        nodes_removed=report.nodes_removed,
        parameters_removed=report.parameters_removed,
    )
