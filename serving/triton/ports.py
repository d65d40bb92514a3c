"""Inputs and outputs of a configuration against those of a graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from ...errors import listed
from .graph import GraphPort
from .schema import import_schema

__all__ = ["Fail", "check_ports", "check_warmup_input", "told"]

Fail: TypeAlias = Callable[[str, str], NoReturn]
"""Takes the field, and what is wrong with it."""
_BYTES = {"BOOL": 1, "INT8": 1, "UINT8": 1, "INT16": 2, "UINT16": 2, "FP16": 2, "BF16": 2, "INT32": 4, "UINT32": 4}
_BYTES |= {"FP32": 4, "INT64": 8, "UINT64": 8, "FP64": 8}
"""Of one value; texts have none."""


def told(entry: Any) -> str:
    """An input or output in a few words."""
    return f"{entry.name} {_type_name(entry.data_type).removeprefix('TYPE_')} {list(entry.dims)}"


def check_ports(
    what: str,
    entries: Sequence[Any],
    ports: Sequence[GraphPort],
    needed: Sequence[GraphPort],
    max_batch: int,
    fail: Fail,
) -> None:
    """Compare names, types and dimensions.

    Args:
        what: ``input`` or ``output``.
        ports: those that an entry may be for.
        needed: those of them that there must be an entry for.
    """
    known = {port.name: port for port in ports}
    if not entries:
        fail(what, f"is not given; the graph has {listed(known)}")
    seen: set[str] = set()
    for number, entry in enumerate(entries):
        where = f"{what}[{number}]"
        if entry.name in seen:
            fail(f"{where}.name", f"is {entry.name!r}, which is there already; name each once")
        if entry.name not in known:
            fail(f"{where}.name", f"is {entry.name!r}, which the graph does not have; it has {listed(known)}")
        seen.add(entry.name)
        _check_port(where, entry, known[entry.name], max_batch, what == "input" and entry.allow_ragged_batch, fail)
    missing = [port.name for port in needed if port.name not in seen]
    if missing:
        fail(what, f"does not name {listed(missing)}, without which the graph cannot run")


def check_warmup_input(where: str, entry: Any, known: Any, folder: Path, fail: Fail) -> None:
    """Compare what a warm-up sends with the input that it is for. A data file holds one row, which Triton repeats.

    Args:
        folder: where its data files lie.
    """
    if entry.data_type != known.data_type:
        fail(f"{where}.data_type", f"is {_type_name(entry.data_type)}, but the input is {_type_name(known.data_type)}")
    if not _fits(entry.dims, known.dims) or min(entry.dims, default=1) < 1:
        fail(f"{where}.dims", f"is {list(entry.dims)}, which does not fit the input's {list(known.dims)}")
    if entry.WhichOneof("input_data_type") is None:
        fail(where, "says no data; give zero_data, random_data or input_data_file")
    if entry.WhichOneof("input_data_type") != "input_data_file":
        return
    file = folder / entry.input_data_file
    if not file.is_file():
        fail(f"{where}.input_data_file", f"is {entry.input_data_file!r}, but there is no {file}")
    needed = prod(entry.dims) * _BYTES.get(_type_name(entry.data_type).removeprefix("TYPE_"), 0)
    if file.stat().st_size < needed:
        fail(f"{where}.input_data_file", f"has {file.stat().st_size} bytes, but its type and dims take {needed}")


def _check_port(where: str, entry: Any, port: GraphPort, max_batch: int, is_ragged: bool, fail: Fail) -> None:
    for size in entry.dims:
        if size < 1 and size != -1:
            fail(f"{where}.dims", f"holds {size}; give a size from 1 on, or -1 for a free one")
    if not entry.dims:
        fail(f"{where}.dims", "is not given; where only the batch is left, give [ 1 ] and an empty reshape")
    if port.config_type is None:
        fail(
            f"{where}.name", f"is {port.name!r}, a {port.onnx_type} in the graph, which Triton's backend does not take"
        )
    if _type_name(entry.data_type) != port.config_type:
        fail(f"{where}.data_type", f"is {_type_name(entry.data_type)}, but the graph has {port.config_type}")
    if port.shape is None or is_ragged:
        return
    shape: list[int] = [size if isinstance(size, int) else -1 for size in port.shape]
    if max_batch > 0:
        if not shape or shape[0] != -1:
            fail("max_batch_size", f"is {max_batch}, but the first dimension of {port.name} is fixed; give 0")
        shape = shape[1:]
    dims = list(entry.reshape.shape) if entry.HasField("reshape") else list(entry.dims)
    if not _fits(dims, shape):
        batch = ", the batch left out" if max_batch > 0 else ""
        fail(f"{where}.dims", f"is {dims}, which does not fit {shape} of the graph{batch}")
    if entry.HasField("reshape") and prod(entry.dims) != prod(dims):
        fail(f"{where}.reshape", f"is {dims}, which holds another number of values than dims, {list(entry.dims)}")


def _fits(dims: Sequence[int], shape: Sequence[int]) -> bool:
    """As Triton's backend takes it: a free dimension may be fixed, a fixed one may not be free."""
    return len(dims) == len(shape) and all(size in (-1, given) for given, size in zip(dims, shape, strict=True))


def _type_name(data_type: int) -> str:
    types = import_schema().DataType
    return str(types.Name(data_type)) if data_type in types.values() else str(data_type)
