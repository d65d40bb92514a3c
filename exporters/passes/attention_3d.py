"""Attention on (batch, sequence, hidden size), without the transposes and reshapes around it."""

from __future__ import annotations

from functools import partial

import onnx_graphsurgeon as gs

from ...core.families import Family
from ...core.plan import ApproximationPlan
from ..rewrites.report import Recorder, RewriteReport
from ..scoped_graph import RewriteRefused, ScopedGraph

__all__ = ["attention_3d"]

_HEADS_FIRST = [0, 2, 1, 3]


def attention_3d(graph: ScopedGraph, plan: ApproximationPlan, family: Family) -> RewriteReport:
    """Give every standard Attention its queries, keys and values as the projections make them.

    Split into heads, queries are (batch, heads, sequence, head size), which takes a Reshape and a Transpose each, and two
    more for the context. ONNX Attention takes (batch, sequence, heads x head size) as well, with the numbers of heads as
    attributes. Refused where anything else stands around an Attention.
    """
    recorder = Recorder.begin(graph)
    for index, layer in enumerate(plan.layers):
        for node in list(graph.nodes_in(family.scope(index, family.attention_core), "Attention")):
            heads = len(layer.kept("attn.head")) // plan.model.shape.head_size
            recorder.attempt(f"layer {index} ATTN", f"3-D, {heads} heads", partial(_flatten, node, heads))
    return recorder.report("attention_3d")


def _flatten(attention: gs.Node, heads: int) -> None:
    if any(not tensor.is_empty() for tensor in attention.inputs[4:]) or len(attention.outputs) != 1:
        raise RewriteRefused("it has past keys or more than one output")
    projections = [_before_split(tensor) for tensor in attention.inputs[:3]]
    merge = _only_consumer(_only_consumer(attention, "Transpose"), "Reshape")
    attention.inputs = [*projections, *attention.inputs[3:]]
    attention.attrs |= {"q_num_heads": heads, "kv_num_heads": heads}
    context = merge.outputs[0]
    merge.outputs.clear()
    attention.outputs = [context]


def _before_split(tensor: gs.Tensor) -> gs.Tensor:
    transpose = _maker(tensor, "Transpose")
    if list(transpose.attrs["perm"]) != _HEADS_FIRST:
        raise RewriteRefused(f"{tensor.name} is transposed by {list(transpose.attrs['perm'])}, not {_HEADS_FIRST}")
    return _maker(transpose.inputs[0], "Reshape").inputs[0]


def _maker(tensor: gs.Tensor, op: str) -> gs.Node:
    found = [node.op for node in tensor.inputs]
    if found != [op]:
        raise RewriteRefused(f"{tensor.name} comes from {', '.join(found) or 'outside'} where a {op} is needed")
    return tensor.inputs[0]


def _only_consumer(node: gs.Node, op: str) -> gs.Node:
    consumers = list(node.outputs[0].outputs)
    if [consumer.op for consumer in consumers] != [op]:
        found = ", ".join(consumer.op for consumer in consumers) or "nothing"
        raise RewriteRefused(f"{node.op} feeds {found} where a single {op} is needed")
    if op == "Transpose" and list(consumers[0].attrs["perm"]) != _HEADS_FIRST:
        raise RewriteRefused(f"its context is transposed by {list(consumers[0].attrs['perm'])}, not {_HEADS_FIRST}")
    return consumers[0]
