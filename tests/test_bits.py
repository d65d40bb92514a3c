"""Weights in fewer bits: codes against a reference, what a plan may say, the live model, and the search."""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from axform.core.metrics import Measurement
from axform.core.plan import ApproximationPlan, Bits, ModelIdentity, Segment
from axform.core.quantization import codes_of, packed, product_codes_of
from axform.core.targets import Target
from axform.toolchain.apply import apply_plan, layers_of
from axform.toolchain.bits import Scheme, bits_search, schemes
from axform.toolchain.fake_quantization import in_bits
from axform.toolchain.journal import Journal
from axform.toolchain.search import SearchOptions
from axform.toolchain.significance import Hopeless
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from support import FAMILIES, plan_of, random_batch, random_bits, random_plan, tiny_model

sys.path.insert(0, str(Path(__file__).parent / "custom_ops"))
from reference import pack_bits

IDENTITY = ModelIdentity(
    family="bert", num_layers=2, num_heads=4, hidden_size=32, intermediate_size=64, fingerprint="0"
)


def bits(target: str, count: int, group: int | None = None) -> Bits:
    return Bits(target=Target.parse(target), bits=count, group=group)


def decoded_by_hand(weights: np.ndarray, count: int, group: int | None) -> np.ndarray:
    """Row by row and group by group in float64."""
    result = np.empty(weights.shape)
    largest = 2 ** (count - 1) - 1
    for row, values in enumerate(weights.astype(np.float64)):
        for start in range(0, len(values), group or len(values)):
            part = values[start : start + (group or len(values))]
            scale = np.abs(part).max() / largest
            result[row, start : start + len(part)] = np.round(part / scale) * scale if scale else 0.0
    return result


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    count=st.integers(2, 8),
    group=st.sampled_from([None, 8, 12, 64]),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 40)),
    seed=st.integers(0, 1000),
)
def test_codes_times_scales_are_the_nearest_values(count, group, shape, seed):
    generator = np.random.default_rng(seed)
    weights = generator.standard_normal(shape).astype(np.float32)
    weights[generator.random(shape[0]) < 0.2] = 0  # a row of zeros has no scale
    codes = codes_of(weights, count, group)
    # a code at a tie may fall either way in float32; then it is half a scale off, as the other would be
    scale = np.repeat(codes.scales, codes.group, axis=1)[:, : shape[1]]
    assert np.all(np.abs(codes.decoded() - weights) <= scale / 2 * 1.0001)
    assert np.mean(np.abs(codes.decoded() - decoded_by_hand(weights, count, group)) > 1e-5) < 0.05
    assert np.abs(codes.values).max() <= 2 ** (count - 1) - 1
    assert np.array_equal(in_bits(torch.from_numpy(weights), count, group).numpy(), codes.decoded())
    assert packed(codes.values, count).tolist() == pack_bits(codes.values, count).tolist()


@pytest.mark.parametrize("largest", [1e-45, 1.8e-43, 1e-40, 1e-38, 2e-36])
def test_weights_too_small_for_a_scale_of_their_own_are_zero_and_not_nan(largest):
    weights = np.array([[largest, -largest, 0.0, largest], [1.0, -0.5, 0.0, 0.25]], np.float32)
    for codes in (codes_of(weights, 8), product_codes_of(weights)):
        assert np.isfinite(codes.decoded()).all() and (codes.scales > 0).all()
        assert np.abs(codes.decoded()[0]).max() <= 1.001 * largest and codes.decoded()[1].any()
    assert np.array_equal(in_bits(torch.from_numpy(weights), 8).numpy(), codes_of(weights, 8).decoded())


def test_neighbours_with_equal_bits_are_one_segment():
    plan = plan_of(IDENTITY, 16, "layer.0.ffn.group.1", "layer.1.attn.head.0")
    for part in (bits("layer.0.ffn", 5), bits("layer.0.ffn.group.3", 4, 8), bits("layer.1.attn.head.2", 6)):
        plan = plan.with_part(part)
    first, second = plan.layers
    assert first.segments("ffn.group") == [Segment(0, 32, 5, None), Segment(32, 48, 4, 8)]
    assert first.segments("attn.head") == []
    assert second.segments("attn.head") == [Segment(8, 16, 6, None)]
    whole = plan.with_part(bits("rest", 8)).layers[1]
    assert whole.segments("attn.head") == [Segment(0, 8, 8, None), Segment(8, 16, 6, None), Segment(16, 24, 8, None)]
    assert first.describe("ffn") == "1 of 4 groups pruned, 5 bits, 1 of 4 groups in 4 bits by 8"


