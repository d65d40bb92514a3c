from __future__ import annotations

import numpy as np
import pytest
from axform.exporters.rewrites import shrink_groups
from axform.exporters.scoped_graph import ScopedGraph
from layer_graph import FAMILY, evaluate, layer, ops, plan, weight_shapes, with_zeros


def shrunk(wanted, spoil=None):
    graph = ScopedGraph(layer(spoil))
    report = shrink_groups(graph, wanted, FAMILY)
    return graph.to_proto(), report


def test_ffn_groups_are_physically_removed():
    wanted = plan("layer.0.ffn.group.1")
    rewritten, report = shrunk(wanted)
    assert weight_shapes(rewritten) == [(8, 8)] * 4 + sorted([(8, 8), (8, 8)])
    assert report.parameters_removed == 4 * (8 + 1 + 8) and report.nodes_removed == 0
    zeroed = with_zeros(layer(), down=(slice(4, 8),))
    np.testing.assert_allclose(evaluate(rewritten), evaluate(zeroed), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kept", ["head", "tail"])
def test_attention_inputs_become_a_slice(kept):
    wanted = plan(f"layer.0.attn.in.group.{1 if kept == 'head' else 0}")
    rewritten, report = shrunk(wanted)
    assert ops(rewritten).count("Slice") == 1 and "Gather" not in ops(rewritten)
    assert report.parameters_removed == 3 * 4 * 8
    gone = slice(4, 8) if kept == "head" else slice(0, 4)
    zeroed = with_zeros(layer(), query=(gone,), key=(gone,), value=(gone,))
    np.testing.assert_allclose(evaluate(rewritten), evaluate(zeroed), rtol=1e-5, atol=1e-5)


def test_scattered_attention_inputs_become_a_gather():
    wanted = plan("layer.0.attn.in.group.1", group_size=2)
    rewritten, _ = shrunk(wanted)
    assert ops(rewritten).count("Gather") == 1 and "Slice" not in ops(rewritten)
    zeroed = with_zeros(layer(), **dict.fromkeys(("query", "key", "value"), (slice(2, 4),)))
    np.testing.assert_allclose(evaluate(rewritten), evaluate(zeroed), rtol=1e-5, atol=1e-5)


def test_refuses_what_mixes_neurons_between_the_projections():
    def spoil(nodes):
        gelu = next(node for node in nodes if node.op_type == "Gelu")
        gelu.op_type = "Softmax"

    wanted = plan("layer.0.ffn.group.1")
    rewritten, report = shrunk(wanted, spoil)
    assert "Softmax lies between" in report.refused[0].refused
    np.testing.assert_array_equal(evaluate(rewritten), evaluate(layer(spoil)))


def test_refuses_projections_that_read_different_tensors():
    def spoil(nodes):
        position = next(i for i, node in enumerate(nodes) if node.output[0] == "key.product")
        node = type(nodes[0])()
        node.op_type = "Identity"
        node.input.append("hidden")
        node.output.append("copied")
        nodes[position].input[0] = "copied"
        nodes.insert(position, node)

    wanted = plan("layer.0.attn.in.group.1")
    _, report = shrunk(wanted, spoil)
    assert "read different tensors" in report.refused[0].refused


def test_shared_initializers_are_not_changed_for_others():
    def share(nodes):
        for node in nodes:
            node.input[:] = ["query.w" if name == "projected.w" else name for name in node.input]

    wanted = plan("layer.0.attn.in.group.1")
    rewritten, _ = shrunk(wanted, share)
    assert (8, 8) in weight_shapes(rewritten) and weight_shapes(rewritten).count((4, 8)) == 3
    evaluate(rewritten)
