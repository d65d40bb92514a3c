from __future__ import annotations

import numpy as np
from axform.exporters.rewrites import skip_blocks
from axform.exporters.scoped_graph import ScopedGraph
from layer_graph import FAMILY, evaluate, layer, ops, plan


def test_skipping_both_blocks_leaves_the_residual_stream():
    wanted = plan()
    wanted.layers[0].attention.skipped = wanted.layers[0].feed_forward.skipped = True
    graph = ScopedGraph(layer())
    report = skip_blocks(graph, wanted, FAMILY)
    assert ops(graph.to_proto()) == [] and not report.refused
    assert report.nodes_removed == len(layer().graph.node)
    assert report.parameters_removed == 4 * (64 + 8) + 2 * 96 + 12 + 8


def test_skipping_attention_keeps_the_feed_forward_block():
    wanted = plan()
    wanted.layers[0].attention.skipped = True
    graph = ScopedGraph(layer())
    skip_blocks(graph, wanted, FAMILY)
    rewritten = graph.to_proto()
    assert ops(rewritten) == ["MatMul", "Add", "Gelu", "MatMul", "Add", "Add"]
    full, hidden = evaluate(layer()), np.random.default_rng(1).standard_normal((3, 7, 8)).astype(np.float32)
    assert evaluate(rewritten).shape == full.shape and not np.allclose(evaluate(rewritten), full)
    feed_forward = next(n for n in rewritten.graph.node if n.op_type == "MatMul")
    assert feed_forward.input[0] == "hidden" and hidden.shape == full.shape


def test_refuses_a_projection_that_feeds_no_residual_add():
    def spoil(nodes):
        add = next(node for node in nodes if node.output[0] == "attention_out")
        add.op_type = "Mul"

    wanted = plan()
    wanted.layers[0].attention.skipped = True
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
