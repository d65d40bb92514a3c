"""The command line of the exporter: ``axform-export``, which is also ``axform export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..console import out as console
from ..console import run_app, showing_progress, table
from ..core.opset import OLDEST_OPSET, OPSET
from ..core.precision import DEFAULT_PRECISION, Precision
from ..errors import AxformError
from ..toolchain.options import DEFAULTS
from .head_mode import DEFAULT_HEADS, HeadMode

if TYPE_CHECKING:
    from ..runtime.bundle import Bundle
    from .rewrites import RewriteReport

__all__ = ["export_command", "main", "show_export"]

_PLAN = "A plan of your own"
_MOST_CHANGES = 30
"""Of one rewrite that are printed one by one."""


def export_command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN|MODEL",
            help="Run folder made by `axform optimize`; with --plan a fine-tuned model, folder or hub name.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Bundle folder to write.")],
    heads: Annotated[
        HeadMode,
        typer.Option(
            help="How pruned heads are removed: fold slices the output projection, pad keeps it and pads the context "
            "with zeros (the paper's form). Both give the same numbers; fold is smaller and faster."
        ),
    ] = DEFAULT_HEADS,
    precision: Annotated[
        Precision,
        typer.Option(
            help="float32; int8: products of 8-bit integers and word embeddings in 8 bits, a quarter of the file. "
            "Nothing is calibrated; layers that would cost the task too much on the rows that judged trials stay float. "
            "fp16 and bf16: half of the file, for CUDA."
        ),
    ] = DEFAULT_PRECISION,
    opset: Annotated[
        int,
        typer.Option(
            help=f"Of ONNX's operators, {OLDEST_OPSET} to {OPSET}: an older one for runtimes that know no newer."
        ),
    ] = OPSET,
    inline: Annotated[
        bool,
        typer.Option(
            "--inline",
            help="Write operators of ai.axform (sign-matching and hard attention, weights in 5 to 7 bits) out in ONNX's own, "
            "for readers that know no functions, such as OpenVINO. The op library cannot make them faster then.",
        ),
    ] = False,
    step: Annotated[
        int | None,
        typer.Option(help="Round to export, as `axform pareto` numbers them; default the last that kept the bound."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle folder if it exists.")] = False,
    plan: Annotated[
        Path | None,
        typer.Option(help="plan.json that did not come from a run: what to remove from MODEL.", rich_help_panel=_PLAN),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Task of the model; default the plan's own.", rich_help_panel=_PLAN)
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Folder with train.* and validation.*; default: the hub.", rich_help_panel=_PLAN),
    ] = None,
    text_columns: Annotated[
        str | None, typer.Option(help="One text column, or two for a pair: a,b.", rich_help_panel=_PLAN)
    ] = None,
    label_column: Annotated[str | None, typer.Option(help="Column of the labels.", rich_help_panel=_PLAN)] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens per sample; default the task's own.", rich_help_panel=_PLAN)
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="What `axform check` lets the metric fall by, as a share of the baseline's; default "
            f"{DEFAULTS['max_drop']}.",
            rich_help_panel=_PLAN,
        ),
    ] = None,
) -> None:
    """Turn a finished run, or a model and a plan, into a bundle: model.onnx, baseline.onnx, axform.json, tokenizer, config.

    Example: axform-export runs/sst2 --out bundles/sst2

    Without a run: axform-export my-model --plan plan.json --task glue/sst2 --data data --out bundles/mine

    The plan names the parts to remove, e.g. for a BERT: {"schema_version": 2, "model": {"family": "bert", "num_layers":
    12, "num_heads": 12, "hidden_size": 768, "intermediate_size": 3072}, "group_size": 256, "parts": [{"target":
    "layer.11.ffn", "action": "remove"}, {"target": "layer.3.attn.head.2", "action": "remove"}]}
    """
    of_plan = {
        "task": task,
        "data": data,
        "text_columns": None if text_columns is None else tuple(text_columns.split(",")),
        "label_column": label_column,
        "max_length": max_length,
        "max_drop": max_drop,
    }
    given: dict[str, Any] = {name: value for name, value in of_plan.items() if value is not None}
    if plan is None and given:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        raise AxformError(f"{flags}: only with --plan; a run keeps what it was made with.")
    if plan is not None and step is not None:
        raise AxformError(f"--step {step}: is a round of a run; leave it out with --plan.")
    with showing_progress() as progress:
        if plan is None:
            from .export import export

            made = export(
                Path(source),
                out,
                heads=heads,
                precision=precision,
                opset=opset,
                inline=inline,
                step=step,
                overwrite=overwrite,
                progress=progress,
            )
        else:
            from .given_plan import export_plan

            made = export_plan(
                source,
                plan,
                out,
                heads=heads,
                precision=precision,
                opset=opset,
                inline=inline,
                overwrite=overwrite,
                progress=progress,
                **given,
            )
    show_export(*made)


def show_export(bundle: Bundle, reports: list[RewriteReport]) -> None:
    """Print what each rewrite did and how the sizes compare."""
    rows = []
    for report in reports:
        if len(report.done) > _MOST_CHANGES:
            what = f"{len(report.done)} places, listed in axform.json"
            rows.append((report.rewrite, what, str(report.nodes_removed), f"{report.parameters_removed:,}"))
            continue
        for number, change in enumerate(report.done):
            figures = (str(report.nodes_removed), f"{report.parameters_removed:,}") if number == 0 else ("", "")
            rows.append((report.rewrite if number == 0 else "", f"{change.place}: {change.what}", *figures))
    if rows:
        console.print(table("Rewrites", ("rewrite", "what", "nodes removed", "parameters removed"), rows))
    else:
        console.print("The plan removes nothing; model.onnx is the unpruned graph with the final weights.")
    for report in reports:
        for change in report.refused:
            console.print(f"{report.rewrite}, {change.place}: left as it is, {change.refused}")
    if bundle.manifest.stays_float:
        console.print(f"Float as before, since int8 would cost too much: {', '.join(bundle.manifest.stays_float)}")
    baseline, model = bundle.manifest.baseline_size, bundle.manifest.model_size
    console.print(
        table(
            f"Bundle {bundle.path}",
            ("", "baseline.onnx", "model.onnx", "ratio"),
            (
                (
                    "parameters",
                    f"{baseline.parameters:,}",
                    f"{model.parameters:,}",
                    f"{baseline.parameters / model.parameters:.2f}x",
                ),
                ("nodes", str(baseline.nodes), str(model.nodes), f"{baseline.nodes / model.nodes:.2f}x"),
                (
                    "size",
                    f"{baseline.bytes / 1e6:.1f} MB",
                    f"{model.bytes / 1e6:.1f} MB",
                    f"{baseline.bytes / model.bytes:.2f}x",
                ),
            ),
        )
    )


_app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
_app.command()(export_command)


def main() -> None:
    """Entry point of ``axform-export``."""
    run_app(_app)
