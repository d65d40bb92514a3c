"""Weights in fewer bits: codes on disk, which ONNX Runtime decodes to the same floats once, when it makes a session."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from ...core.families import Family
from ...core.opset import DOMAIN
from ...core.plan import ApproximationPlan, Bits
from ...core.quantization import Codes, LayerMatrix, codes_of, layer_matrices, packed
from ..coded_rows import look_up_coded
from ..functions import unpack_bits_function
from ..scoped_graph import RewriteRefused, ScopedGraph, is_matrix, values_of
from .report import Recorder, RewriteReport

__all__ = ["int4_as_streams", "quantize"]

_FLOAT, _INT8 = int(onnx.TensorProto.FLOAT), int(onnx.TensorProto.INT8)


def quantize(graph: ScopedGraph, plan: ApproximationPlan, family: Family) -> RewriteReport:
    """Store weights in the bits that the plan gives them.

    A matrix becomes one piece for each stretch with other bits, and one more where inputs do not divide into whole groups:
      1. codes of 8 and 4 bits as an INT8 or INT4 initializer, others as a stream of bits through ``UnpackBits``;
      2. Cast to float and Mul with the scales, then Concat where there are several pieces.
    All of that is constant, and folded. Of an embedding the codes are gathered as INT8 before they are decoded, so that the
    table stays small in memory, too. What is in no part of the plan stays as it is.
    Refused where a matrix is not as large as what the plan leaves of it.
    """
    recorder = Recorder.begin(graph)
    for index, layer in enumerate(plan.layers):
        for matrix in layer_matrices(family, layer):
            module = family.scope(index, matrix.path)
            bits = ", ".join(segment.said for segment in matrix.segments)
            recorder.attempt(module, bits, partial(_quantize_linear, graph, module, matrix))
    layers = f"{family.base_model}.{family.layers}."
    for module, node in list(_outside(graph, layers)):
        part = plan.word_embeddings if module == family.word_embeddings_scope else plan.rest
        if part is not None:
            change = _quantize_table if node.op == "Gather" else _quantize_product
            recorder.attempt(module, part.said, partial(change, graph, module, node, part))
    return recorder.report("quantize")


def _outside(graph: ScopedGraph, layers: str) -> Iterator[tuple[str, gs.Node]]:
    """Products with weight matrices and tables of embeddings that are in no layer."""
    for node in graph.graph.nodes:
        if node.op in ("MatMul", "Gemm", "Gather"):
            weight, module = node.inputs[0 if node.op == "Gather" else 1], graph.module_of(node)
            if is_matrix(weight) and not module.startswith(layers):
                yield module, node


def _quantize_linear(graph: ScopedGraph, module: str, matrix: LayerMatrix) -> None:
    linear = graph.linear(module)
    weights = linear.weights
    if weights.shape != (len(matrix.outputs), len(matrix.inputs)):
        raise RewriteRefused(
            f"{module} has weights of shape {weights.shape}, and the plan leaves ({len(matrix.outputs)}, "
            f"{len(matrix.inputs)}); with bits, heads are removed by --heads fold"
        )
    pieces: list[gs.Tensor] = []
    done = 0
    for segment in matrix.segments:
        if segment.start > done:
            pieces.append(_floats(graph, module, weights, matrix.axis, (done, segment.start), linear.is_transposed))
        stretch = weights.take(range(segment.start, segment.stop), axis=matrix.axis)
        codes = codes_of(stretch, segment.bits, segment.group)
        pieces.append(_decoded(graph, module, codes, linear.node, linear.is_transposed))
        done = segment.stop
    if done < weights.shape[matrix.axis]:
        end = weights.shape[matrix.axis]
        pieces.append(_floats(graph, module, weights, matrix.axis, (done, end), linear.is_transposed))
    along = matrix.axis if linear.is_transposed else 1 - matrix.axis
    linear.node.inputs[1] = _joined(graph, module, pieces, along, linear.node)


def _quantize_product(graph: ScopedGraph, module: str, node: gs.Node, part: Bits) -> None:
    is_transposed = node.op == "Gemm" and bool(node.attrs.get("transB", 0))
    weights = values_of(node.inputs[1])
    weights = weights if is_transposed else weights.T
    codes = codes_of(np.ascontiguousarray(weights), part.bits, part.group)
    node.inputs[1] = _decoded(graph, module, codes, node, is_transposed)


def _quantize_table(graph: ScopedGraph, module: str, node: gs.Node, part: Bits) -> None:
    if node.attrs.get("axis", 0) != 0:
        raise RewriteRefused(f"{module} is gathered along another axis than its rows")
    codes = codes_of(values_of(node.inputs[0]), part.bits, part.group)
    scales = graph.constant(f"{module}.scales", codes.scales)
    stored = _stored(graph, module, codes.values, codes, scales, node)
    if isinstance(stored, gs.Constant) and codes.bits == 4:
        stored = graph.insert("Cast", f"{module}.int8", [stored], node, to=_INT8)
    look_up_coded(graph, node, module, stored, scales, codes.group if codes.scales.shape[1] > 1 else None)


def _decoded(graph: ScopedGraph, module: str, codes: Codes, node: gs.Node, is_transposed: bool) -> gs.Tensor:
    """The weights as a product reads them: (outputs, inputs) where it transposes them itself, else (inputs, outputs)."""
    outputs, inputs = codes.values.shape
    even = inputs // codes.group
    pieces = []
    for first, last, stop in ((0, even, even * codes.group), (even, codes.scales.shape[1], inputs)):
        if first == last:
            continue
        values, scales = codes.values[:, first * codes.group : stop], codes.scales[:, first:last]
        count = last - first
        if is_transposed:
            values, scales = values.reshape(outputs, count, -1), scales[:, :, None]
        else:
            values, scales = values.T.reshape(count, -1, outputs), scales.T[:, None, :]
        if count == 1:
            axis = 1 if is_transposed else 0
            values, scales = values.squeeze(axis), scales.squeeze(axis)
        factors = graph.constant(f"{module}.scales", scales)
        stored = _stored(graph, module, values, codes, factors, node)
        floats = graph.insert("Cast", f"{module}.float", [stored], node, to=_FLOAT)
        weights = graph.insert("Mul", f"{module}.values", [floats, factors], node)
        if count > 1:
            shape = (outputs, count * codes.group) if is_transposed else (count * codes.group, outputs)
            wanted = graph.constant(f"{module}.shape", np.array(shape, dtype=np.int64))
            weights = graph.insert("Reshape", f"{module}.matrix", [weights, wanted], node)
        pieces.append(weights)
    return _joined(graph, module, pieces, 1 if is_transposed else 0, node)


def _stored(
    graph: ScopedGraph, module: str, values: np.ndarray, codes: Codes, scales: gs.Constant, node: gs.Node
) -> gs.Tensor:
    """Codes of any shape as they lie in the file: INT8, INT4, or a stream of bits with what unpacks it to INT8.

    INT4 only where every dimension is even: OpenVINO 2026.4 computes something else with weights that have an odd one.
    """
    name = f"{module}.codes"
    if codes.bits == 8 or (codes.bits == 4 and all(size % 2 == 0 for size in values.shape)):
        return graph.codes(name, values, codes.bits, scales, codes.group, values.shape, module)
    stream = graph.codes(name, packed(values, codes.bits), codes.bits, scales, codes.group, values.shape, module)
    return _unpacked(graph, module, stream, codes.bits, values.shape, node)


def int4_as_streams(graph: ScopedGraph) -> list[str]:
    """Store what is INT4 as a stream of bits, too, for operators that do not know the type: the modules concerned."""
    modules = []
    for constant, said in graph.codes_in_4_bits():
        (node,) = constant.outputs
        scales = graph.graph.tensors()[said.scales]
        stream = graph.codes(constant.name, packed(constant.values, 4), 4, scales, said.group, said.shape, said.module)
        codes = _unpacked(graph, said.module, stream, 4, said.shape, node)
        node.inputs = [codes if tensor is constant else tensor for tensor in node.inputs]
        modules.append(said.module)
    return modules


def _unpacked(
    graph: ScopedGraph, module: str, stream: gs.Constant, bits: int, shape: Sequence[int], node: gs.Node
) -> gs.Variable:
    graph.add_function(unpack_bits_function())
    unpacked = graph.insert("UnpackBits", f"{module}.int8", [stream], node, bits=bits, shape=list(shape))
    unpacked.inputs[0].domain = DOMAIN
    return unpacked


def _floats(
    graph: ScopedGraph, module: str, weights: np.ndarray, axis: int, where: tuple[int, int], is_transposed: bool
) -> gs.Constant:
    """A stretch that stays as it is."""
    stretch = weights.take(range(*where), axis=axis)
    return graph.constant(f"{module}.kept", stretch if is_transposed else stretch.T)


def _joined(graph: ScopedGraph, module: str, pieces: list[gs.Tensor], axis: int, node: gs.Node) -> gs.Tensor:
    if len(pieces) == 1:
        return pieces[0]
    return graph.insert("Concat", f"{module}.joined", pieces, node, axis=axis)
