"""Linears and word embeddings in int8, in standard ONNX that every ONNX Runtime has fast kernels for."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from functools import partial

import onnx
import onnx_graphsurgeon as gs

from ...core.quantization import codes_of, product_codes_of
from ...core.techniques import MOST_BITS
from ..coded_rows import look_up_coded
from ..coded_weights import Integers, floats_of, integers_of, is_coded, shape_of
from ..rewrites.report import Recorder, RewriteReport
from ..scoped_graph import ScopedGraph, is_matrix, values_of

__all__ = ["int8_places", "to_int8"]

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
      2. MatMulInteger with W as int8, symmetric, one scale for each output, so that no processor cuts off a sum;
      3. Cast to float and Mul with both scales, then the bias as before.
    Weights that the plan gave their bits already are multiplied as the codes they are; only where codes share scales over
    fewer inputs than all, or sums could be cut off, they are coded anew. An embedding table becomes int8 with one scale a
    row, both gathered before they are multiplied. No calibration is needed.

    Args:
        keep_float: places, as `int8_places` names them, that stay as they are.
    """
    recorder = Recorder.begin(graph)
    for place, node in list(_places(graph)):
        if place not in keep_float:
            change = _quantize_table if node.op == "Gather" else _quantize_product
            weight = node.inputs[_weight_of(node)]
            what = " x ".join(map(str, weight.shape)) if isinstance(weight, gs.Constant) else "codes"
            recorder.attempt(place, f"{what} in int8", partial(change, graph, node))
    return recorder.report("int8")


def _places(graph: ScopedGraph) -> Iterator[tuple[str, gs.Node]]:
    scales = {said.scales for said in graph.annotations}  # those of a table by groups are a table, too
    for node in graph.graph.nodes:
        if node.op not in ("MatMul", "Gemm", "Gather"):
            continue
        weight = node.inputs[_weight_of(node)]
        is_product = node.op != "Gather"
        if is_product and is_coded(weight):
            shape = shape_of(weight)
        elif is_matrix(weight) and weight.name not in scales:
            shape = weight.shape
        else:
            continue
        outputs = shape[0 if _is_transposed(node) else 1]
        if outputs >= _FEWEST_OUTPUTS if is_product else math.prod(weight.shape) >= _SMALLEST_TABLE:
            yield graph.module_of(node), node


def _weight_of(node: gs.Node) -> int:
    return 0 if node.op == "Gather" else 1


def _is_transposed(node: gs.Node) -> bool:
    return node.op == "Gemm" and bool(node.attrs.get("transB", 0))


def _quantize_table(graph: ScopedGraph, node: gs.Node) -> None:
    table = node.inputs[0]
    codes = codes_of(values_of(table), MOST_BITS)
    stored, scales = (
        graph.constant(f"{table.name}.int8", codes.values),
        graph.scales(f"{table.name}.scales", codes.scales),
    )
    look_up_coded(graph, node, table.name, stored, scales)


def _quantize_product(graph: ScopedGraph, node: gs.Node) -> None:
    weight = node.inputs[1]
    name = graph.module_of(node) or weight.name
    found = integers_of(graph, node) if is_coded(weight) else None
    if found is None:
        floats = floats_of(weight)
        codes = product_codes_of(floats if _is_transposed(node) else floats.T)
        scales = graph.scales(f"{name}.scales", codes.scales[:, 0])
        found = Integers(graph.constant(f"{name}.int8", codes.values.T), scales)
    quantized, scale, zero = graph.insert_many("DynamicQuantizeLinear", f"{name}.input", 3, [node.inputs[0]], node)
    product = graph.insert("MatMulInteger", f"{name}.product", [quantized, found.codes, zero], node)
    values = graph.insert("Cast", f"{name}.float", [product], node, to=int(onnx.TensorProto.FLOAT))
    factors = graph.insert("Mul", f"{name}.factors", [scale, found.scales], node)
    result = graph.insert("Mul", f"{name}.values", [values, factors], node)
    if node.op == "Gemm" and len(node.inputs) > 2:
        result = graph.insert("Add", f"{name}.biased", [result, node.inputs[2]], node)
    graph.take_over(result, node)
