"""Compute for the first token alone what only it is read of: a classifier looks at no other."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from ...core.families import Family
from ...core.plan import ApproximationPlan
from ..rewrites.report import Change, Recorder, RewriteReport
from ..scoped_graph import ScopedGraph
from .ranks import ELEMENTWISE, Ranks

__all__ = ["first_token"]

_SEQUENCE, _RANK = 1, 3
"""Hidden states are (batch, sequence, hidden size)."""
_FEATURES = (-1, _RANK - 1)
_QUERIES = -2
"""The axis of the queries in an attention mask."""


def first_token(graph: ScopedGraph, plan: ApproximationPlan, family: Family) -> RewriteReport:
    """Cut the sequence to its first token as early as nobody reads the others any more.

    Behind the last attention every token goes its own way, so where the head reads one of them, the last output
    projection, FFN and normalisations need that one only; and of the last 3-D Attention it is the only query. Keys and
    values are still those of the whole sequence, so no number changes but by the order of sums. A Slice goes in where
    the whole sequence is last needed, and nodes stay as they are. Nothing is done where a head reads more, as in a
    mean over the tokens.
    """
    recorder = Recorder.begin(graph)
    tokens = _Tokens(graph)
    cut: dict[tuple[int, int], gs.Variable] = {}

    def first_of(tensor: gs.Tensor, axis: int, like: gs.Node) -> gs.Variable:
        key = id(tensor), axis
        if key not in cut:
            bounds = {"start": 0, "end": 1, "axis": axis}
            inputs = [graph.constant(f"{tensor.name}.{name}", np.array([at])) for name, at in bounds.items()]
            cut[key] = graph.insert("Slice", f"{tensor.name}.first", [tensor, *inputs], like)
        return cut[key]

    is_first_already = {id(node.outputs[0]) for node in tokens.narrow}
    for node in tokens.narrow:
        for index in tokens.one_by_one(node):
            if id(node.inputs[index]) not in is_first_already:
                node.inputs[index] = first_of(node.inputs[index], _SEQUENCE, node)
        if node.op == "Attention" and len(node.inputs) > 3:
            node.inputs[3] = first_of(node.inputs[3], _QUERIES, node)
        if node.op in ("MatMul", "Attention"):
            recorder.changes.append(Change(graph.module_of(node), f"{node.op} for the first token"))
    return recorder.report("first_token")


class _Tokens:
    """Which nodes of a graph need to compute the first token only."""

    def __init__(self, graph: ScopedGraph) -> None:
        self._ranks = Ranks(graph)
        self._outputs = {id(tensor) for tensor in graph.graph.outputs}
        self.narrow: list[gs.Node] = []
        read: set[tuple[int, int]] = set()  # (node, index of the input) of which the first token is read and no other
        for node in reversed(graph.graph.nodes):
            if self._takes_first(node):
                read.add((id(node), 0))
            elif self._is_narrow(node, read):
                self.narrow.insert(0, node)
                read.update((id(node), index) for index in self.one_by_one(node))

    def one_by_one(self, node: gs.Node) -> list[int]:
        """The inputs of whose tokens each makes its own token of the output; none where tokens mix, or who knows."""
        if node.op in ELEMENTWISE:
            moving = [index for index, tensor in enumerate(node.inputs) if not self._ranks.is_constant(tensor)]
            return moving if all(self._ranks.of(node.inputs[index]) == _RANK for index in moving) else []
        is_hidden = bool(node.inputs) and self._ranks.of(node.inputs[0]) == _RANK
        return [0] if is_hidden and self._keeps_tokens(node) else []

    def _keeps_tokens(self, node: gs.Node) -> bool:
        given = node.inputs
        if node.op == "Attention":
            return bool(node.attrs.get("q_num_heads")) and not node.attrs.get("is_causal") and len(given) <= 4
        if node.op == "MatMul":
            return self._ranks.is_constant(given[1])
        if node.op == "LayerNormalization":
            return node.attrs.get("axis", -1) in _FEATURES
        if node.op == "Gather":
            return node.attrs.get("axis", 0) in _FEATURES and self._ranks.is_constant(given[1])
        if node.op == "Slice":
            return len(given) > 3 and isinstance(given[3], gs.Constant) and set(given[3].values.flat) <= set(_FEATURES)
        if node.op == "Pad" and len(given) > 1 and isinstance(given[1], gs.Constant):
            return not given[1].values.reshape(2, -1)[:, : _RANK - 1].any()
        return False

    def _is_narrow(self, node: gs.Node, read: set[tuple[int, int]]) -> bool:
        if len(node.outputs) != 1 or id(node.outputs[0]) in self._outputs:
            return False
        output = node.outputs[0]
        uses = [(id(user), index) for user in output.outputs for index, t in enumerate(user.inputs) if t is output]
        return bool(uses) and read.issuperset(uses) and bool(self.one_by_one(node))

    def _takes_first(self, node: gs.Node) -> bool:
        if node.op != "Gather" or node.attrs.get("axis", 0) != _SEQUENCE:
            return False
        hidden, index = node.inputs
        is_first = isinstance(index, gs.Constant) and index.values.ndim == 0 and index.values.item() == 0
        return is_first and self._ranks.of(hidden) == _RANK
