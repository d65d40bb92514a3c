"""What an ONNX file holds: operators, and the types, values and bytes of its weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path

import onnx

from ..errors import AxformError
from .annotations import CodesAnnotation, annotations_of

__all__ = ["FileContents", "WeightTensor", "contents_of"]

_BITS = {
    name: onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize * 8
    for name, kind in onnx.TensorProto.DataType.items()
    if kind not in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING)
} | {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}


@dataclass(frozen=True)
class WeightTensor:
    """One initializer."""

    name: str
    shape: tuple[int, ...]
    """Of the values, which may lie in the file as a stream of bytes."""
    type: str
    """As ONNX calls it, such as FLOAT or INT8."""
    bits: int
    """Of one value."""
    bytes: int
    """On disk; types of less than a byte are packed."""
    codes: CodesAnnotation | None = None
    """What the file says of codes: their scales, and the module whose weights they are."""

    @property
    def values(self) -> int:
        return prod(self.shape)

    @property
    def kind(self) -> str:
        """The type, and the bits where the type does not say them."""
        return self.type if self.codes is None else f"{self.type}, codes of {self.bits} bits"


@dataclass(frozen=True)
class FileContents:
    """What `contents_of` found."""

    path: Path
    bytes: int
    """Of the file, without weights that lie beside it."""
    producer: str
    opsets: dict[str, int]
    """Domain -> version."""
    inputs: dict[str, str]
    """Name -> type and shape, likewise ``outputs``; ? is a size that the file does not say, ... a whole shape."""
    outputs: dict[str, str]
    operators: Counter[str]
    """Domain and name of each operator, and how many nodes have it."""
    functions: tuple[str, ...]
    """Model-local functions, which any ONNX Runtime runs."""
    weights: tuple[WeightTensor, ...]
    """The largest first."""

    def by_type(self) -> dict[str, list[WeightTensor]]:
        """The weights of each type, those with the most bytes first."""
        types: dict[str, list[WeightTensor]] = {}
        for tensor in self.weights:
            types.setdefault(tensor.kind, []).append(tensor)
        return dict(sorted(types.items(), key=lambda entry: -sum(tensor.bytes for tensor in entry[1])))

    def figures(self) -> dict[str, object]:
        """As JSON."""
        return {**asdict(self), "path": str(self.path), "operators": dict(self.operators)}


def contents_of(path: Path) -> FileContents:
    """Read a file; weights that lie beside it are not needed.

    Raises:
        AxformError: no such file, not an ONNX model, or one with types that the installed onnx does not know.
    """
    if not path.is_file():
        raise AxformError(f"{path}: no such file; name an .onnx file or a bundle folder.")
    try:
        proto = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's errors share no public base class
        raise AxformError(
            f"{path}: not an ONNX model ({str(error) or type(error).__name__}); name another file."
        ) from None
    if not proto.HasField("graph"):
        raise AxformError(f"{path}: not an ONNX model (it has no graph); name another file.")
    graph = proto.graph
    kinds = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    unknown = {*kinds, *(tensor.data_type for tensor in graph.initializer)} - {*onnx.TensorProto.DataType.values()}
    if unknown:
        raise AxformError(
            f"{path}: has numbers of type {min(unknown)}, which onnx {onnx.__version__} does not know; update onnx."
        )
    said = {one.tensor: one for one in annotations_of(graph)}
    weights = [_weight(tensor, said.get(tensor.name)) for tensor in graph.initializer]
    return FileContents(
        path=path,
        bytes=path.stat().st_size,
        producer=proto.producer_name,
        opsets={entry.domain or "ai.onnx": entry.version for entry in proto.opset_import},
        inputs={value.name: _described(value) for value in graph.input},
        outputs={value.name: _described(value) for value in graph.output},
        operators=Counter(_qualified(node.domain, node.op_type) for node in graph.node),
        functions=tuple(_qualified(function.domain, function.name) for function in proto.functions),
        weights=tuple(sorted(weights, key=lambda tensor: -tensor.bytes)),
    )


def _weight(tensor: onnx.TensorProto, codes: CodesAnnotation | None) -> WeightTensor:
    kind, shape = onnx.TensorProto.DataType.Name(tensor.data_type), tuple(tensor.dims)
    stored = (prod(shape) * _BITS.get(kind, 0) + 7) // 8
    if codes is None:
        return WeightTensor(tensor.name, shape, kind, _BITS.get(kind, 0), stored)
    return WeightTensor(tensor.name, codes.shape, kind, codes.bits, stored, codes)


def _qualified(domain: str, name: str) -> str:
    return f"{domain}::{name}" if domain not in ("", "ai.onnx") else name


def _described(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    sizes = [
        size.dim_param or (str(size.dim_value) if size.HasField("dim_value") else "?") for size in tensor.shape.dim
    ]
    shape = ", ".join(sizes) if tensor.HasField("shape") else "..."
    return f"{onnx.TensorProto.DataType.Name(tensor.elem_type)} ({shape})"
