"""Checks a model repository, of whatever making: against Triton's schema, against the graphs, and for plain nonsense.

Triton finds much of this, too, but one model at a time, when it loads; duplicates it never finds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from ...errors import AxformError, listed
from .config import WARMUP
from .graph import Graph, read_graph
from .ports import check_ports, check_warmup_input, told
from .schema import CONFIG, read_config

__all__ = ["Checked", "check_repository"]

_BACKEND, _PLATFORM = "onnxruntime", "onnxruntime_onnx"
_DEFAULT_MODEL = "model.onnx"
_VERSION = re.compile("[1-9][0-9]{0,17}")
_NUMBERS = ("intra_op_thread_count", "inter_op_thread_count")
"""Parameters that the backend reads as whole numbers from 0 on."""


@dataclass
class Checked:
    """A model without a fault.

    Attributes:
        notes: what is no fault, but should be known, a sentence each.
    """

    name: str
    inputs: list[str]
    outputs: list[str]
    max_batch: int
    instances: str
    op_library: str
    opset: int | None = None
    notes: list[str] = field(default_factory=list)


def check_repository(repository: Path, shown: Path | None = None) -> list[Checked]:
    """Check every model of a repository.

    Args:
        shown: how errors call the repository, where it does not yet have its name.

    Raises:
        AxformError: the first fault, by its file and field.
    """
    if not repository.is_dir():
        raise AxformError(f"{repository}: no such folder; name a Triton model repository.")
    folders = sorted(path for path in repository.iterdir() if path.is_dir())
    if not folders:
        raise AxformError(f"{repository}: holds no model; each is a folder with {CONFIG} in it.")
    try:
        return [_Model(folder).checked() for folder in folders]
    except AxformError as error:
        if shown is None:
            raise
        raise AxformError(str(error).replace(str(repository), str(shown))) from None


class _Model:
    """A model's folder while it is looked at."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / CONFIG
        self._config = read_config(self._file)

    def checked(self) -> Checked:
        config = self._config
        if config.name not in ("", self._folder.name):
            self._fail("name", f"is {config.name!r}, but Triton wants that of the folder, {self._folder.name!r}")
        if config.max_batch_size < 0:
            self._fail("max_batch_size", f"is {config.max_batch_size}; give 0 for no batches, or the largest")
        self._check_batching()
        self._check_instances()
        result = Checked(
            name=self._folder.name,
            inputs=[told(entry) for entry in config.input],
            outputs=[told(entry) for entry in config.output],
            max_batch=config.max_batch_size,
            instances=_instances(config),
            op_library="",
        )
        if config.backend not in ("", _BACKEND) or config.platform not in ("", _PLATFORM):
            result.notes.append(
                f"backend {config.backend or config.platform}: no ONNX model, so only its schema is checked"
            )
            return result
        if not config.backend and not config.platform:
            self._fail("backend", f"is not given; for an ONNX model it is {_BACKEND}")
        for version in self._versions():
            graph = read_graph(version / (config.default_model_filename or _DEFAULT_MODEL))
            self._check_against(graph, result)
            result.notes += [text for text in self._notes(graph) if text not in result.notes]
        return result

    def _check_against(self, graph: Graph, result: Checked) -> None:
        config = self._config
        makes_inputs = config.HasField("sequence_batching") or config.batch_input  # Triton itself, of these
        inputs = (*graph.inputs, *graph.overridable)
        needed = () if makes_inputs else graph.inputs
        check_ports("input", config.input, inputs, needed, config.max_batch_size, self._fail)
        check_ports("output", config.output, graph.outputs, (), config.max_batch_size, self._fail)
        self._check_labels()
        self._check_warmup()
        self._check_parameters()
        libraries = self._check_libraries()
        if graph.without_body and not libraries:
            names = listed(sorted(graph.without_body))
            self._fail("model_operations", f"names no op library, but the graph needs one for {names}")
        result.opset = graph.opset
        if graph.own_operators:
            result.op_library = "included" if libraries else "no: function bodies"

    def _notes(self, graph: Graph) -> Iterator[str]:
        if not graph.quantizes_while_running:
            return
        if self._config.HasField("dynamic_batching"):
            yield (
                "dynamic_batching: the graph takes its scales over a whole batch (DynamicQuantizeLinear), so that an answer "
                "depends on its neighbours; leave dynamic_batching out"
            )
        else:
            yield (
                "each request runs by itself (no dynamic_batching): int8 takes its scales over a whole batch, and an answer "
                "must not depend on its neighbours"
            )

    def _versions(self) -> list[Path]:
        found = [path for path in self._folder.iterdir() if path.is_dir() and _VERSION.fullmatch(path.name)]
        if not found:
            raise AxformError(f"{self._folder}: has no version; put the model into {self._folder / '1'}.")
        missing = set(self._config.version_policy.specific.versions) - {int(path.name) for path in found}
        if missing:
            self._fail("version_policy.specific.versions", f"names {listed(sorted(missing))}, which is not there")
        return sorted(found, key=lambda path: int(path.name))

    def _check_batching(self) -> None:
        config = self._config
        if not config.HasField("dynamic_batching"):
            return
        if config.max_batch_size == 0:
            self._fail("dynamic_batching", "is given, but max_batch_size is 0; say how large a batch may be")
        for size in config.dynamic_batching.preferred_batch_size:
            if not 1 <= size <= config.max_batch_size:
                self._fail(
                    "dynamic_batching.preferred_batch_size",
                    f"holds {size}; give sizes from 1 to max_batch_size, {config.max_batch_size}",
                )

    def _check_instances(self) -> None:
        for number, group in enumerate(self._config.instance_group):
            where = f"instance_group[{number}]"
            if group.count < 0:
                self._fail(f"{where}.count", f"is {group.count}; give a whole number from 1 on")
            if group.gpus and group.kind == type(group).KIND_CPU:
                self._fail(f"{where}.gpus", "is given, but its kind is KIND_CPU; leave one of them out")
            if len(set(group.gpus)) < len(group.gpus) or min(group.gpus, default=0) < 0:
                self._fail(f"{where}.gpus", f"is {list(group.gpus)}; name each GPU once, by its number from 0 on")

    def _check_labels(self) -> None:
        for number, output in enumerate(self._config.output):
            if not output.label_filename:
                continue
            where = f"output[{number}].label_filename"
            file = self._folder / output.label_filename
            try:
                lines = len(file.read_text(encoding="utf-8").splitlines())
            except (OSError, UnicodeDecodeError):
                self._fail(where, f"names {output.label_filename}, which is no file of text in the model's folder")
            values = prod(output.dims)
            if -1 not in output.dims and lines != values:
                self._fail(
                    where, f"names {output.label_filename} with {lines} lines, but the output has {values} values"
                )

    def _check_warmup(self) -> None:
        config = self._config
        known = {entry.name: entry for entry in config.input}
        for number, warmup in enumerate(config.model_warmup):
            where = f"model_warmup[{number}]"
            most = max(config.max_batch_size, 1)
            if not 1 <= (warmup.batch_size or 1) <= most:
                self._fail(f"{where}.batch_size", f"is {warmup.batch_size}; give a number from 1 to {most}")
            if set(warmup.inputs) != set(known):
                self._fail(f"{where}.inputs", f"are {listed(sorted(warmup.inputs))}; give {listed(sorted(known))}")
            for name, entry in sorted(warmup.inputs.items()):
                check_warmup_input(
                    f"{where}.inputs[{name}]",
                    entry,
                    known[name],
                    self._folder / WARMUP,
                    self._fail,
                )

    def _check_parameters(self) -> None:
        for name in _NUMBERS:
            if name in self._config.parameters:
                value = self._config.parameters[name].string_value
                if not (value.isascii() and value.isdigit()):
                    self._fail(f"parameters[{name}]", f"is {value!r}; give a whole number from 0 on")

    def _check_libraries(self) -> list[str]:
        """Names of op libraries, each of which is there."""
        names = []
        for given in self._config.model_operations.op_library_filename:
            path = PurePosixPath(given)
            if not path.is_absolute():
                self._fail(
                    "model_operations.op_library_filename",
                    f"is {given!r}, which Triton would look for in the folder it is started in; write the full path there",
                )
            if not any(place.is_file() for place in self._places_of(path)):
                self._fail("model_operations.op_library_filename", f"is {given!r}, but there is no such file")
            names.append(path.name)
        return names

    def _places_of(self, path: PurePosixPath) -> list[Path]:
        """Where a file is here that Triton sees under ``path``: in this repository, which it sees elsewhere, or there."""
        name = self._folder.name
        tails: Sequence[str] = path.parts[1:]
        inside = [self._folder.joinpath(*tails[index + 1 :]) for index, part in enumerate(tails) if part == name]
        return [*inside, self._folder.parent / path.name, Path(path)]

    def _fail(self, where: str, what: str) -> NoReturn:
        raise AxformError(f"{self._file}: {where} {what}.")


def _instances(config: Any) -> str:
    told_groups = []
    for group in config.instance_group:
        kind = type(group).Kind.Name(group.kind).removeprefix("KIND_")
        where = f" {','.join(map(str, group.gpus))}" if group.gpus else ""
        told_groups.append(f"{group.count or 1} x {kind}{where}")
    return ", ".join(told_groups) or "1 x AUTO"
