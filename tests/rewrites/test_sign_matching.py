from __future__ import annotations

import numpy as np
import pytest
from axform.exporters.rewrites import sign_matching
from axform.exporters.scoped_graph import ScopedGraph
from layer_graph import FAMILY, evaluate, layer, ops, plan


def replaced(k, selection="majority", spoil=None):
    wanted = plan(f"layer.0.attn {k} {selection}")
    graph = ScopedGraph(layer(spoil))
    report = sign_matching(graph, wanted, FAMILY)
    return graph.to_proto(), report


def test_the_operator_takes_the_place_and_brings_its_body():
    rewritten, report = replaced(3)
    assert "Attention" not in ops(rewritten) and ops(rewritten).count("SignMatchingAttention") == 1
    node = next(node for node in rewritten.graph.node if node.op_type == "SignMatchingAttention")
    assert node.domain == "ai.axform" and len(node.input) == 4
    attributes = {attribute.name: attribute for attribute in node.attribute}
    assert attributes["k"].i == 3 and attributes["scale"].f == 0.5 and attributes["selection"].s == b"majority"
    assert [(f.domain, f.name) for f in rewritten.functions] == [("ai.axform", "SignMatchingAttention")]
    assert not report.refused


@pytest.mark.parametrize("selection", ["majority", "count"])
def test_enough_keys_are_plain_attention(selection):
    np.testing.assert_allclose(evaluate(replaced(7, selection)[0]), evaluate(layer()), rtol=1e-5, atol=1e-5)


def test_few_keys_are_not():
    assert np.abs(evaluate(replaced(2)[0]) - evaluate(layer())).max() > 1e-2


def test_refuses_a_layer_without_a_standard_attention_node():
    def spoil(nodes):
        attention = next(node for node in nodes if node.op_type == "Attention")
        attention.op_type = "MultiHeadAttention"
        attention.domain = "com.microsoft"

    _, report = replaced(3, spoil=spoil)
    assert report.refused[0].refused == "bert.encoder.layer.0.attention.self has 0 Attention nodes where one is needed"
