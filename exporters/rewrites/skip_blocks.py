"""Bypass whole ATTN and FFN blocks by their skip connection."""

from __future__ import annotations

from functools import partial

from ...core.families import Family
from ...core.plan import ApproximationPlan
from ..scoped_graph import ScopedGraph
from .report import Recorder, RewriteReport

__all__ = ["skip_blocks"]


def skip_blocks(graph: ScopedGraph, plan: ApproximationPlan, family: Family) -> RewriteReport:
    """Remove the blocks that the plan skips.

    For the residual ``Add(block output, block input)`` of a skipped block:
      1. let what reads the Add read the block input instead;
      2. remove the Add and every node that only the block needed.
    The LayerNorm after the Add stays. Refused where the output projection does not feed exactly one Add.
    """
    recorder = Recorder.begin(graph)
    for index, layer in enumerate(plan.layers):
        if layer.skips("attn"):
            place = family.scope(index, family.attention_output)
            recorder.attempt(f"layer {index} ATTN", "skipped", partial(_bypass, graph, place))
        if layer.skips("ffn"):
            place = family.scope(index, family.down)
            recorder.attempt(f"layer {index} FFN", "skipped", partial(_bypass, graph, place))
    return recorder.report("skip_blocks")


def _bypass(graph: ScopedGraph, projection: str) -> None:
    branch = graph.linear(projection).output
    add, block_input = graph.residual_add(branch, projection)
    graph.replace_everywhere(add.outputs[0], block_input)
    add.outputs.clear()
