"""Fine-tuning: the teacher's terms, the best epoch, and continuing a killed run."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from axform.core.tasks import TASKS, with_columns
from axform.errors import AxformError
from axform.toolchain.apply import apply_plan
from axform.toolchain.data import encode
from axform.toolchain.evaluation import predict
from axform.toolchain.finetune import fine_tune
from axform.toolchain.losses import task_loss
from axform.toolchain.models import fingerprint
from axform.toolchain.noise import TokenNoise
from axform.toolchain.options import FineTuneOptions
from axform.toolchain.precision import computing_in_bf16
from axform.toolchain.teacher import Committee, recorded
from support import FAMILIES, plan_of, sentiment_rows, tiny_model

TASK = with_columns(TASKS["glue/sst2"], ["sentence", "label"], "test")
OPTIONS = FineTuneOptions(epochs=3, learning_rate=1e-3, batch_size=8)


def splits(loaded):
    return (
        encode(TASK, sentiment_rows(n, seed), loaded.tokenizer, loaded.inputs, 64) for n, seed in ((96, 1), (32, 2))
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_teacher_wins_back_what_a_skipped_block_cost(family, tmp_path):
    teacher, student = tiny_model(family), tiny_model(family)
    train, selection = splits(teacher)
    plan = plan_of(student.identity(), 8, "layer.1.ffn")
    options = FineTuneOptions(epochs=4, learning_rate=3e-3, batch_size=8, teacher_weight=1.0)
    with torch.inference_mode():
        batch = {name: torch.from_numpy(value) for name, value in selection.batch(range(32)).items()}
        wanted = teacher.model(**batch).logits
        with apply_plan(student.model, plan):
            before = (student.model(**batch).logits - wanted).square().mean()
    frozen = fingerprint(teacher.model)
    with apply_plan(student.model, plan):
        fine_tune(
            student, TASK, train, selection, options, tmp_path / "work", teacher=recorded(Committee(teacher), train, 8)
        )
        with torch.inference_mode():
            after = (student.model(**batch).logits - wanted).square().mean()
    assert after < 0.7 * before
    assert fingerprint(teacher.model) == frozen


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_learns_without_noise_and_keeps_the_word_embeddings(family, tmp_path):
    loaded = tiny_model(family)
    train, selection = splits(loaded)
    noise = {name: module.p for name, module in loaded.model.named_modules() if isinstance(module, torch.nn.Dropout)}
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    seen = []
    loaded.model.register_forward_pre_hook(
        lambda model, _: seen.append({module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)})
    )
    options = FineTuneOptions(epochs=1, learning_rate=1e-3, batch_size=8)
    fine_tune(
        loaded, TASK, train, selection, options, tmp_path / "taught", teacher=recorded(Committee(loaded), train, 8)
    )
    assert any(noise.values()) and all(shares == {0.0} for shares in seen[-12:])
    table = next(name for name in before if name.endswith("word_embeddings.weight"))
    after = loaded.model.state_dict()
    assert torch.equal(after[table], before[table])
    assert any(not torch.equal(after[name], before[name]) for name in before)

    fine_tune(loaded, TASK, train, selection, options, tmp_path / "alone")
    assert seen[-1] == set(noise.values()) and not torch.equal(loaded.model.state_dict()[table], before[table])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("teachers", [1, 2])
def test_recorded_answers_are_those_of_the_committee(family, teachers):
    loaded, *others = (tiny_model(family, seed=seed) for seed in range(teachers))
    train, _ = splits(loaded)
    asked = Committee(loaded, others)
    once = recorded(asked, train, 8)
    assert once is not asked and recorded(asked, train, 8, most_bytes=0) is asked
    rows = torch.tensor([90, 3, 41, 3])
    inputs = {name: torch.from_numpy(value) for name, value in train.batch(rows.tolist()).items()}
    ours, theirs = once.answer(rows, inputs), asked.answer(rows, inputs)
    torch.testing.assert_close(ours.logits, theirs.logits, atol=0.05, rtol=0.05)  # bf16 of batches of other lengths
    assert len(ours.hidden_states) == len(theirs.hidden_states) == loaded.shape.num_layers
    for mine, other in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        torch.testing.assert_close(mine.float(), other.float(), atol=0.05, rtol=0.05)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_committee_answers_with_the_mean_of_its_members(family):
    members = [tiny_model(family, seed=seed) for seed in range(3)]
    train, _ = splits(members[0])
    inputs = {name: torch.from_numpy(value) for name, value in train.batch([5, 60, 2]).items()}
    answers = Committee(members[0], members[1:]).answer(torch.tensor([5, 60, 2]), inputs)
    with torch.inference_mode():
        outputs = [member.model(**inputs, output_hidden_states=True) for member in members]
    wanted = sum(output.logits.double() for output in outputs) / 3
    torch.testing.assert_close(answers.logits.double(), wanted, atol=0.05, rtol=0.05)  # bf16 where it is fast
    real = inputs["attention_mask"].bool()
    for ours, theirs in zip(answers.hidden_states, outputs[0].hidden_states[1:], strict=True):
        torch.testing.assert_close(ours.float(), theirs[real], atol=0.1, rtol=0.05)


def test_noise_replaces_tokens_of_most_rows_and_never_special_ones():
    train, _ = splits(tiny_model("bert"))
    special = [0, 1, 2, 3]
    batch = {name: torch.from_numpy(value) for name, value in train.batch(range(96)).items()}
    noise = TokenNoise(train, special, seed=4)
    tokens, changed = batch["input_ids"], noise(batch, 7)["input_ids"]
    is_special = torch.isin(tokens, torch.tensor(special))
    assert torch.equal(changed[is_special], tokens[is_special])
    assert not torch.isin(changed[~is_special], torch.tensor(special)).any()
    assert set(changed.unique().tolist()) <= set(tokens.unique().tolist()), "no token that the split does not have"
    share = (changed != tokens)[~is_special].float().mean()
    assert 0.05 < share < 0.15  # 0.7 x 0.15, less what was replaced by itself
    assert 0.2 < (changed == tokens).all(1).float().mean() < 0.6
    assert all(torch.equal(batch[name], value) for name, value in noise(batch, 7).items() if name != "input_ids")
    assert torch.equal(noise(batch, 7)["input_ids"], changed) and not torch.equal(noise(batch, 8)["input_ids"], changed)


def test_noise_leaves_a_split_of_special_tokens_as_it_is():
    train, _ = splits(tiny_model("bert"))
    batch = {"input_ids": torch.tensor([[2, 3]])}
    assert TokenNoise(train, range(64), seed=0)(batch, 1) is batch


def test_a_committee_teaches_what_no_label_says(tmp_path):
    """Labels are noise here; the student comes closer to the mean of its teachers all the same, on unseen rows."""
    members, student = [tiny_model("bert", seed=seed, std=0.1) for seed in (1, 2)], tiny_model("bert", std=0.1)
    train, selection = splits(student)
    train = replace(train, labels=np.random.default_rng(0).permutation(train.labels))
    committee = Committee(members[0], members[1:])
    rows = torch.arange(32)
    inputs = {name: torch.from_numpy(value) for name, value in selection.batch(range(32)).items()}

    def distance():
        with torch.inference_mode():
            logits = student.model(**inputs).logits
        return (logits.softmax(-1) - committee.answer(rows, inputs).logits.softmax(-1)).square().mean()

    before = distance()
    options = FineTuneOptions(epochs=8, learning_rate=3e-3, batch_size=8, hidden_weight=0.0, is_noisy=True)
    fine_tune(student, TASK, train, selection, options, tmp_path / "work", teacher=committee)
    assert distance() < 0.3 * before


def test_the_best_epoch_is_kept(tmp_path, monkeypatch):
    """Of three the second, whatever came after it."""
    loaded = tiny_model("bert")
    train, selection = splits(loaded)
    metrics, weights = iter([0.5, 0.9, 0.8]), []

    def measured(*_):
        weights.append(fingerprint(loaded.model))
        return next(metrics)

    monkeypatch.setattr("axform.toolchain.finetune.compute_metric", measured)
    assert [m.metric for m in fine_tune(loaded, TASK, train, selection, OPTIONS, tmp_path / "work")] == [0.5, 0.9, 0.8]
    assert fingerprint(loaded.model) == weights[1] != weights[2]


class Killed(Exception):
    pass


def cut_optimizer(monkeypatch, folder, training):
    """Killed while the second checkpoint is written: its optimizer state is half there."""
    save = torch.save

    def half(state, path, *arguments, **options):
        if "checkpoint-24" in str(path) and "optimizer" in str(path):
            Path(path).write_bytes(b"half")
            raise Killed
        save(state, path, *arguments, **options)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(torch, "save", half)
        training(folder)


def without(*names):
    """Killed after the second checkpoint, which then loses files."""

    def lose(monkeypatch, folder, training):
        with pytest.raises(Killed):
            training(folder, kill_at=30)
        for name in names:
            (folder / "checkpoint-24" / name).unlink()

    return lose


@pytest.mark.parametrize(
    ("harm", "first_step"),
    [
        (cut_optimizer, 13),
        (without("optimizer.pt"), None),
        (without("scheduler.pt", "rng_state.pth"), None),
        (without("epochs.json"), None),
        (without("seal.json"), None),
        (without(), 25),
    ],
    ids=["killed while saving", "no optimizer", "no scheduler", "no measurements", "not sealed", "whole"],
)
def test_only_a_whole_checkpoint_is_continued_from(tmp_path, monkeypatch, harm, first_step):
    """Whatever is left of the second of three checkpoints, the weights in the end are those of an undisturbed run."""
    steps = []

    def training(folder, kill_at=None):
        loaded = tiny_model("distilbert")
        train, selection = splits(loaded)
        steps.clear()

        def on_step(step, *_):
            steps.append(step)
            if step == kill_at:
                raise Killed

        fine_tune(loaded, TASK, train, selection, OPTIONS, folder, on_step=on_step)
        return fingerprint(loaded.model)

    undisturbed = training(tmp_path / "a")
    harm(monkeypatch, tmp_path / "b", training)
    assert training(tmp_path / "b") == undisturbed
    # The best checkpoint may be an earlier one that is still there; never is the damaged one continued from.
    assert steps[0] in ((1, 13) if first_step is None else (first_step,))
    assert training(tmp_path / "b") == undisturbed and not steps, "a finished training only returns its best epoch"


def test_a_training_killed_within_an_epoch_goes_on_there(tmp_path, monkeypatch):
    """Twice in the second epoch of three, whose order was drawn after a restart: same rows, same weights."""
    seen = []

    def training(folder, kill_at=None):
        loaded = tiny_model("bert")
        train, selection = splits(loaded)
        seen.append([])

        def on_step(step, *_):
            seen[-1].append(step)
            if step == kill_at:
                raise Killed

        fine_tune(loaded, TASK, train, selection, OPTIONS, folder, on_step=on_step)
        return fingerprint(loaded.model)

    undisturbed = training(tmp_path / "a")
    monkeypatch.setattr("axform.toolchain.finetune._SAVE_SECONDS", 0.0)
    assert training(tmp_path / "b") == undisturbed, "saving must not disturb"
    for kill_at in (6, 12, 13, 18, 22):
        with pytest.raises(Killed):
            training(tmp_path / "c", kill_at)
    assert training(tmp_path / "c") == undisturbed
    assert [steps[0] for steps in seen[2:]] == [1, 6, 12, 13, 18, 22]


@pytest.mark.parametrize("rate", [1e10, 1e3])
def test_a_training_that_diverges_says_so(tmp_path, rate):
    loaded = tiny_model("bert")
    train, selection = splits(loaded)
    options = FineTuneOptions(epochs=1, learning_rate=rate, batch_size=8)
    with pytest.raises(AxformError, match=re.escape(f"--learning-rate smaller than {rate:g}")) as caught:
        fine_tune(loaded, TASK, train, selection, options, tmp_path / "w")
    assert "the training diverged: " in str(caught.value)


def test_bf16_stays_off_the_model(tmp_path):
    loaded = tiny_model("bert")
    train, selection = splits(loaded)
    with computing_in_bf16(True):
        measured = fine_tune(loaded, TASK, train, selection, OPTIONS, tmp_path / "w")
    assert "forward" not in vars(loaded.model)
    assert all(parameter.dtype == torch.float32 for parameter in loaded.model.parameters())
    loss = task_loss(TASK, torch.from_numpy(predict(loaded, selection, 8)), torch.from_numpy(selection.labels)).item()
    assert loss in [m.loss for m in measured]


def test_the_plan_stays_applied_during_training(tmp_path):
    loaded = tiny_model("electra")
    train, selection = splits(loaded)
    plan = plan_of(loaded.identity(), 8, "layer.0.attn.head.0")
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
    with apply_plan(loaded.model, plan):
        logits = torch.from_numpy(predict(loaded, selection, 32))
    loss = task_loss(TASK, logits, torch.from_numpy(selection.labels)).item()
    assert loss == pytest.approx(last.loss, rel=1e-4)
