from __future__ import annotations

import numpy as np
import pytest
from axform.exporters.rewrites import prune_heads
from axform.exporters.scoped_graph import ScopedGraph
from layer_graph import FAMILY, evaluate, layer, ops, plan, weight_shapes, with_zeros


def pruned(head, mode, spoil=None):
    graph = ScopedGraph(layer(spoil))
    report = prune_heads(graph, plan(f"layer.0.attn.head.{head}"), FAMILY, mode)
    return graph.to_proto(), report


@pytest.mark.parametrize("head", [0, 1])
def test_fold_and_pad_equal_zeroed_rows_of_the_output_projection(head):
    gone = slice(4 * head, 4 * head + 4)
    wanted = evaluate(with_zeros(layer(), projected=(gone,)))
    fold, fold_report = pruned(head, "fold")
    pad, pad_report = pruned(head, "pad")
    np.testing.assert_allclose(evaluate(fold), wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(evaluate(pad), evaluate(fold), atol=1e-6)
    assert sorted(ops(fold)) == sorted(ops(layer())) and {"Pad", "Gather"} <= set(ops(pad))
    assert weight_shapes(fold).count((8, 4)) == 3 and weight_shapes(fold).count((4, 8)) == 1
    assert fold_report.parameters_removed == 3 * (4 * 8 + 4) + 4 * 8
    assert pad_report.parameters_removed == 3 * (4 * 8 + 4) and pad_report.nodes_removed == -2


def test_a_fixed_number_of_heads_in_the_reshape_is_replaced():
    model = layer()
    for tensor in model.graph.initializer:
        if tensor.name == "split":
            tensor.ClearField("raw_data")
            tensor.int64_data.extend([0, 0, 2, 4])
    graph = ScopedGraph(model)
    assert not prune_heads(graph, plan("layer.0.attn.head.1"), FAMILY).refused
    np.testing.assert_allclose(evaluate(graph.to_proto()), evaluate(pruned(1, "fold")[0]), atol=1e-6)


def test_refuses_an_unknown_way_of_splitting_heads():
    def spoil(nodes):
        reshape = next(node for node in nodes if node.output[0] == "key.split")
        reshape.op_type, reshape.input[1] = "Expand", "split"

    _, report = pruned(0, "fold", spoil)
    assert "attention.self.key feeds Expand where the Reshape into heads is needed" in report.refused[0].refused
    assert report.parameters_removed == 0
