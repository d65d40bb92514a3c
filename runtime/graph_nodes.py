"""The nodes of an ONNX file, read without the onnx package and without its weights.

An ONNX file is a protobuf message, and the wire format of those says how long each field is. So the nodes are found by
skipping everything else, in a file that is mapped into memory: gigabytes of weights are never read.
"""

from __future__ import annotations

import ast
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..core.opset import SCOPES

__all__ = ["GraphNode", "read_nodes"]

_GRAPH_OF_MODEL, _NODE_OF_GRAPH = 7, 1
_INPUT, _OUTPUT, _NAME, _OPERATOR, _METADATA = 1, 2, 3, 4, 9
_KEY, _VALUE = 1, 2
"""Numbers of the fields in onnx.proto that are read here."""
_VARINT, _64_BITS, _WITH_LENGTH, _32_BITS = 0, 1, 2, 5
"""Kinds of fields in the wire format."""


@dataclass(frozen=True)
class GraphNode:
    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    module: str | None
    """Path of the innermost torch module that it came from, empty for the whole model; None where the file says none."""


def read_nodes(file: Path) -> list[GraphNode]:
    """The nodes of the main graph, in the file's order; none of a file that is no ONNX protobuf."""
    with file.open("rb") as opened:
        try:
            data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # an empty file
            return []
    with data:
        try:
            return [
                _node(data, *node)
                for number, *graph in _fields(data, 0, len(data))
                if number == _GRAPH_OF_MODEL
                for number, *node in _fields(data, *graph)
                if number == _NODE_OF_GRAPH
            ]
        except (ValueError, IndexError, SyntaxError):
            return []


def _node(data: mmap.mmap, start: int, end: int) -> GraphNode:
    texts: dict[int, list[str]] = {_INPUT: [], _OUTPUT: [], _NAME: [], _OPERATOR: []}
    module: str | None = None
    for number, first, last in _fields(data, start, end):
        if number in texts:
            texts[number].append(data[first:last].decode())
        elif number == _METADATA:
            entry = {number: data[begin:stop].decode() for number, begin, stop in _fields(data, first, last)}
            if entry.get(_KEY) == SCOPES:
                module = _module(entry.get(_VALUE, ""))
    return GraphNode(
        "".join(texts[_NAME]), "".join(texts[_OPERATOR]), tuple(texts[_INPUT]), tuple(texts[_OUTPUT]), module
    )


def _module(scopes: str) -> str:
    """The innermost of the modules, before the node's own name.

    The first is the model itself, whose path is empty; torch writes something else there for what it computes outside.
    """
    *modules, _ = ast.literal_eval(scopes)
    return modules[-1] if modules and modules[0] == "" else ""


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, where it begins, where it ends) of the fields that have a length; the others hold nothing of interest."""
    position = start
    while position < end:
        tag, position = _varint(data, position)
        kind = tag & 7
        if kind == _VARINT:
            _, position = _varint(data, position)
        elif kind == _64_BITS:
            position += 8
        elif kind == _32_BITS:
            position += 4
        elif kind == _WITH_LENGTH:
            length, position = _varint(data, position)
            yield tag >> 3, position, position + length
            position += length
        else:
            raise ValueError(f"no kind of field: {kind}")
    if position != end:
        raise ValueError("a field ends behind what holds it")


def _varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
