"""Remove attention heads, and fit the output projection by slicing it or by padding its input."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import onnx_graphsurgeon as gs

from ...core.families import Family, ModelShape
from ...core.plan import ApproximationPlan, LayerPlan
from ..head_mode import DEFAULT_HEADS, HeadMode
from ..scoped_graph import Linear, RewriteRefused, ScopedGraph
from .report import Recorder, RewriteReport

__all__ = ["prune_heads"]


def prune_heads(
    graph: ScopedGraph, plan: ApproximationPlan, family: Family, mode: HeadMode = DEFAULT_HEADS
) -> RewriteReport:
    """Remove the heads that the plan prunes.

      1. keep the remaining heads' columns of W_Q, W_K and W_V and of their biases;
      2. let the Reshape that splits the heads find their number by itself;
      3. ``fold``: keep the remaining heads' rows of W_O. ``pad``: append one head of zeros to the context and gather,
         so that each missing head reads zeros (AxFormer v1).
    Refused where the heads are not split by a Reshape to (batch, sequence, heads, head size).
    """
    recorder = Recorder.begin(graph)
    shape = plan.model.shape
    for index, layer in enumerate(plan.layers):
        pruned = layer.removed("attn.head")
        if pruned:
            recorder.attempt(
                f"layer {index} ATTN",
                f"{shape.num_heads} -> {shape.num_heads - len(pruned)} heads ({mode})",
                partial(_prune, graph, family, index, layer, shape, mode),
            )
    return recorder.report("prune_heads")


def _prune(graph: ScopedGraph, family: Family, index: int, layer: LayerPlan, shape: ModelShape, mode: HeadMode) -> None:
    linears = [graph.linear(family.scope(index, path)) for path in (family.query, family.key, family.value)]
    output = graph.linear(family.scope(index, family.attention_output))
    splits = [_head_split(linear, shape) for linear in linears]
    kept = layer.kept("attn.head")
    for linear, split in zip(linears, splits, strict=True):
        linear.keep_outputs(kept)
        _let_heads_be_inferred(graph, split)
    if mode == "fold":
        output.keep_inputs(kept)
    else:
        output.input = _pad_heads(graph, output, shape, layer.removed("attn.head"))


def _head_split(linear: Linear, shape: ModelShape) -> gs.Node:
    """The Reshape that splits a projection into heads, checked before anything is changed."""
    consumers = list(linear.output.outputs)
    if len(consumers) != 1 or consumers[0].op != "Reshape":
        found = ", ".join(node.op for node in consumers) or "nothing"
        raise RewriteRefused(f"{linear.module} feeds {found} where the Reshape into heads is needed")
    heads, size = _last_two(consumers[0], linear.module)
    if heads not in (-1, shape.num_heads) or size != shape.head_size:
        raise RewriteRefused(f"{linear.module} is reshaped to {heads} heads of size {size}")
    return consumers[0]


def _last_two(reshape: gs.Node, module: str) -> tuple[int, int]:
    target = reshape.inputs[1]
    if isinstance(target, gs.Constant):
        return int(target.values[-2]), int(target.values[-1])
    parts = target.inputs[0].inputs if target.inputs and target.inputs[0].op == "Concat" else []
    if len(parts) == 4 and all(isinstance(part, gs.Constant) for part in parts[2:]):
        return int(parts[2].values.item()), int(parts[3].values.item())
    raise RewriteRefused(f"{module} is reshaped to a shape that is not known")


def _let_heads_be_inferred(graph: ScopedGraph, reshape: gs.Node) -> None:
    target = reshape.inputs[1]
    if isinstance(target, gs.Constant):
        dimensions = target.values.copy()
        if dimensions[-2] != -1:
            dimensions[-2] = -1
            reshape.inputs[1] = graph.constant(f"{target.name}.heads", dimensions)
        return
    concat = target.inputs[0]
    if concat.inputs[2].values.item() != -1:
        parts = [*concat.inputs[:2], graph.constant(f"{target.name}.heads", np.array([-1])), concat.inputs[3]]
        reshape.inputs[1] = graph.insert("Concat", f"{target.name}.inferred", parts, concat, axis=0)


def _pad_heads(graph: ScopedGraph, output: Linear, shape: ModelShape, pruned: Sequence[int]) -> gs.Variable:
    """The context (batch, sequence, kept heads * head size) with zeros for the missing heads."""
    name, like = f"{output.module}.padded_heads", output.node
    size = shape.head_size
    zeros_at = (shape.num_heads - len(pruned)) * size
    amounts = graph.constant(f"{name}.pads", np.array([0, 0, 0, 0, 0, size]))
    padded = graph.insert("Pad", f"{name}.zeros", [output.input, amounts], like)
    indices: list[int] = []
    next_kept = 0
    for head in range(shape.num_heads):
        start = zeros_at if head in pruned else next_kept
        indices.extend(range(start, start + size))
        next_kept += 0 if head in pruned else size
    order = graph.constant(f"{name}.order", np.asarray(indices, dtype=np.int64))
    return graph.insert("Gather", name, [padded, order], like, axis=-1)
