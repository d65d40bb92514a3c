"""Writing a model repository: whole or not at all, and only in the place of what axform wrote itself."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from ... import custom_ops
from ...errors import AxformError
from ...files import real_path, write_folder, write_text
from ...locks import locked
from ...outputs import OutputKind, check_output_folder, holds_files, mark
from ...runtime.bundle import MODEL, Bundle
from ...seals import seal, touched
from .check import Checked, check_repository
from .config import LABELS, WARMUP, labelled_output, make_config, signature_of_graph, warmup_data
from .graph import Graph, read_graph
from .schema import CONFIG, import_schema, written
from .settings import TritonSettings

__all__ = ["VERSION", "write_repository"]

VERSION = "1"
_KIND: OutputKind = "Triton repository"
_OF_GPUS = ("fp16", "bf16")


def write_repository(
    bundles: Mapping[str, str], out: Path, settings: TritonSettings, overwrite: bool = False
) -> list[Checked]:
    """Make a repository of bundles, each under its name, and check what was written.

    Raises:
        AxformError: no bundle, a damaged one or one that Triton cannot take, a setting out of range, or a folder that
            cannot be written or must not be replaced.
    """
    settings.check()
    import_schema()
    opened = {name: Bundle(Path(folder)) for name, folder in bundles.items()}
    check_output_folder(out, _KIND, overwrite, {f"the bundle {name}": bundle.path for name, bundle in opened.items()})
    _check_untouched(real_path(out))
    for bundle in opened.values():
        bundle.verify()
    with locked(out), write_folder(out) as staging:
        for name, bundle in opened.items():
            _write_model(staging / name, name, bundle, settings)
        mark(staging, _KIND)
        checked = check_repository(staging, shown=out)
        seal(staging)
    for model in checked:
        precision = opened[model.name].manifest.precision
        if precision in _OF_GPUS and not settings.gpus:
            model.notes.append(f"{precision} is made for CUDA, and few operators have it on the CPU; give --gpus 1")
    return checked


def _check_untouched(out: Path) -> None:
    """What somebody added or changed by hand is theirs, and no --overwrite takes it away."""
    what = touched(out) if holds_files(out) else None
    if what is not None:
        raise AxformError(
            f"{out}: {what}, so that replacing it would lose work; name another --out, or delete it yourself."
        )


def _write_model(folder: Path, name: str, bundle: Bundle, settings: TritonSettings) -> None:
    version = folder / VERSION
    version.mkdir(parents=True)
    graph = read_graph(bundle.model)
    signature = signature_of_graph(graph, bundle, settings.max_batch)
    for file in (MODEL, *graph.external):
        _link_or_copy(bundle.path / file, version / file)
    library = _op_library(graph, settings)
    if library is not None:
        shutil.copyfile(library, folder / library.name)
    config = make_config(name, signature, bundle, settings, None if library is None else library.name)
    labels = bundle.manifest.labels
    if labelled_output(signature, labels) is not None:
        write_text(folder / LABELS, "".join(" ".join(label.split()) + "\n" for label in labels))
    data = warmup_data(signature, settings.max_batch)
    if data:
        (folder / WARMUP).mkdir()
    for file, content in data.items():
        (folder / WARMUP / file).write_bytes(content)
    write_text(folder / CONFIG, written(config))


def _link_or_copy(source: Path, target: Path) -> None:
    """The same file under another name where the file system can do that: nothing changes a bundle in place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _op_library(graph: Graph, settings: TritonSettings) -> Path | None:
    """The op library where the model gains from it: Triton runs on Linux, and on a GPU a CPU kernel would be in the way.

    Raises:
        AxformError: the model cannot do without it, and there is none.
    """
    usable = bool(graph.own_operators) and sys.platform == "linux" and custom_ops.is_available()
    if usable and settings.gpus:
        usable = custom_ops.build_info()["cuda_version"] is not None
    if graph.without_body and not usable:
        raise AxformError(
            f"{graph.path}: {', '.join(sorted(graph.without_body))} has no function body in the file, and there is no op "
            "library for this device; see `axform ops`, or export it again with axform-export."
        )
    return custom_ops.get_library_path() if usable else None
