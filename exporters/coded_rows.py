"""Looking up rows of a table that is stored as codes: what is chosen is decoded, so that the table stays as small as it is."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from .scoped_graph import ScopedGraph

__all__ = ["look_up_coded"]


def look_up_coded(
    graph: ScopedGraph, node: gs.Node, name: str, codes: gs.Tensor, scales: gs.Constant, group: int | None = None
) -> None:
    """Let a Gather along rows read codes and their scales, and Cast and Mul make floats of what it chose.

    Args:
        codes: (rows, features) int8.
        scales: (rows, groups) float32.
        group: features that share a scale; None = all of a row.
    """
    rows = node.inputs[1]
    gather = partial(graph.insert, "Gather", like=node, axis=0)
    chosen = gather(f"{name}.chosen", [codes, rows])
    factors = gather(f"{name}.factors", [scales, rows])
    if group is not None:
        features = node.inputs[0].shape[1]
        group_of_feature = graph.constant(f"{name}.group_of_feature", np.arange(features) // group)
        factors = graph.insert("Gather", f"{name}.factors", [factors, group_of_feature], node, axis=-1)
    values = graph.insert("Cast", f"{name}.float", [chosen], node, to=int(onnx.TensorProto.FLOAT))
    graph.take_over(graph.insert("Mul", f"{name}.values", [values, factors], node), node)
