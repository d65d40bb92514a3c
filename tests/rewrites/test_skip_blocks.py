from __future__ import annotations

import numpy as np
import pytest
from axform.exporters.rewrites import skip_blocks
from axform.exporters.scoped_graph import ScopedGraph
from layer_graph import FAMILY, evaluate, layer, ops, plan, reference

ROUNDING = {"rtol": 1e-5, "atol": 1e-5}
"""float32 against float64, sums of at most 12 products: 7e-7 was seen, of outputs up to 2."""


def skipped(attention, feed_forward):
    wanted = plan(*["layer.0.attn"] * attention, *["layer.0.ffn"] * feed_forward)
    graph = ScopedGraph(layer())
    report = skip_blocks(graph, wanted, FAMILY)
    assert not report.refused
    return graph.to_proto(), report


@pytest.mark.parametrize("padded", [0, 2])
def test_the_reference_is_the_layer(padded):
    np.testing.assert_allclose(evaluate(layer(), padded), reference(padded=padded), **ROUNDING)


@pytest.mark.parametrize(
    ("attention", "feed_forward"), [(True, True), (True, False), (False, True)], ids=["both", "ATTN", "FFN"]
)
def test_a_skipped_block_adds_nothing(attention, feed_forward):
    rewritten, _ = skipped(attention, feed_forward)
    wanted = reference(attention=not attention, feed_forward=not feed_forward)
    np.testing.assert_allclose(evaluate(rewritten), wanted, **ROUNDING)


def test_skipping_both_blocks_leaves_the_layer_norm():
    rewritten, report = skipped(attention=True, feed_forward=True)
    assert ops(rewritten) == ["LayerNormalization"]
    assert report.nodes_removed == len(layer().graph.node) - 1
    assert report.parameters_removed == 4 * (64 + 8) + 2 * 96 + 12 + 8


def test_skipping_attention_leaves_the_feed_forward_block():
    rewritten, report = skipped(attention=True, feed_forward=False)
    assert ops(rewritten) == ["MatMul", "Add", "Gelu", "MatMul", "Add", "Add", "LayerNormalization"]
    assert report.parameters_removed == 4 * (64 + 8)


def test_skipping_the_feed_forward_block_leaves_attention():
    rewritten, report = skipped(attention=False, feed_forward=True)
    assert "Gelu" not in ops(rewritten) and ops(rewritten).count("Attention") == 1
    assert report.parameters_removed == 2 * 96 + 12 + 8


def test_refuses_a_projection_that_feeds_no_residual_add():
    def spoil(nodes):
        add = next(node for node in nodes if node.output[0] == "attention_out")
        add.op_type = "Mul"

    wanted = plan("layer.0.attn")
    graph = ScopedGraph(layer(spoil))
    report = skip_blocks(graph, wanted, FAMILY)
    assert not report.done
    assert "attention.output.dense feeds Mul where a single residual Add is needed" in report.refused[0].refused
    assert report.nodes_removed == 0


def test_an_empty_plan_changes_nothing():
    graph = ScopedGraph(layer())
    report = skip_blocks(graph, plan(), FAMILY)
    assert not report.changes and report.nodes_removed == 0
    np.testing.assert_array_equal(evaluate(graph.to_proto()), evaluate(layer()))
