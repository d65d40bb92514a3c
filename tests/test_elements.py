from __future__ import annotations

import hashlib

import pytest
from axform.core.families import ModelShape
from axform.core.plan import default_group_size
from axform.core.targets import Target
from axform.toolchain.elements import BlockCosts, block_costs, build_queue

SHAPE = ModelShape(num_layers=3, num_heads=2, hidden_size=32, intermediate_size=64)


@pytest.mark.parametrize("costlier", ["ffn", "attn"])
@pytest.mark.parametrize("order", ["last-to-first", "first-to-last"])
def test_all_four_orderings(costlier, order):
    costs = BlockCosts(attention=2.0 if costlier == "attn" else 1.0, feed_forward=1.5)
    queue = build_queue(SHAPE, 16, costs, order)
    layers = [2, 1, 0] if order == "last-to-first" else [0, 1, 2]
    cheaper = "ffn" if costlier == "attn" else "attn"
    blocks = [Target(layer, costlier) for layer in layers] + [Target(layer, cheaper) for layer in layers]
    assert queue[:6] == blocks
    fine = {
        "attn": [Target(layer, "attn.head", index) for layer in layers for index in range(2)],
        "ffn": [Target(layer, "ffn.group", index) for layer in layers for index in range(4)],
    }
    assert queue[6:24] == fine[costlier] + fine[cheaper]
    assert queue[24:] == [Target(layer, "attn.in.group", index) for layer in layers for index in range(2)]


def test_the_queue_of_a_model_with_uneven_groups_is_what_it_always_was():
    """As digests of the queues that runs were searched with."""
    shape = ModelShape(num_layers=4, num_heads=4, hidden_size=40, intermediate_size=100)
    digests = {
        ("size", "last-to-first"): "130be99aa721ce46",
        ("size", "first-to-last"): "45a7c5fc78d969d2",
        ("speed", "last-to-first"): "3f9ef96b4e4700bd",
        ("speed", "first-to-last"): "34713fbcb703d00f",
    }
    for (focus, order), digest in digests.items():
        queue = build_queue(shape, 16, block_costs(shape, focus, 4096), order)
        assert hashlib.sha256("|".join(map(str, queue)).encode()).hexdigest()[:16] == digest


def test_ffn_costs_more_at_short_inputs_and_attn_at_long_ones():
    bert_base = ModelShape(12, 12, 768, 3072)
    short, long = (block_costs(bert_base, "speed", n) for n in (128, 4096))
    assert short.feed_forward > short.attention
    assert long.attention > long.feed_forward


def test_size_costs_are_parameter_counts():
    costs = block_costs(ModelShape(12, 12, 768, 3072), "size", 128)
    assert costs.attention == 4 * 768 * 768 + 4 * 768
    assert costs.feed_forward == 2 * 768 * 3072 + 3072 + 768


@pytest.mark.parametrize(("intermediate", "size"), [(3072, 256), (4096, 256), (1536, 128), (768, 64), (64, 5)])
def test_default_group_size(intermediate, size):
    assert default_group_size(ModelShape(2, 2, intermediate // 4, intermediate)) == size
