"""Writing a model piece by piece, so that one as large as half of the memory can still be written.

Protobuf's own way makes the whole file in memory first, and ONNX's checker reads it back for another two times its size.
Here a weight is in memory once more while it is written, and the checker sees all but the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import IO, Any

import onnx
from google.protobuf.message import Message
from onnx import GraphProto, ModelProto, TensorProto

__all__ = ["EXTERNAL_DATA_ABOVE", "save_in_parts", "save_onnx"]

EXTERNAL_DATA_ABOVE = 2_000_000_000
"""Bytes of weights from which on they go into a file of their own: protobuf ends at 2 GiB."""
_SMALLEST_EXTERNAL = 1024
"""Bytes of a weight that leaves the ONNX file."""
_PAGE = 4096
"""Where a weight in a file of its own begins at a multiple of this, a runtime can map it."""
_GRAPH = ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_INITIALIZER = GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
_RAW_DATA = TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number
_LENGTH_DELIMITED = 2


def save_onnx(proto: ModelProto, path: Path, external_data_above: int = EXTERNAL_DATA_ABOVE) -> None:
    """`save_in_parts` of a model that is in memory."""
    save_in_parts(_without_weights(proto), lambda: proto.graph.initializer, path, external_data_above)


def save_in_parts(
    bare: ModelProto,
    weights: Callable[[], Iterable[TensorProto]],
    path: Path,
    external_data_above: int = EXTERNAL_DATA_ABOVE,
) -> None:
    """Validate a model and write it, its weights in ``NAME.data`` beside it when they are large.

    Args:
        bare: the model without initializers.
        weights: begins to give these one after the other, each time the same.

    Raises:
        onnx.checker.ValidationError: the graph is none that ONNX knows.
        OSError: the disk is full.
    """
    described = [_described(tensor) for tensor in weights()]
    _check(bare, [tensor for tensor, _ in described])
    if sum(size for _, size in described) > external_data_above:
        told = _save_external(weights(), path.with_name(f"{path.name}.data"))
        weights, described = partial(iter, told), [_described(tensor) for tensor in told]
    with path.open("wb") as file:
        _write(bare, described, weights(), file)


def _without_weights(proto: ModelProto) -> ModelProto:
    bare = ModelProto()
    _copy_fields(proto, bare, but_for="graph")
    _copy_fields(proto.graph, bare.graph, but_for="initializer")
    return bare


def _copy_fields(source: Any, target: Any, but_for: str) -> None:
    for field, value in source.ListFields():
        if field.name == but_for:
            continue
        if hasattr(value, "extend"):
            getattr(target, field.name).extend(value)
        elif isinstance(value, Message):
            getattr(target, field.name).CopyFrom(value)
        else:
            setattr(target, field.name, value)


def _check(bare: ModelProto, weights: Iterable[TensorProto]) -> None:
    """The checker asks where every value comes from, so weights stand there as inputs."""
    model = ModelProto()
    model.CopyFrom(bare)
    model.graph.input.extend(onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in weights)
    onnx.checker.check_model(model)


def _save_external(weights: Iterable[TensorProto], path: Path) -> list[TensorProto]:
    """Write the values of all but small weights to a file; what the ONNX file says instead."""
    told = []
    with path.open("wb") as file:
        for tensor in weights:
            if len(tensor.raw_data) < _SMALLEST_EXTERNAL:
                told.append(tensor)
                continue
            file.seek(-file.tell() % _PAGE, 1)
            place, size = _described(tensor)
            place.data_location = TensorProto.EXTERNAL
            where = {"location": path.name, "offset": file.tell(), "length": size}
            for key, value in where.items():
                place.external_data.add(key=key, value=str(value))
            file.write(tensor.raw_data)
            told.append(place)
    return told


def _write(
    bare: ModelProto, described: list[tuple[TensorProto, int]], weights: Iterable[TensorProto], file: IO[bytes]
) -> None:
    """Protobuf's encoding: fields of a message may stand in any order, a nested one after its length.

    Of a weight protobuf itself would make two copies, and one to tell its size; here it is the bytes of its values.
    """
    rest = ModelProto()
    _copy_fields(bare, rest, but_for="graph")
    graph = bare.graph.SerializeToString(deterministic=True)
    heads = [_head(tensor, size) for tensor, size in described]
    length = len(graph) + sum(len(head) + size for head, (_, size) in zip(heads, described, strict=True))
    file.write(rest.SerializeToString(deterministic=True))
    file.write(_tag(_GRAPH) + _varint(length) + graph)
    for head, tensor in zip(heads, weights, strict=True):
        file.write(head)
        file.write(tensor.raw_data)


def _described(tensor: TensorProto) -> tuple[TensorProto, int]:
    """An initializer without the bytes of its values, and how many these are.

    Where there are none an empty field of them stays, since it says that an empty tensor is whole.
    """
    described = TensorProto()
    _copy_fields(tensor, described, but_for="raw_data")
    if tensor.HasField("raw_data") and not tensor.raw_data:
        described.raw_data = b""
    return described, len(tensor.raw_data)


def _head(described: TensorProto, size: int) -> bytes:
    """What the file says before the bytes of an initializer's values."""
    encoded = described.SerializeToString(deterministic=True)
    if size:
        encoded += _tag(_RAW_DATA) + _varint(size)
    return _tag(_INITIALIZER) + _varint(len(encoded) + size) + encoded


def _tag(field: int) -> bytes:
    return _varint(field << 3 | _LENGTH_DELIMITED)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