def test_bits_survive_the_file_and_go_with_what_is_removed(tmp_path):
    plan = plan_of(IDENTITY, 16).with_part(bits("layer.0.ffn.group.3", 4, 64)).with_part(bits("embeddings.word", 4))
    plan.save(tmp_path / "plan.json")
    assert ApproximationPlan.load(tmp_path / "plan.json") == plan
    assert plan.word_embeddings.bits == 4 and plan.rest is None
    assert plan.with_part(bits("rest", 7)).bits_of(Target.parse("layer.1.attn.head.2")).bits == 7
    gone = plan.without(Target.parse("layer.0.ffn"))
    assert [str(part.target) for part in gone.parts] == ["embeddings.word", "layer.0.ffn"]


@pytest.mark.parametrize(
    ("part", "what"),
    [
        ({"target": "layer.0.attn.in.group.0", "action": "bits", "bits": 4}, "bits is for layer.N.attn"),
        ({"target": "layer.0.attn.head.1", "action": "bits", "bits": 4}, "contradict each other"),
        ({"target": "layer.1.ffn", "action": "bits", "bits": 4}, "contradict each other"),
        ({"target": "layer.1.ffn.group.0", "action": "bits", "bits": 4}, "contradict each other"),
        ({"target": "rest", "action": "bits", "bits": 1}, "greater than or equal to 2"),
        ({"target": "rest", "action": "bits", "bits": 9}, "less than or equal to 8"),
        ({"target": "rest", "action": "bits", "bits": 4, "group": 2}, "greater than or equal to 8"),
        ({"target": "rest", "action": "remove"}, "remove is for layer.N.attn"),
        ({"target": "embeddings.position", "action": "bits", "bits": 4}, "no address of a part"),
    ],
)
def test_bits_that_cannot_be(part, what):
    raw = json.loads(plan_of(IDENTITY, 16, "layer.0.attn.head.1", "layer.1.ffn").model_dump_json())
    raw["parts"].append(part)
    with pytest.raises(ValidationError, match=what):
        ApproximationPlan.model_validate(raw)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plan_with_bits_equals_weights_rounded_by_hand(family):
    """Of what the plan leaves, and only of that: a pruned neuron's weights have no part in a scale."""
    loaded, by_hand = tiny_model(family), tiny_model(family)
    described = by_hand.family
    plan = plan_of(loaded.identity(), 16, "layer.0.ffn.group.1", "layer.0.attn.in.group.1")
    for part in (bits("layer.0.ffn", 3), bits("layer.0.attn", 4, 12), bits("embeddings.word", 5)):
        plan = plan.with_part(part)
    layer = layers_of(by_hand.model, described)[0]
    neurons = [*range(16), *range(32, 64)]
    with torch.no_grad():
        up, down = (layer.get_submodule(path).weight for path in (described.up, described.down))
        up[neurons] = torch.from_numpy(decoded_by_hand(up[neurons].numpy(), 3, None)).float()
        down[:, neurons] = torch.from_numpy(decoded_by_hand(down[:, neurons].numpy(), 3, None)).float()
        for path in (described.query, described.key, described.value):
            weight = layer.get_submodule(path).weight
            weight[:, :16] = torch.from_numpy(decoded_by_hand(weight[:, :16].numpy(), 4, 12)).float()
        weight = layer.get_submodule(described.attention_output).weight
        weight.copy_(torch.from_numpy(decoded_by_hand(weight.numpy(), 4, 12)))
        words = by_hand.model.get_input_embeddings().weight
        words.copy_(torch.from_numpy(decoded_by_hand(words.numpy(), 5, None)))
    batch, removals = random_batch(loaded, random.Random(0), (3, 11)), plan_of(loaded.identity(), 16, *_removals(plan))
    with torch.inference_mode():
        untouched = loaded.model(**batch).logits
        with apply_plan(loaded.model, plan), apply_plan(by_hand.model, removals):
            torch.testing.assert_close(
                loaded.model(**batch).logits, by_hand.model(**batch).logits, atol=1e-4, rtol=1e-4
            )
        assert torch.equal(loaded.model(**batch).logits, untouched)


def _removals(plan):
    return [str(part.target) for part in plan.parts if part.action == "remove"]


