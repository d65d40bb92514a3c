"""The attention mask made of the key padding mask in four small nodes instead of torch's twenty."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx.reference import ReferenceEvaluator

from ...core.families import Family
from ...core.plan import ApproximationPlan
from ..rewrites.report import Recorder, RewriteReport
from ..scoped_graph import RewriteRefused, ScopedGraph

__all__ = ["key_mask"]

_EXAMPLES = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]), np.array([[1, 0, 1], [0, 1, 1], [1, 0, 0]])
"""Masks on which the old form is compared with the new one."""


def key_mask(graph: ScopedGraph, plan: ApproximationPlan, family: Family) -> RewriteReport:
    """Expand the key padding mask to (batch, 1, sequence, sequence) once, for every standard Attention.

    torch writes the same as a product of index ranges that is gathered from. Refused where the old mask is not
    that of the keys alone, as with a causal or a windowed attention, which is found out by evaluating it.
    """
    recorder = Recorder.begin(graph)
    masked = [node for node in graph.graph.nodes if node.op == "Attention" and len(node.inputs) > 3]
    for old in {id(node.inputs[3]): node.inputs[3] for node in masked}.values():
        users = [node for node in masked if node.inputs[3] is old]
        recorder.attempt("mask", f"expanded for {len(users)} Attention", partial(_replace, graph, family, old, users))
    return recorder.report("key_mask")


def _replace(graph: ScopedGraph, family: Family, old: gs.Tensor, users: list[gs.Node]) -> None:
    source = next((tensor for tensor in graph.graph.inputs if tensor.name == family.attention_mask), None)
    if source is None:
        raise RewriteRefused(f"the graph has no input {family.attention_mask}")
    for example in _EXAMPLES:
        found = _evaluated(graph.graph, old, source.name, example)
        wanted = np.broadcast_to(example[:, None, None].astype(bool), (len(example), 1, *2 * example.shape[1:]))
        if found.dtype != bool or not np.array_equal(found, wanted):
            raise RewriteRefused(f"{old.name} hides more than the padded keys")
    name, like = "axform.attention_mask", old.inputs[0]
    keys = graph.insert("Cast", f"{name}.keys", [source], like, to=int(onnx.TensorProto.BOOL))
    axes = graph.constant(f"{name}.axes", np.array([1, 2]))
    rows = graph.insert("Unsqueeze", f"{name}.rows", [keys, axes], like)
    length = graph.insert("Shape", f"{name}.length", [source], like, start=1, end=2)
    around = graph.constant(f"{name}.before", np.array([1, 1])), graph.constant(f"{name}.after", np.array([1]))
    sizes = graph.insert("Concat", f"{name}.sizes", [around[0], length, around[1]], like, axis=0)
    new = graph.insert("Expand", name, [rows, sizes], like)
    for user in users:
        user.inputs[3] = new


def _evaluated(graph: gs.Graph, tensor: gs.Tensor, mask: str, example: np.ndarray) -> np.ndarray:
    """What ``tensor`` is for a key padding mask, (batch, sequence).

    Raises:
        RewriteRefused: it comes of something that is not evaluated here.
    """
    needed: set[int] = set()
    waiting = list(tensor.inputs)
    while waiting:
        node = waiting.pop()
        if id(node) not in needed:
            needed.add(id(node))
            waiting += [maker for given in node.inputs for maker in given.inputs]
    nodes = [node for node in graph.nodes if id(node) in needed]
    part = gs.Graph(nodes, graph.inputs, [tensor], opset=graph.opset, import_domains=graph.import_domains)
    feeds = {entry.name: example if entry.name == mask else np.zeros_like(example) for entry in graph.inputs}
    try:
        (found,) = ReferenceEvaluator(gs.export_onnx(part, do_type_check=False)).run([tensor.name], feeds)
        return np.asarray(found)
    except Exception as error:  # the evaluator raises whatever its operators do
        raise RewriteRefused(f"{tensor.name} cannot be evaluated ({error})") from error
