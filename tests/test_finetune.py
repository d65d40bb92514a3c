"""Fine-tuning: the teacher's terms, the best epoch, and continuing a killed run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from axform.core.batches import EncodedSplit
from axform.core.plan import ApproximationPlan
from axform.core.tasks import TASKS, with_columns
from axform.toolchain.apply import apply_plan
from axform.toolchain.data import encode
from axform.toolchain.evaluation import Evaluator, predict
from axform.toolchain.finetune import fine_tune
from axform.toolchain.models import fingerprint
from axform.toolchain.options import FineTuneOptions
from support import FAMILIES, sentiment_rows, tiny_model

TASK = with_columns(TASKS["glue/sst2"], ["sentence", "label"], "test")


def splits(loaded):
    return (
        encode(TASK, sentiment_rows(n, seed), loaded.tokenizer, loaded.inputs, 64) for n, seed in ((96, 1), (32, 2))
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_teacher_wins_back_what_a_skipped_block_cost(family, tmp_path):
    teacher, student = tiny_model(family), tiny_model(family)
    train, selection = splits(teacher)
    plan = ApproximationPlan.empty(student.identity(), 8)
    plan.layers[1].feed_forward.skipped = True
    options = FineTuneOptions(epochs=4, learning_rate=3e-3, batch_size=8, teacher_weight=1.0)
    with torch.inference_mode():
        batch = {name: torch.from_numpy(value) for name, value in selection.batch(range(32)).items()}
        wanted = teacher.model(**batch).logits
        with apply_plan(student.model, plan):
            before = (student.model(**batch).logits - wanted).square().mean()
    frozen = fingerprint(teacher.model)
    with apply_plan(student.model, plan):
        fine_tune(student, TASK, train, selection, options, tmp_path / "work", teacher=teacher.model)
        with torch.inference_mode():
            after = (student.model(**batch).logits - wanted).square().mean()
    assert after < 0.7 * before
    assert fingerprint(teacher.model) == frozen


def test_the_best_epoch_is_kept_even_when_it_is_the_start(tmp_path):
    loaded = tiny_model("bert")
    train, selection = splits(loaded)
    selection = labelled_by_the_model(loaded, selection)
    start = fingerprint(loaded.model)
    ruinous = FineTuneOptions(epochs=2, learning_rate=5.0, batch_size=8)
    measured = fine_tune(loaded, TASK, train, selection, ruinous, tmp_path / "work", keep_start=True)
    assert len(measured) == 3 and measured[0].metric == 1.0
    assert fingerprint(loaded.model) == start


def labelled_by_the_model(loaded, split):
    """The split with the model's own predictions as labels, half of each class: the model is perfect before training."""
    logits = predict(loaded, split, 8)
    with torch.no_grad():
        loaded.model.classifier.bias[1] -= float(np.median(logits[:, 1] - logits[:, 0]))
    return EncodedSplit(split.features, predict(loaded, split, 8).argmax(-1), split.pad_values)


def test_a_killed_training_continues_after_its_last_epoch(tmp_path):
    undisturbed, killed = tiny_model("distilbert"), tiny_model("distilbert")
    train, selection = splits(undisturbed)
    options = FineTuneOptions(epochs=3, learning_rate=1e-3, batch_size=8)
    whole = fine_tune(undisturbed, TASK, train, selection, options, tmp_path / "a")

    class Killed(Exception):
        pass

    def kill(step, steps, loss):
        if step == 20:  # in the second of three epochs of 12 steps
            raise Killed

    with pytest.raises(Killed):
        fine_tune(killed, TASK, train, selection, options, tmp_path / "b", on_step=kill)
    steps = []
    again = tiny_model("distilbert")
    resumed = fine_tune(
        again, TASK, train, selection, options, tmp_path / "b", on_step=lambda step, *_: steps.append(step)
    )
    assert steps == list(range(13, 37))
    assert len(resumed) == 3
    assert [m.loss for m in resumed] == pytest.approx([m.loss for m in whole], rel=1e-3)


def test_the_plan_stays_applied_during_training(tmp_path):
    loaded = tiny_model("electra")
    train, selection = splits(loaded)
    plan = ApproximationPlan.empty(loaded.identity(), 8)
    plan.layers[0].attention.pruned_heads = [0]
    projection = loaded.model.get_submodule(loaded.family.scope(0, loaded.family.attention_output))
    before = projection.weight.detach().clone()
    with apply_plan(loaded.model, plan):
        last = fine_tune(
            loaded, TASK, train, selection, FineTuneOptions(epochs=1, learning_rate=1e-2, batch_size=8), tmp_path / "w"
        )[-1]
    changed = (projection.weight - before).abs().sum(0)
    assert changed[8:].min() > 0, "the remaining heads must learn"
    # Weights that only a pruned head reads get no gradient; AdamW's default here has no weight decay.
    assert changed[:8].max() == 0
    evaluator = Evaluator(loaded, TASK, selection, plan, batch_size=32)
    assert evaluator.measure().loss == pytest.approx(last.loss, rel=1e-4)
    evaluator.close()