def test_weights_learn_through_the_rounding():
    """The gradient is that at the rounded weights, and what is computed follows the weights."""
    loaded = tiny_model("bert")
    plan = plan_of(loaded.identity(), 16).with_part(bits("rest", 4))
    linear = layers_of(loaded.model, loaded.family)[0].get_submodule(loaded.family.up)
    rounded = in_bits(linear.weight.detach(), 4)
    batch = random_batch(loaded, random.Random(0), (2, 5))
    with apply_plan(loaded.model, plan):
        with torch.inference_mode():
            before = loaded.model(**batch).logits  # what is kept here must not be in the way of a gradient
        loss = loaded.model(**batch).logits.square().sum()
        loss.backward()
        assert torch.equal(loss.detach(), before.square().sum())
        assert linear.weight.grad.abs().max() > 0
        hidden = torch.randn(3, linear.in_features)
        torch.testing.assert_close(linear(hidden), torch.nn.functional.linear(hidden, rounded, linear.bias))
        optimizer = torch.optim.AdamW([linear.weight], lr=0.1, fused=True)  # it does not count a weight's versions up
        optimizer.step()
        moved = in_bits(linear.weight.detach(), 4)
        assert not torch.equal(moved, rounded)
        for mode in (torch.inference_mode, torch.enable_grad):
            with mode():
                torch.testing.assert_close(linear(hidden), torch.nn.functional.linear(hidden, moved, linear.bias))
        rounded = moved
        with torch.no_grad():
            linear.weight.mul_(2)
        torch.testing.assert_close(linear(hidden), torch.nn.functional.linear(hidden, 2 * rounded, linear.bias))


class Roundings:
    """Loss 1, more by what each element's bits cost; the whole model's cost is that of ``rest``."""

    def __init__(self, costs):
        self.plan = ApproximationPlan.empty(IDENTITY, 16)
        self.costs = costs

    def measure(self):
        return self.measure_trial(self.plan)

    def measure_trial(self, plan, hopeless_above=math.inf):
        loss = 1.0
        for part in plan.parts:
            known = self.costs.get((str(part.target), part.bits, part.group))
            loss += self.costs.get((str(part.target), part.bits, None), 0.0) if known is None else known
        return Hopeless(hopeless_above * 1.01) if loss > hopeless_above else Measurement(loss, 0.9)

    def accept(self, plan):
        self.plan = plan


def found(tmp_path, costs, fewest=4):
    evaluator = Roundings(costs)
    options = SearchOptions(focus="size")
    result = bits_search(evaluator, options, fewest, Journal(tmp_path / "bits.jsonl", {}))
    return {str(part.target): (part.bits, part.group) for part in result.plan.parts}, result


def test_everything_gets_the_cheapest_scheme_that_is_fine(tmp_path):
    chosen, result = found(tmp_path, {})
    assert chosen == {"rest": (4, None)} and result.trials == 2


def test_schemes_go_up_by_what_they_cost():
    listed = schemes(4)
    assert listed[:4] == [Scheme(4), Scheme(4, 128), Scheme(4, 64), Scheme(5)]
    assert listed[-1] == Scheme(8) and [scheme.cost for scheme in listed] == sorted(scheme.cost for scheme in listed)


def test_what_the_whole_cannot_do_single_parts_may(tmp_path):
    """6 bits are fine everywhere; the embeddings and one block do with fewer, and of another block one head."""
    costs = {("rest", 4, None): 1, ("rest", 5, None): 1}
    for target in ("layer.0.attn", "layer.1.attn", "layer.0.ffn", "layer.1.ffn"):
        costs |= {(target, 4, None): 1, (target, 5, None): 1}
    costs |= {("layer.1.attn", 5, 128): 0.001}
    for target in ("attn.head", "ffn.group"):
        costs |= {(f"layer.{layer}.{target}.{i}", 4, None): 1 for layer in (0, 1) for i in range(4)}
    costs[("layer.0.attn.head.2", 4, None)] = 0.0
    chosen, _ = found(tmp_path, costs)
    assert chosen == {
        "rest": (6, None),
        "embeddings.word": (4, None),
        "layer.1.attn": (5, 128),
        "layer.0.attn.head.2": (4, None),
    }


def test_where_not_even_8_bits_are_fine_nothing_is_found(tmp_path):
    costs = {(target, count, None): 1 for target in ("rest", "embeddings.word") for count in range(4, 9)}
    costs |= {(f"layer.{i}.{block}", count, None): 1 for i in (0, 1) for block in ("attn", "ffn") for count in range(9)}
    costs |= {
        (f"layer.{i}.{kind}.{j}", 4, None): 1 for i in (0, 1) for kind in ("attn.head", "ffn.group") for j in range(4)
    }
    chosen, result = found(tmp_path, costs)
    assert chosen == {} and result.plan == ApproximationPlan.empty(IDENTITY, 16)


def test_random_plans_with_bits_are_taken_back():
    loaded, generator = tiny_model("distilbert"), random.Random(4)
    batch = random_batch(loaded, generator, (2, 9))
    with torch.inference_mode():
        untouched = loaded.model(**batch).logits
        for _ in range(5):
            with apply_plan(loaded.model, random_bits(random_plan(loaded, generator), generator)):
                assert not torch.equal(loaded.model(**batch).logits, untouched)
            assert torch.equal(loaded.model(**batch).logits, untouched)
