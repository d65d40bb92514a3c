"""Operators of ai.axform written out in ONNX's own, for readers that know no functions, such as OpenVINO."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from ..rewrites.report import Recorder, RewriteReport
from ..scoped_graph import RewriteRefused, ScopedGraph

__all__ = ["inline_functions"]

_CONSTANT_VALUES = ("value", "value_float", "value_int", "value_floats", "value_ints")


def inline_functions(graph: ScopedGraph) -> RewriteReport:
    """Put the body of each function where it is called, in the scope of the call.

    Constants of a body become initializers, its attributes those of the call. onnx.inliner does the same, but its nodes
    know neither the torch module that they come from nor a name. Refused where a body says something in words that only
    a node of a function has.
    """
    recorder = Recorder.begin(graph)
    for node in list(graph.graph.nodes):
        function = graph.functions.get((node.domain or "", node.op))
        if function is not None:
            recorder.attempt(graph.module_of(node), f"{node.op} written out", partial(_inline, graph, node, function))
    return recorder.report("inline")


def _inline(graph: ScopedGraph, call: gs.Node, function: onnx.FunctionProto) -> None:
    given = {entry.name: onnx.helper.get_attribute_value(entry) for entry in function.attribute_proto} | call.attrs
    tensors: dict[str, gs.Tensor] = dict(zip(function.input, call.inputs, strict=False))
    (result,) = function.output
    for node in function.node:
        attributes = _attributes(node, given)
        name = f"{call.name}.{node.output[0]}"
        if node.op_type == "Constant":
            tensors[node.output[0]] = graph.constant(name, _value(attributes))
            continue
        inputs = [tensors[name] if name else gs.Variable.empty() for name in node.input]
        outputs = graph.insert_many(node.op_type, name, len(node.output), inputs, call, **attributes)
        tensors |= dict(zip(node.output, outputs, strict=True))
    made = tensors[result]
    assert isinstance(made, gs.Variable)
    graph.take_over(made, call)


def _attributes(node: onnx.NodeProto, given: dict[str, object]) -> dict[str, object]:
    found = {}
    for entry in node.attribute:
        if entry.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
            raise RewriteRefused(f"{node.op_type} holds a graph of its own")
        if not entry.ref_attr_name:
            found[entry.name] = onnx.helper.get_attribute_value(entry)
        elif entry.ref_attr_name in given:
            found[entry.name] = given[entry.ref_attr_name]
    return found


def _value(attributes: dict[str, object]) -> np.ndarray:
    """Of a Constant."""
    ((name, value),) = attributes.items()
    if name not in _CONSTANT_VALUES:
        raise RewriteRefused(f"Constant says its {name}")
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return np.array(value, dtype=np.float32 if "float" in name else np.int64)
