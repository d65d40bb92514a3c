"""The graph in an older version of ONNX's operators, for runtimes that know no newer one."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from ...core.opset import OPSET
from ..rewrites.quantize import int4_as_streams
from ..rewrites.report import Change, Recorder, RewriteReport
from ..scoped_graph import RewriteRefused, ScopedGraph, type_of

__all__ = ["lower_opset"]

_FIRST_OF_TYPE = {
    onnx.TensorProto.UINT4: 21,
    onnx.TensorProto.INT4: 21,
    onnx.TensorProto.UINT2: 25,
    onnx.TensorProto.INT2: 25,
}
"""Version of ONNX's operators that knows weights of this type first."""


def lower_opset(graph: ScopedGraph, version: int) -> RewriteReport:
    """Write a graph of opset 23 in an older one, of 18 or later.

      1. Attention, which came with 23, becomes the products and the softmax that it stands for; a query whose keys are all
         masked gets zeros;
      2. Gelu, which came with 20, becomes x / 2 (1 + erf(x / sqrt 2));
      3. weights in INT4, which came with 21, become streams of bits;
      4. what newer operators only say in other words is said in the older ones, and function bodies, which need no
         operator later than 18, import that version.
    Refused where a node or a weight has no older form.
    """
    recorder = Recorder.begin(graph)
    for node in list(graph.graph.nodes):
        if version < 23 and node.op == "Attention" and not node.domain:
            recorder.attempt(graph.module_of(node), "Attention written out", partial(_write_out, graph, node))
        elif version < 20 and node.op == "Gelu" and not node.domain:
            recorder.attempt(graph.module_of(node), "Gelu written out", partial(_write_out_gelu, graph, node))
    if version < _FIRST_OF_TYPE[onnx.TensorProto.INT4]:
        recorder.changes += [Change(module, "codes of 4 bits as a stream") for module in int4_as_streams(graph)]
    graph.tidy()
    for node in graph.graph.nodes:
        if not node.domain:
            recorder.changes += _unknown(node, version)
    graph.set_opset(version)
    return recorder.report("opset")


def _unknown(node: gs.Node, version: int) -> list[Change]:
    """What of a node an older opset has no word for, once attributes that say what was always so are gone."""
    place = node.name or node.op
    try:
        schema = onnx.defs.get_schema(node.op, version)
    except onnx.defs.SchemaError:
        return [Change(place, node.op, f"opset {version} has no {node.op}")]
    defaults = {name: onnx.helper.get_attribute_value(a.default_value) for name, a in _attributes(node.op).items()}
    for name in set(node.attrs) - set(schema.attributes):
        if node.attrs[name] != defaults.get(name):
            return [Change(place, node.op, f"opset {version} has no {name} for {node.op}")]
        del node.attrs[name]
    types = {type_of(t) for t in node.inputs if isinstance(t, gs.Constant)}
    needed = [_FIRST_OF_TYPE.get(onnx.helper.np_dtype_to_tensor_dtype(kind), 0) for kind in types]
    if max(needed, default=0) > version:
        return [Change(place, node.op, f"its weights are of a type that came with opset {max(needed)}")]
    return []


def _attributes(op: str) -> dict[str, onnx.defs.OpSchema.Attribute]:
    return {name: a for name, a in onnx.defs.get_schema(op, OPSET).attributes.items() if a.default_value.name}


def _write_out(graph: ScopedGraph, node: gs.Node) -> None:
    if len(node.outputs) != 1 or any(not tensor.is_empty() for tensor in node.inputs[4:]):
        raise RewriteRefused("it has past keys or more than one output")
    heads, scale = node.attrs.get("q_num_heads"), node.attrs.get("scale")
    if not scale or node.attrs.get("is_causal") or node.attrs.get("softcap"):
        raise RewriteRefused("it has no scale, or a causal mask or a cap")
    if heads != node.attrs.get("kv_num_heads"):
        raise RewriteRefused("its queries have other heads than its keys")
    name = node.outputs[0].name
    q, k, v = node.inputs[:3]
    if heads:
        sizes = graph.constant(f"{name}.heads", np.array([0, 0, heads, -1]))
        q, k, v = (
            graph.insert("Reshape", f"{name}.{each}", [t, sizes], node)
            for each, t in zip("qkv", (q, k, v), strict=True)
        )
        q, v = (
            graph.insert("Transpose", f"{name}.{each}t", [t], node, perm=[0, 2, 1, 3])
            for each, t in (("q", q), ("v", v))
        )
    keys = graph.insert("Transpose", f"{name}.kt", [k], node, perm=[0, 2, 3, 1] if heads else [0, 1, 3, 2])
    products = graph.insert("MatMul", f"{name}.products", [q, keys], node)
    weights = graph.insert(
        "Mul", f"{name}.scores", [products, graph.constant(f"{name}.scale", np.array(scale, np.float32))], node
    )
    mask = node.inputs[3] if len(node.inputs) > 3 and not node.inputs[3].is_empty() else None
    if mask is not None:
        nothing = graph.constant(f"{name}.nothing", np.array(-np.inf, np.float32))
        weights = graph.insert("Where", f"{name}.masked", [mask, weights, nothing], node)
    weights = graph.insert("Softmax", f"{name}.weights", [weights], node, axis=-1)
    if mask is not None:
        zero = graph.constant(f"{name}.zero", np.array(0, np.float32))
        weights = graph.insert("Where", f"{name}.visible", [mask, weights, zero], node)
    context = graph.insert("MatMul", f"{name}.context", [weights, v], node)
    if heads:
        context = graph.insert("Transpose", f"{name}.contextt", [context], node, perm=[0, 2, 1, 3])
        context = graph.insert(
            "Reshape", f"{name}.merged", [context, graph.constant(f"{name}.whole", np.array([0, 0, -1]))], node
        )
    graph.take_over(context, node)


def _write_out_gelu(graph: ScopedGraph, node: gs.Node) -> None:
    if node.attrs.get("approximate", "none") not in ("none", b"none"):
        raise RewriteRefused("it is the approximate form")
    x, name = node.inputs[0], node.outputs[0].name

    def number(what: str, value: float) -> gs.Constant:
        return graph.constant(f"{name}.{what}", np.array(value, np.float32))

    scaled = graph.insert("Mul", f"{name}.scaled", [x, number("root", np.sqrt(0.5))], node)
    error = graph.insert("Erf", f"{name}.erf", [scaled], node)
    above = graph.insert("Add", f"{name}.above", [error, number("one", 1)], node)
    half = graph.insert("Mul", f"{name}.half", [x, number("half_of", 0.5)], node)
    graph.take_over(graph.insert("Mul", f"{name}.gelu", [half, above], node), node)
