"""The command line of the exporter: ``axform-export``, which is also ``axform export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..console import out as console
from ..console import run_app, showing_progress, table
from .head_mode import DEFAULT_HEADS, HeadMode

if TYPE_CHECKING:
    from ..runtime.bundle import Bundle
    from .rewrites import RewriteReport

__all__ = ["export_command", "main", "show_export"]


def export_command(
    run: Annotated[Path, typer.Argument(help="Run folder made by `axform optimize`.")],
    out: Annotated[Path, typer.Option(help="Bundle folder to write.")],
    heads: Annotated[
        HeadMode,
        typer.Option(
            help="How pruned heads are removed: fold slices the output projection, pad keeps it and pads the context "
            "with zeros (the paper's form). Both give the same numbers; fold is smaller and faster."
        ),
    ] = DEFAULT_HEADS,
    step: Annotated[
        int | None,
        typer.Option(help="Round to export, as `axform pareto` numbers them; default the last that kept the bound."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle folder if it exists.")] = False,
) -> None:
    """Turn a finished run into a bundle: model.onnx, baseline.onnx, axform.json, tokenizer and config.

    Example: axform-export runs/sst2 --out bundles/sst2
    """
    from .export import export

    with showing_progress() as progress:
        bundle, reports = export(run, out, heads=heads, step=step, overwrite=overwrite, progress=progress)
    show_export(bundle, reports)


def show_export(bundle: Bundle, reports: list[RewriteReport]) -> None:
    """Print what each rewrite did and how the sizes compare."""
    rows = []
    for report in reports:
        for number, change in enumerate(report.done):
            figures = (str(report.nodes_removed), f"{report.parameters_removed:,}") if number == 0 else ("", "")
            rows.append((report.rewrite if number == 0 else "", f"{change.place}: {change.what}", *figures))
    if rows:
        console.print(table("Rewrites", ("rewrite", "what", "nodes removed", "parameters removed"), rows))
    else:
        console.print("The plan removes nothing; model.onnx is the unpruned graph with the final weights.")
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
