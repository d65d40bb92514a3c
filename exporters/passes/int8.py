"""Linears and word embeddings in int8, in standard ONNX that every ONNX Runtime has fast kernels for."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from ..rewrites.report import Recorder, RewriteReport
from ..scoped_graph import ScopedGraph

__all__ = ["int8_places", "to_int8"]

_LARGEST_CODE = 127
_FEWEST_OUTPUTS = 16
"""A linear with fewer, such as a classifier, costs no time and decides everything: it stays float."""
_SMALLEST_TABLE = 1 << 20
"""Values of an embedding that is worth it: word embeddings, not positions."""


def int8_places(graph: ScopedGraph) -> list[str]:
    """The linears and embeddings that `to_int8` would change, by the path of their torch module."""
    return [place for place, _ in _places(graph)]


def to_int8(graph: ScopedGraph, keep_float: Collection[str] = ()) -> RewriteReport:
    """Let linears multiply 8-bit integers, and store word embeddings as such.

    A linear with weights W, (inputs, outputs), becomes
      1. DynamicQuantizeLinear of its input: uint8 with one scale for the whole tensor, found at run time;
      2. MatMulInteger with W as int8, symmetric, one scale for each output;
      3. Cast to float and Mul with both scales, then the bias as before.
    An embedding table becomes int8 with one scale a row, both gathered before they are multiplied. No calibration is
    needed.

    Args:
        keep_float: places, as `int8_places` names them, that stay as they are.
    """
    recorder = Recorder.begin(graph)
    for place, node in list(_places(graph)):
        if place not in keep_float:
            change = _quantize_table if node.op == "Gather" else _quantize_product
            shape = " x ".join(map(str, node.inputs[_weight_of(node)].values.shape))
            recorder.attempt(place, f"{shape} in int8", partial(change, graph, node))
    return recorder.report("int8")


def _places(graph: ScopedGraph) -> Iterator[tuple[str, gs.Node]]:
    for node in graph.graph.nodes:
        if node.op not in ("MatMul", "Gemm", "Gather"):
            continue
        weight = node.inputs[_weight_of(node)]
        if not isinstance(weight, gs.Constant) or weight.values.ndim != 2 or weight.values.dtype != np.float32:
            continue
        outputs = weight.values.shape[0 if _is_transposed(node) else 1]
        if weight.values.size >= _SMALLEST_TABLE if node.op == "Gather" else outputs >= _FEWEST_OUTPUTS:
            yield graph.module_of(node), node


def _weight_of(node: gs.Node) -> int:
    return 0 if node.op == "Gather" else 1


def _is_transposed(node: gs.Node) -> bool:
    return node.op == "Gemm" and bool(node.attrs.get("transB", 0))


def _codes(weights: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """int8 codes and their scales: one for all values along ``axis``, which stays with size 1."""
    largest = np.abs(weights).max(axis=axis, keepdims=True)
    scales = np.where(largest > 0, largest / _LARGEST_CODE, 1).astype(np.float32)
    return np.rint(weights / scales).astype(np.int8), scales


def _quantize_table(graph: ScopedGraph, node: gs.Node) -> None:
    table, rows = node.inputs
    codes, scales = _codes(table.values, axis=1)
    gather = partial(graph.insert, "Gather", like=node, axis=0)
    chosen = gather(f"{table.name}.codes", [graph.constant(f"{table.name}.int8", codes), rows])
    factors = gather(f"{table.name}.factors", [graph.constant(f"{table.name}.scales", scales), rows])
    values = graph.insert("Cast", f"{table.name}.float", [chosen], node, to=int(onnx.TensorProto.FLOAT))
    graph.take_over(graph.insert("Mul", f"{table.name}.values", [values, factors], node), node)


def _quantize_product(graph: ScopedGraph, node: gs.Node) -> None:
    weight = node.inputs[1]
    weights = weight.values.T if _is_transposed(node) else weight.values
    codes, scales = _codes(weights, axis=0)
    name = graph.module_of(node) or weight.name
    quantized, scale, zero = graph.insert_many("DynamicQuantizeLinear", f"{name}.input", 3, [node.inputs[0]], node)
    product = graph.insert(
        "MatMulInteger", f"{name}.product", [quantized, graph.constant(f"{name}.int8", codes), zero], node
    )
    values = graph.insert("Cast", f"{name}.float", [product], node, to=int(onnx.TensorProto.FLOAT))
    factors = graph.insert("Mul", f"{name}.factors", [scale, graph.constant(f"{name}.scales", scales[0])], node)
    result = graph.insert("Mul", f"{name}.values", [values, factors], node)
    if node.op == "Gemm" and len(node.inputs) > 2:
        result = graph.insert("Add", f"{name}.biased", [result, node.inputs[2]], node)
    graph.take_over(result, node)
