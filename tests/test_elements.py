from __future__ import annotations

import pytest
from axform.core.families import ModelShape
from axform.core.plan import ApproximationPlan, ModelIdentity, default_group_size
from axform.toolchain.elements import BlockCosts, Element, block_costs, build_queue, with_element

SHAPE = ModelShape(num_layers=3, num_heads=2, hidden_size=32, intermediate_size=64)
IDENTITY = ModelIdentity(
    family="bert", num_layers=3, num_heads=2, hidden_size=32, intermediate_size=64, fingerprint="0"
)


@pytest.mark.parametrize("costlier", ["FFN", "ATTN"])
@pytest.mark.parametrize("order", ["last-to-first", "first-to-last"])
def test_all_four_orderings(costlier, order):
    costs = BlockCosts(attention=2.0 if costlier == "ATTN" else 1.0, feed_forward=1.5)
    queue = build_queue(SHAPE, 16, costs, order)
    layers = [2, 1, 0] if order == "last-to-first" else [0, 1, 2]
    cheaper = "FFN" if costlier == "ATTN" else "ATTN"
    blocks = [Element(costlier, layer) for layer in layers] + [Element(cheaper, layer) for layer in layers]
    assert queue[:6] == blocks
    fine = {
        "ATTN": [Element("ATTN", layer, "head", index) for layer in layers for index in range(2)],
        "FFN": [Element("FFN", layer, "group", index) for layer in layers for index in range(4)],
    }
    assert queue[6:24] == fine[costlier] + fine[cheaper]
    assert queue[24:] == [Element("ATTN", layer, "group", index) for layer in layers for index in range(2)]


def test_ffn_costs_more_at_short_inputs_and_attn_at_long_ones():
    bert_base = ModelShape(12, 12, 768, 3072)
    short, long = (block_costs(bert_base, "speed", n) for n in (128, 4096))
    assert short.feed_forward > short.attention
    assert long.attention > long.feed_forward


def test_size_costs_are_parameter_counts():
    costs = block_costs(ModelShape(12, 12, 768, 3072), "size", 128)
    assert costs.attention == 4 * 768 * 768 + 4 * 768
    assert costs.feed_forward == 2 * 768 * 3072 + 3072 + 768


def test_pruning_a_block_drops_what_was_pruned_inside():
    plan = ApproximationPlan.empty(IDENTITY, 16)
    plan = with_element(plan, Element("FFN", 1, "group", 2))
    assert plan.layers[1].feed_forward.pruned_groups == [2]
    plan = with_element(plan, Element("FFN", 1))
    assert plan.layers[1].feed_forward.skipped and not plan.layers[1].feed_forward.pruned_groups


def test_the_last_part_of_a_block_is_never_an_element():
    plan = with_element(ApproximationPlan.empty(IDENTITY, 16), Element("ATTN", 0, "head", 0))
    assert with_element(plan, Element("ATTN", 0, "head", 1)) is None


@pytest.mark.parametrize(("intermediate", "size"), [(3072, 256), (4096, 256), (1536, 128), (768, 64), (64, 5)])
def test_default_group_size(intermediate, size):
    assert default_group_size(ModelShape(2, 2, intermediate // 4, intermediate)) == size
