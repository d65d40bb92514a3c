"""Exporting a plan that did not come from a run: written by hand or by another tool, for a fine-tuned model."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ..core.opset import OPSET
from ..core.plan import ApproximationPlan, ModelIdentity
from ..core.precision import DEFAULT_PRECISION, Precision
from ..core.progress import Progress
from ..errors import AxformError
from ..runtime.bundle import Bundle
from ..toolchain.data import encode_judging, settle_task_data
from ..toolchain.models import load_for_task
from ..toolchain.options import DEFAULTS, OptimizeOptions, checked_options
from .export import export_source
from .head_mode import DEFAULT_HEADS, HeadMode
from .onnx_file import EXTERNAL_DATA_ABOVE
from .rewrites import RewriteReport
from .source import Promise, Source

__all__ = ["export_plan"]


def export_plan(
    model: str,
    plan_path: Path,
    out: Path,
    *,
    task: str | None = None,
    data: str | None = None,
    text_columns: tuple[str, ...] = (),
    label_column: str | None = None,
    max_length: int | None = DEFAULTS["max_length"],
    max_drop: float = DEFAULTS["max_drop"],
    heads: HeadMode = DEFAULT_HEADS,
    precision: Precision = DEFAULT_PRECISION,
    opset: int = OPSET,
    inline: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    external_data_above: int = EXTERNAL_DATA_ABOVE,
) -> tuple[Bundle, list[RewriteReport]]:
    """Make a bundle from a fine-tuned model, which is its baseline, and a plan for it.

    Args:
        model: folder or hub name.
        task: None = the plan's own.
        data: folder with the task's files, of which the reported split is used; None = the hub.
        max_length: tokens per sample; None = the task's own, at most what the model can take.
        max_drop: what `axform check` allows the metric to fall by, as a share of the baseline's.

    Other arguments, and errors, are those of `export`.

    Raises:
        AxformError: a plan that cannot be read or is for another model, no task, or a model that was not fine-tuned
            for it.
    """
    progress = progress or Progress()
    plan = ApproximationPlan.load(plan_path)
    if task is None and plan.task is None:
        raise AxformError(f"{plan_path}: names no task; say which with --task.")
    options = checked_options(
        model=model,
        task=plan.task if task is None else task,
        data=data,
        text_columns=text_columns,
        label_column=label_column,
        max_length=max_length,
        max_drop=max_drop,
    )
    return export_source(
        lambda: _read(options, plan, plan_path, progress),
        out,
        keep={"the plan": plan_path, **options.folders},
        heads=heads,
        precision=precision,
        opset=opset,
        inline=inline,
        overwrite=overwrite,
        progress=progress,
        external_data_above=external_data_above,
    )


def _read(options: OptimizeOptions, plan: ApproximationPlan, plan_path: Path, progress: Progress) -> Source:
    progress.stage("reading the model and the data")
    data = settle_task_data(options)
    for remark in data.remarks:
        progress.message(remark)
    loaded = load_for_task(options.model, data.task, data.num_labels)
    if not loaded.has_trained_head:
        raise AxformError(
            f"model {options.model!r}: has no trained sequence classification head; give a model that was fine-tuned for "
            f"{data.task.name}, or find a plan with `axform optimize`."
        )
    identity = loaded.identity()
    _check_for_model(plan.model, plan_path, identity, options.model)
    length = loaded.max_length(options.max_length or data.task.max_length)
    encoded = partial(encode_judging, data.task, tokenizer=loaded.tokenizer, inputs=loaded.inputs, max_length=length)
    promise = Promise(
        plan=plan.for_model(identity),
        family=loaded.family,
        selection=partial(encoded, frame=data.selection),
        report=encoded(frame=data.report),
        task=data.task.name,
        metric=data.task.metric,
        labels=data.task.labels,
        max_drop=options.max_drop,
        max_length=loaded.max_length(None),
        from_run={},
    )
    return Source(loaded, loaded, promise)


def _check_for_model(wanted: ModelIdentity, plan_path: Path, found: ModelIdentity, model: str) -> None:
    for name in ModelIdentity.model_fields:
        expected, actual = getattr(wanted, name), getattr(found, name)
        if expected not in (actual, ""):
            hint = (
                ", or leave the fingerprint out if the plan is for other weights, too" if name == "fingerprint" else ""
            )
            raise AxformError(
                f"{plan_path}: a plan for another model: its {name} is {expected}, that of {model!r} is {actual}; give "
                f"the model that it was made for{hint}."
            )
