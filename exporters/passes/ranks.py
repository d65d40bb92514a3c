"""How many dimensions the tensors of a graph have, and which of them are the same for every input."""

from __future__ import annotations

import math

import onnx_graphsurgeon as gs

from ..scoped_graph import ScopedGraph

__all__ = ["ELEMENTWISE", "Ranks"]

ELEMENTWISE = {"Add", "Cast", "Div", "Erf", "Gelu", "Mul", "Pow", "Relu", "Sigmoid", "Sqrt", "Sub", "Sum", "Tanh"}
"""Operators on numbers that look at one position of their operands at a time."""
_BROADCAST = ELEMENTWISE | {"And", "Equal", "GreaterOrEqual", "MatMul", "Where"}
_KEEPS_RANK = {"Attention", "CumSum", "LayerNormalization", "Not", "Pad", "Slice", "Transpose"}


class Ranks:
    """Of all tensors of a graph as it is now, in one pass over its nodes, which are in topological order."""

    def __init__(self, graph: ScopedGraph) -> None:
        self._ranks: dict[int, int | None] = {
            id(tensor): None if tensor.shape is None else len(tensor.shape) for tensor in graph.graph.inputs
        }
        self._constant: set[int] = set()
        for node in graph.graph.nodes:
            rank = self._of_output(node)
            is_constant = bool(node.inputs) and all(map(self.is_constant, node.inputs))
            for output in node.outputs:
                self._ranks[id(output)] = rank
                if is_constant:
                    self._constant.add(id(output))

    def of(self, tensor: gs.Tensor) -> int | None:
        """None where it is not easily told."""
        return len(tensor.shape) if isinstance(tensor, gs.Constant) else self._ranks.get(id(tensor))

    def is_constant(self, tensor: gs.Tensor) -> bool:
        """Whether a tensor is the same for every input."""
        return isinstance(tensor, gs.Constant) or bool(tensor.is_empty()) or id(tensor) in self._constant

    def _of_output(self, node: gs.Node) -> int | None:
        given = node.inputs
        if node.op in _BROADCAST:
            ranks = [self.of(operand) for operand in given if not self.is_constant(operand)] or [*map(self.of, given)]
            return None if None in ranks or not ranks else max(rank for rank in ranks if rank is not None)
        if node.op in _KEEPS_RANK:
            return self.of(given[0])
        if node.op == "UnpackBits":
            return len(node.attrs["shape"])
        if node.op == "GatherElements":
            return self.of(given[1])
        if node.op == "Gather":
            table, rows = self.of(given[0]), self.of(given[1])
            return None if table is None or rows is None else table - 1 + rows
        return _length(given[1]) if node.op == "Reshape" else None


def _length(sizes: gs.Tensor) -> int | None:
    """The number of values in a 1-D tensor of sizes."""
    if isinstance(sizes, gs.Constant):
        return math.prod(sizes.shape)
    node = sizes.inputs[0] if sizes.inputs else None
    if node is not None and node.op == "Concat":
        parts = [_length(part) for part in node.inputs]
        return None if None in parts else sum(part for part in parts if part is not None)
    if node is not None and node.op == "Shape" and {"start", "end"} <= set(node.attrs):
        return int(node.attrs["end"]) - int(node.attrs["start"])
    return None
