"""A plan applied to a live model equals the same model with its weights edited by hand, and can be taken back."""

from __future__ import annotations

import random

import pytest
import torch
from axform.core.plan import ApproximationPlan
from axform.core.tasks import TASKS, with_columns
from axform.toolchain.apply import apply_plan, layers_of
from axform.toolchain.data import encode
from axform.toolchain.evaluation import Evaluator, predict
from support import FAMILIES, plan_of, random_batch, random_plan, sentiment_rows, tiny_model


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


@pytest.mark.parametrize("kept_layers", [3, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_reused_activations_give_the_same_numbers(family, kept_layers):
    """With room for the inputs of every layer, and of one."""
    loaded, fresh = tiny_model(family, layers=4), tiny_model(family, layers=4)
    task = with_columns(TASKS["glue/sst2"], ["sentence", "label"], "test")
    split = encode(task, sentiment_rows(40), loaded.tokenizer, loaded.inputs, 64)
    generator = random.Random(3)
    empty = ApproximationPlan.empty(loaded.identity(), 8)
    room = kept_layers * 4 * 32 * sum(batch["input_ids"].size for _, batch in split.batches(8))
    reusing = Evaluator(loaded, task, split, empty, batch_size=8, cache_bytes=room)
    assert len(reusing._kept_layers) == kept_layers
    current = empty
    for _ in range(12):
        layer, other = generator.randrange(4), random_plan(loaded, generator, ("count",))
        elsewhere = (part for part in current.parts if part.target.layer != layer)
        parts = (*elsewhere, *other.layers[layer].parts)
        plan = ApproximationPlan(model=current.model, group_size=current.group_size, parts=parts)
        without = Evaluator(fresh, task, split, plan, batch_size=8, cache_bytes=0)
        assert reusing.measure(plan) == without.measure()
        without.close()
        if generator.random() < 0.5:
            reusing.accept(plan)
            current = plan
    reusing.close()
    assert predict(loaded, split, 8).tolist() == predict(fresh, split, 8).tolist()
