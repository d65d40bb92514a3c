"""Weights that a graph stores as codes (`rewrites/quantize.py`), read back: as integers with scales, or as floats."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from ..core.quantization import fits_16_bits, unpacked
from .scoped_graph import ScopedGraph, values_of

__all__ = ["Integers", "floats_of", "integers_of", "is_coded", "shape_of"]

_FLOAT, _INT8 = int(onnx.TensorProto.FLOAT), int(onnx.TensorProto.INT8)


@dataclass(frozen=True)
class Integers:
    """A matrix of int8 codes with one scale for each output."""

    codes: gs.Tensor
    """(inputs, outputs)."""
    scales: gs.Tensor
    """(outputs,) float32."""


def is_coded(tensor: gs.Tensor) -> bool:
    """Whether a tensor is decoded from codes, all of it constant."""
    made = _maker(tensor)
    if made is None:
        return False
    if made.op == "Mul":
        cast = _maker(made.inputs[0])
        return cast is not None and cast.op == "Cast" and isinstance(made.inputs[1], gs.Constant)
    parts = [tensor for tensor in made.inputs if not isinstance(tensor, gs.Constant)]
    return made.op in ("Reshape", "Concat") and bool(parts) and all(map(is_coded, parts))


def integers_of(graph: ScopedGraph, product: gs.Node) -> Integers | None:
    """The coded weights of a MatMul or Gemm, for a product of integers.

    None where a scale is not a whole output's, or where some processors would cut off sums of these codes.

    Nodes are added that make the codes INT8, (inputs, outputs), all of them constant.
    """
    is_transposed = product.op == "Gemm" and bool(product.attrs.get("transB", 0))
    outputs = 0 if is_transposed else 1
    whole = _maker(product.inputs[1])
    assert whole is not None
    pieces = [whole]
    if whole.op == "Concat":
        if whole.attrs["axis"] != outputs:
            return None
        makers = [_maker(piece) for piece in whole.inputs]
        pieces = [maker for maker in makers if maker is not None]
        if len(pieces) < len(makers):
            return None
    if any(piece.op != "Mul" or piece.inputs[1].shape[1 - outputs] != 1 for piece in pieces):
        return None
    if any(len(piece.inputs[1].shape) != 2 for piece in pieces):
        return None
    name = graph.module_of(product)
    codes = [_maker(piece.inputs[0]).inputs[0] for piece in pieces]  # type: ignore[union-attr]
    matrices = map(floats_of, codes)
    if not all(fits_16_bits(matrix if is_transposed else matrix.T) for matrix in matrices):
        return None
    for index, piece_codes in enumerate(codes):
        if isinstance(piece_codes, gs.Constant) and graph.is_int4(piece_codes):
            codes[index] = graph.insert("Cast", f"{name}.int8", [piece_codes], product, to=_INT8)
    matrix = codes[0] if len(codes) == 1 else graph.insert("Concat", f"{name}.codes", codes, product, axis=outputs)
    if is_transposed:
        matrix = graph.insert("Transpose", f"{name}.turned", [matrix], product, perm=[1, 0])
    flat = graph.constant(f"{name}.flat", np.array([-1]))
    scales = [graph.insert("Reshape", f"{name}.row", [piece.inputs[1], flat], product) for piece in pieces]
    row = scales[0] if len(scales) == 1 else graph.insert("Concat", f"{name}.rows", scales, product, axis=0)
    return Integers(matrix, row)


def floats_of(tensor: gs.Tensor) -> np.ndarray:
    """What a coded or a constant tensor is in float32."""
    if isinstance(tensor, gs.Constant):
        return values_of(tensor)
    node = _maker(tensor)
    assert node is not None
    if node.op == "Concat":
        return np.concatenate([floats_of(part) for part in node.inputs], axis=node.attrs["axis"])
    if node.op == "UnpackBits":
        return unpacked(floats_of(node.inputs[0]), node.attrs["bits"], node.attrs["shape"])
    given = [floats_of(part) for part in node.inputs]
    if node.op == "Mul":
        return given[0] * given[1]
    if node.op == "Reshape":
        return given[0].reshape(given[1])
    assert node.op == "Cast" and node.attrs["to"] == _FLOAT, node.op
    return given[0].astype(np.float32)


def shape_of(tensor: gs.Tensor) -> tuple[int, ...]:
    """Of what `floats_of` gives, without decoding it."""
    if isinstance(tensor, gs.Constant):
        return tuple(tensor.shape)
    node = _maker(tensor)
    assert node is not None
    if node.op == "UnpackBits":
        return tuple(node.attrs["shape"])
    if node.op == "Reshape":
        return tuple(int(size) for size in values_of(node.inputs[1]))
    given = [shape_of(part) for part in node.inputs]
    if node.op == "Concat":
        axis = node.attrs["axis"]
        return (*given[0][:axis], sum(shape[axis] for shape in given), *given[0][axis + 1 :])
    return np.broadcast_shapes(*given)


def _maker(tensor: gs.Tensor) -> gs.Node | None:
    return tensor.inputs[0] if tensor.inputs else None
