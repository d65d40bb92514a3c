"""Remove weight groups: intermediate neurons of FFN blocks, input features of ATTN blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import onnx_graphsurgeon as gs

from ...core.families import Family
from ...core.plan import ApproximationPlan
from ..scoped_graph import Linear, RewriteRefused, ScopedGraph
from .report import Recorder, RewriteReport

__all__ = ["shrink_groups"]

_ELEMENTWISE = {"Gelu", "Relu", "Sigmoid", "Tanh", "Erf", "Mul", "Add", "Div", "Pow", "HardSwish", "Elu", "Softplus"}
"""Activations, whole or decomposed, that treat each neuron by itself."""


def shrink_groups(graph: ScopedGraph, plan: ApproximationPlan, family: Family) -> RewriteReport:
    """Shrink the blocks whose weight groups the plan prunes.

    FFN block:
      1. keep the remaining neurons' columns of the up projection and of its bias;
      2. keep their rows of the down projection.
    ATTN block:
      1. take the remaining features of the block input once, by a Slice when they are contiguous, else by a Gather;
      2. keep their rows of W_Q, W_K and W_V.
    Refused where anything but elementwise operators lies between the two projections of an FFN block, or where
    queries, keys and values do not read the same tensor.
    """
    recorder = Recorder.begin(graph)
    shape = plan.model.shape
    for index, layer in enumerate(plan.layers):
        if layer.removed("ffn.group"):
            kept = layer.kept("ffn.group")
            recorder.attempt(
                f"layer {index} FFN",
                f"{shape.intermediate_size} -> {len(kept)} neurons",
                partial(_shrink_feed_forward, graph, family, index, kept),
            )
        if layer.removed("attn.in.group"):
            kept = layer.kept("attn.in.group")
            recorder.attempt(
                f"layer {index} ATTN",
                f"{shape.hidden_size} -> {len(kept)} input features",
                partial(_shrink_attention_inputs, graph, family, index, kept),
            )
    return recorder.report("shrink_groups")


def _shrink_feed_forward(graph: ScopedGraph, family: Family, layer: int, kept: Sequence[int]) -> None:
    up, down = (graph.linear(family.scope(layer, path)) for path in (family.up, family.down))
    _check_elementwise(up, down)
    up.keep_outputs(kept)
    down.keep_inputs(kept)


def _check_elementwise(up: Linear, down: Linear) -> None:
    pending, seen = [down.input], set()
    while pending:
        tensor = pending.pop()
        if tensor is up.output or id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if isinstance(tensor, gs.Constant):
            if math.prod(tensor.shape) != 1:
                raise RewriteRefused(
                    f"{down.module} reads a constant of shape {tuple(tensor.shape)} beside {up.module}"
                )
            continue
        producer = tensor.inputs[0] if tensor.inputs else None
        if producer is None or producer.op not in _ELEMENTWISE:
            found = producer.op if producer is not None else "a graph input"
            raise RewriteRefused(f"{found} lies between {up.module} and {down.module}, which is not elementwise")
        pending.extend(producer.inputs)


def _shrink_attention_inputs(graph: ScopedGraph, family: Family, layer: int, kept: Sequence[int]) -> None:
    linears = [graph.linear(family.scope(layer, path)) for path in (family.query, family.key, family.value)]
    source = linears[0].input
    if any(linear.input is not source for linear in linears):
        raise RewriteRefused(f"{linears[0].module} and its keys or values read different tensors")
    taken = _take_features(graph, source, kept, linears[0])
    for linear in linears:
        linear.input = taken
        linear.keep_inputs(kept)


def _take_features(graph: ScopedGraph, source: gs.Tensor, kept: Sequence[int], linear: Linear) -> gs.Variable:
    name, like = f"{linear.module}.kept_features", linear.node
    first, last = kept[0], kept[-1]
    if last - first + 1 == len(kept):
        bounds = [
            graph.constant(f"{name}.{part}", np.array([value]))
            for part, value in (("starts", first), ("ends", last + 1), ("axes", -1))
        ]
        return graph.insert("Slice", name, [source, *bounds], like)
    indices = graph.constant(f"{name}.indices", np.asarray(kept, dtype=np.int64))
    return graph.insert("Gather", name, [source, indices], like, axis=-1)
