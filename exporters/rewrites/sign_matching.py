"""Put the sign-matching operator in the place of full attention."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from ...core.families import Family
from ...core.opset import DOMAIN
from ...core.plan import ApproximationPlan, SignMatching
from ..functions import sign_matching_function
from ..scoped_graph import RewriteRefused, ScopedGraph
from .report import Recorder, RewriteReport

__all__ = ["sign_matching"]

_KEY_MASK = "axform.key_mask"


def sign_matching(graph: ScopedGraph, plan: ApproximationPlan, family: Family) -> RewriteReport:
    """Replace the Attention node of each layer whose plan says so.

      1. ``Attention(Q, K, V, mask)`` becomes ``ai.axform::SignMatchingAttention(Q, K, V, key mask)``, with the same
         scale and with the compact (batch, sequence) mask, cast once from the graph's input;
      2. the operator's function body goes into the file.
    Refused where the layer has no single Attention node on 4-D tensors without past, or the graph has no key mask.
    """
    recorder = Recorder.begin(graph)
    for index, layer in enumerate(plan.layers):
        for chosen in layer.every(SignMatching):
            recorder.attempt(
                f"layer {index} ATTN",
                f"sign matching, k = {chosen.k}",
                partial(_replace, graph, family, index, chosen),
            )
    return recorder.report("sign_matching")


def _replace(graph: ScopedGraph, family: Family, layer: int, chosen: SignMatching) -> None:
    module = family.scope(layer, family.attention_core)
    attention = graph.only_node_in(module, "Attention")
    extra = [tensor for tensor in attention.inputs[4:] if not tensor.is_empty()]
    if extra or attention.attrs.get("q_num_heads") or attention.attrs.get("is_causal"):
        raise RewriteRefused(f"{module}: its Attention node has past keys, 3-D inputs or a causal mask")
    attributes: dict[str, object] = {"k": chosen.k, "selection": chosen.selection}
    if attention.attrs.get("scale"):
        attributes["scale"] = float(attention.attrs["scale"])
    old = attention.outputs[0]
    new = graph.insert(
        "SignMatchingAttention",
        f"{old.name}.sign_matching",
        [*attention.inputs[:3], _key_mask(graph, family)],
        attention,
        **attributes,
    )
    new.inputs[0].domain = DOMAIN
    graph.replace_everywhere(old, new)
    graph.add_function(sign_matching_function(chosen.selection))


def _key_mask(graph: ScopedGraph, family: Family) -> gs.Tensor:
    tensors = graph.graph.tensors()
    if _KEY_MASK in tensors:
        return tensors[_KEY_MASK]
    source = next((tensor for tensor in graph.graph.inputs if tensor.name == family.attention_mask), None)
    if source is None:
        raise RewriteRefused(f"the graph has no input {family.attention_mask}")
    mask = graph.insert("Cast", _KEY_MASK, [source], to=onnx.TensorProto.BOOL)
    mask.dtype = np.bool_
    return mask
