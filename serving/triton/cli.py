"""The command ``axform triton``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...console import note, out, table
from ...errors import AxformError
from ..settings import named_bundles
from .settings import DEFAULTS, TritonSettings

if TYPE_CHECKING:
    from .check import Checked

__all__ = ["triton_command"]

_TAG = "26.05-py3"
"""Of NVIDIA's tritonserver image, from May 2026, with ONNX Runtime 1.24, which knows every opset that axform writes."""
_RUN = "How it runs"
_PORTS = (8000, 8001, 8002)


def triton_command(
    bundles: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="BUNDLE...",
            help="Bundle folders made by axform-export; a model is called as its folder, or NAME=FOLDER.",
        ),
    ] = None,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Model repository to write.")] = None,
    check: Annotated[
        Path | None,
        typer.Option("--check", metavar="REPO", help="Check this repository, of whatever making, and write nothing."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model, where there is one bundle.")] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace the repository, if axform wrote it and nobody changed it since."),
    ] = False,
    gpus: Annotated[
        int, typer.Option(help="GPUs that each model runs on; 0 for the CPU.", rich_help_panel=_RUN)
    ] = DEFAULTS.gpus,
    instances: Annotated[
        int, typer.Option(help="Of each model, on each GPU; they run at once.", rich_help_panel=_RUN)
    ] = DEFAULTS.instances,
    threads: Annotated[
        int | None,
        typer.Option(
            help="Threads inside one operator, 0 for all cores; default all cores for one instance, one for each of several.",
            rich_help_panel=_RUN,
        ),
    ] = DEFAULTS.threads,
    max_batch: Annotated[
        int, typer.Option(help="Rows that run together, and rows of one request.", rich_help_panel=_RUN)
    ] = DEFAULTS.max_batch,
    max_delay_ms: Annotated[
        float, typer.Option(help="How long a request waits for others of its shape.", rich_help_panel=_RUN)
    ] = DEFAULTS.max_delay_ms,
    mounted_at: Annotated[
        str,
        typer.Option(
            help="Where Triton sees the repository; the op library is named by its full path there.",
            rich_help_panel=_RUN,
        ),
    ] = DEFAULTS.mounted_at,
) -> None:
    """Make a model repository for NVIDIA Triton's ONNX Runtime backend out of bundles, and check it.

    Each model gets a config.pbtxt, its labels, a warm-up, and the op library where the graph gains from it. Types, names and
    dimensions are compared with the graph. int8 models get no dynamic batching: an answer would depend on its neighbours.

    Example: axform triton bundles/sst2 --out repo; after a change by hand: axform triton --check repo
    """
    if check is not None:
        if bundles or out_dir is not None:
            raise AxformError("--check: checks a repository that is there; leave bundles and --out away.")
        from .check import check_repository

        _show(check_repository(check), check)
        return
    if not bundles:
        raise AxformError("axform triton: name a bundle, or a repository with --check.")
    if out_dir is None:
        raise AxformError("--out: is missing; name the repository to write.")
    if name is not None:
        if len(bundles) > 1:
            raise AxformError(f"--name {name}: is for one bundle; name several as NAME=FOLDER.")
        bundles = [f"{name}={bundles[0]}"]
    settings = TritonSettings(
        gpus=gpus,
        instances=instances,
        threads=threads,
        max_batch=max_batch,
        max_delay_ms=max_delay_ms,
        mounted_at=mounted_at,
    )
    from .repository import write_repository

    models = write_repository(named_bundles(bundles), out_dir, settings, overwrite)
    _show(models, out_dir)
    opset = max(model.opset or 0 for model in models)
    said = f"To serve it; TRITON_IMAGE is NVIDIA's tritonserver, {_TAG} or one whose ONNX Runtime knows opset {opset}:"
    out.print(said, soft_wrap=True)
    out.print(_docker_command(out_dir, settings), soft_wrap=True)


def _show(models: Sequence[Checked], repository: Path) -> None:
    rows = [
        (
            model.name,
            "\n".join(model.inputs),
            "\n".join(model.outputs),
            str(model.max_batch),
            model.instances,
            model.op_library or "not needed",
        )
        for model in models
    ]
    out.print(
        table(
            f"Triton repository {repository}",
            ("model", "inputs", "outputs", "max batch", "instances", "op library"),
            rows,
        )
    )
    for model in models:
        for text in model.notes:
            note(f"{model.name}: {text}")


def _docker_command(repository: Path, settings: TritonSettings) -> str:
    """What would serve it, on this machine's own address."""
    ports = [word for port in _PORTS for word in ("-p", f"127.0.0.1:{port}:{port}")]
    gpus = ["--gpus", str(settings.gpus)] if settings.gpus else []
    where = f"{repository.resolve()}:{settings.mounted_at}:ro"
    docker = shlex.join(["docker", "run", "--rm", *gpus, *ports, "-v", where])
    return f'{docker} "$TRITON_IMAGE" {shlex.join(["tritonserver", f"--model-repository={settings.mounted_at}"])}'
