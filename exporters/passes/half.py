"""A model in 16 bits: float16 or bfloat16 from the embeddings to the outputs, which stay float32."""

from __future__ import annotations

from typing import Literal

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs

from ..rewrites.report import Change, Recorder, RewriteReport
from ..scoped_graph import ScopedGraph, type_of, values_of

__all__ = ["HalfPrecision", "to_half"]

HalfPrecision = Literal["fp16", "bf16"]
_TYPES: dict[HalfPrecision, int] = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}
_NUMPY: dict[HalfPrecision, type] = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}
_MAKES_FLOATS = {
    "ConstantOfShape",
    "EyeLike",
    "RandomNormal",
    "RandomUniform",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
}
"""Operators whose output has a type that no input says."""


def to_half(graph: ScopedGraph, kind: HalfPrecision) -> RewriteReport:
    """Store every float32 weight in 16 bits, and let operators compute on them.

    What needs more is inside operators that have it: LayerNormalization finds mean and variance in float32 (stash_type
    1), Attention its softmax, products their sums. Masks are boolean, so that no large negative number overflows.
    Inputs stay integers and outputs float32. Nothing is changed, and the reason given, where a weight is larger than
    the type can say, or where an operator makes floats of its own.
    """
    recorder = Recorder.begin(graph)
    refusals = [*_too_large(graph, kind), *_makers_of_floats(graph, kind)]
    if refusals:
        recorder.changes += refusals
        return recorder.report(kind)
    for node in graph.graph.nodes:
        for tensor in node.inputs:
            if _is_float(tensor) and len(tensor.shape) == 2:
                shape = " x ".join(map(str, tensor.shape))
                recorder.changes.append(Change(graph.module_of(node) or tensor.name, f"{shape} in {kind}"))
    _convert_weights(graph, kind)
    _convert_casts(graph, kind)
    _keep_outputs(graph)
    return recorder.report(kind)


def _is_float(tensor: gs.Tensor) -> bool:
    return isinstance(tensor, gs.Constant) and type_of(tensor) == np.float32


def _too_large(graph: ScopedGraph, kind: HalfPrecision) -> list[Change]:
    weights = {id(t): t for node in graph.graph.nodes for t in node.inputs if _is_float(t)}
    found = []
    for tensor in weights.values():
        values = values_of(tensor)
        finite = np.abs(values[np.isfinite(values)])
        if finite.size and finite.max() > ml_dtypes.finfo(_NUMPY[kind]).max:
            found.append(Change(tensor.name, kind, f"holds {finite.max():.3g}, which {kind} cannot say"))
    return found


def _makers_of_floats(graph: ScopedGraph, kind: HalfPrecision) -> list[Change]:
    return [
        Change(node.name, kind, f"{node.op} makes numbers of a type of its own")
        for node in graph.graph.nodes
        if node.op in _MAKES_FLOATS
    ]


def _convert_weights(graph: ScopedGraph, kind: HalfPrecision) -> None:
    converted: dict[int, gs.Constant] = {}
    for node in graph.graph.nodes:
        for index, tensor in enumerate(node.inputs):
            if _is_float(tensor):
                if id(tensor) not in converted:
                    values: np.ndarray = values_of(tensor).astype(_NUMPY[kind])
                    converted[id(tensor)] = graph.constant(f"{tensor.name}.{kind}", values)
                    graph.scales_are_now(converted[id(tensor)], tensor)
                node.inputs[index] = converted[id(tensor)]


def _convert_casts(graph: ScopedGraph, kind: HalfPrecision) -> None:
    for node in graph.graph.nodes:
        if node.op == "Cast" and node.attrs["to"] in (onnx.TensorProto.FLOAT, np.float32):
            node.attrs["to"] = _TYPES[kind]


def _keep_outputs(graph: ScopedGraph) -> None:
    """Let outputs be float32 under the names that they have."""
    for output in graph.graph.outputs:
        if output.dtype == np.float32:
            (maker,), users = output.inputs, list(output.outputs)
            inner = gs.Variable(f"{output.name}.half")
            maker.outputs = [inner if tensor is output else tensor for tensor in maker.outputs]
            for user in users:
                user.inputs = [inner if tensor is output else tensor for tensor in user.inputs]
            result = graph.insert("Cast", f"{output.name}.float32", [inner], to=int(onnx.TensorProto.FLOAT))
            (cast,) = result.inputs
            cast.outputs = [output]
