"""A plan applied to a live model equals the same model with its weights edited by hand, and can be taken back."""

from __future__ import annotations

import random

import pytest
import torch
from axform.core.plan import ApproximationPlan
from axform.core.targets import Target
from axform.core.tasks import TASKS, with_columns
from axform.toolchain.apply import apply_plan, layers_of
from axform.toolchain.data import encode
from axform.toolchain.evaluation import Evaluator, predict
from axform.toolchain.precision import computing_in_bf16
from axform.toolchain.significance import Hopeless
from support import FAMILIES, plan_of, random_batch, random_bits, random_plan, sentiment_rows, tiny_model


def logits(loaded, batch):
    with torch.inference_mode():
        return loaded.model(**batch).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_equal_zeroed_weights(family):
    loaded, by_hand = tiny_model(family), tiny_model(family)
    first_layer = ("attn.head.1", "attn.head.3", "attn.in.group.2", "ffn.group.0", "ffn.group.5")
    removed = [*(f"layer.0.{part}" for part in first_layer), "layer.1.attn", "layer.1.ffn"]
    plan = plan_of(loaded.identity(), 8, *removed)
    described = by_hand.family
    first, second = layers_of(by_hand.model, described)
    with torch.no_grad():
        output = first.get_submodule(described.attention_output)
        output.weight[:, 8:16] = output.weight[:, 24:32] = 0
        for path in (described.query, described.key, described.value):
            first.get_submodule(path).weight[:, 16:24] = 0
        down = first.get_submodule(described.down)
        down.weight[:, 0:8] = down.weight[:, 40:48] = 0
        for path in (described.attention_output, described.down):
            second.get_submodule(path).weight.zero_()
            second.get_submodule(path).bias.zero_()
    batch = random_batch(loaded, random.Random(0), (3, 11))
    untouched = logits(loaded, batch)
    with apply_plan(loaded.model, plan):
        torch.testing.assert_close(logits(loaded, batch), logits(by_hand, batch), atol=1e-5, rtol=1e-5)
    assert torch.equal(logits(loaded, batch), untouched)
    assert not torch.allclose(untouched, logits(by_hand, batch), atol=1e-2)


@pytest.mark.parametrize("room", ["for everything", "for the layers", "for one layer"])
@pytest.mark.parametrize("family", FAMILIES)
def test_reused_activations_give_the_same_numbers(family, room):
    loaded, fresh = tiny_model(family, layers=4), tiny_model(family, layers=4)
    task, split = sentiment(loaded)
    generator = random.Random(3)
    current = ApproximationPlan.empty(loaded.identity(), 8)
    layer_bytes = 4 * 32 * sum(batch["input_ids"].size for _, batch in split.batches(8))
    cache_bytes = {"for everything": 100, "for the layers": 3, "for one layer": 1}[room] * layer_bytes
    reusing = Evaluator(loaded, task, split, current, batch_size=8, cache_bytes=cache_bytes)
    for trial in range(24):
        change = (_other_layer, _similar, _similar, _other_bits)[trial % 4]
        plan = change(current, loaded, generator)
        without = Evaluator(fresh, task, split, plan, batch_size=8, cache_bytes=0)
        assert reusing.measure_trial(plan) == without.measure()
        without.close()
        if generator.random() < 0.3:
            reusing.accept(plan)
            current = plan
            assert reusing.measure() == reusing.measure_trial(plan)
    reusing.close()
    assert predict(loaded, split, 8).tolist() == predict(fresh, split, 8).tolist()


def test_a_trial_in_bf16_depends_on_no_other():
    """Sign matching changes how all layers attend: what was kept before is none of its own, and the other way around."""
    loaded = tiny_model("bert", layers=3)
    task, split = sentiment(loaded)
    nothing = plan_of(loaded.identity(), 16)
    plans = [plan_of(loaded.identity(), 16, line) for line in ("layer.2.ffn", "layer.2.attn 4 majority")]

    def losses(plans):
        evaluator = Evaluator(tiny_model("bert", layers=3), task, split, nothing, batch_size=8, is_fast=True)
        return [evaluator.measure_trial(plan).loss for plan in plans]

    with computing_in_bf16(True):
        alone = [losses([plan])[0] for plan in plans]
        assert losses([*plans, *plans]) == [*alone, *alone]


def test_a_hopeless_trial_ends_early():
    loaded = tiny_model("bert", layers=2)
    task, split = sentiment(loaded)
    current = ApproximationPlan.empty(loaded.identity(), 8)
    evaluator = Evaluator(loaded, task, split, current, batch_size=8)
    batches = []
    loaded.model.register_forward_hook(lambda *_: batches.append(1))
    plan = current.without(Target(1, "ffn"))
    whole = evaluator.measure_trial(plan)
    assert len(batches) == 5
    assert evaluator.measure_trial(plan, whole.loss) == whole
    stopped = evaluator.measure_trial(plan, 0.5 * whole.loss)
    assert isinstance(stopped, Hopeless)
    assert 0.5 * whole.loss < stopped.loss < whole.loss
    assert 10 < len(batches) < 15
    assert evaluator.measure_trial(plan) == whole, "what a trial that ended early left behind changed a number"


def sentiment(loaded):
    task = with_columns(TASKS["glue/sst2"], ["sentence", "label"], "test")
    return task, encode(task, sentiment_rows(40), loaded.tokenizer, loaded.inputs, 64)


def _similar(current, loaded, generator):
    """One more target removed, as a search does, mostly in one layer."""
    layers = (2, generator.randrange(4))
    targets = [target for target in current.grid.targets() if target.layer in layers and not current.removes(target)]
    return current.without(generator.choice(targets)) or current


def _other_bits(current, loaded, generator):
    """Fewer bits for some of what is left, mostly in one layer."""
    return random_bits(current, generator, share=0.1)


def _other_layer(current, loaded, generator):
    """Another plan for one layer, which may bring back what was removed."""
    layer, other = generator.randrange(4), random_plan(loaded, generator, ("count",))
    elsewhere = (part for part in current.parts if part.target.layer != layer)
    return ApproximationPlan(
        model=current.model, group_size=current.group_size, parts=(*elsewhere, *other.layers[layer].parts)
    )
