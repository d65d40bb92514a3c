"""Fine-tuning through transformers.Trainer: the baseline, and the approximated model with the baseline as teacher."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from ..core.batches import EncodedSplit
from ..core.metrics import Measurement, compute_metric
from ..core.tasks import Task
from ..errors import AxformError
from ..files import writing
from .checkpoints import Checkpoints
from .evaluation import predict
from .losses import constant_loss, has_label, task_loss
from .models import LoadedModel, without_progress_bar
from .noise import TokenNoise
from .options import FineTuneOptions
from .precision import in_fast_precision
from .student import learning_from_teacher
from .teacher import Teacher
from .threads import timed_step

__all__ = ["fine_tune"]

_DIVERGED = 10.0
"""Times the loss of a constant answer: what no training that learns anything comes near."""
_SAVE_SECONDS = 300.0
"""Between two checkpoints in an epoch that takes longer than that."""


def fine_tune(
    loaded: LoadedModel,
    task: Task,
    train: EncodedSplit,
    selection: EncodedSplit,
    options: FineTuneOptions,
    work_dir: Path,
    *,
    teacher: Teacher | None = None,
    on_step: Callable[[int, int, float | None], None] | None = None,
) -> list[Measurement]:
    """Train in place and leave the model with the weights of its best epoch on the selection split.

    Checkpoints go to ``work_dir`` after each epoch and every few minutes, so that a killed run continues from there;
    they stay until the caller, who has saved the result, deletes them.

    Args:
        teacher: an already fine-tuned model of the same task and shape, whose logits and hidden states are distilled.
        on_step: called with (step, steps, training loss, None as long as it is not known).

    Returns:
        The selection measurements after each epoch.

    Raises:
        AxformError: the training diverged, or the disk is full.
    """
    taught = nullcontext() if teacher is None else learning_from_teacher(loaded.model)
    with writing(work_dir), without_progress_bar(), taught:
        checkpoints = Checkpoints(work_dir)
        order = _Order(checkpoints.order)
        watcher = _Watcher(loaded, task, selection, options, checkpoints, order, on_step)
        trainer = _trainer(loaded, task, train, options, work_dir, teacher, watcher, order)
        trainer.train(resume_from_checkpoint=None if checkpoints.last is None else str(checkpoints.last))
    watcher.check_learnt()
    loaded.model.load_state_dict(checkpoints.best_weights())
    loaded.model.eval()
    return checkpoints.measurements


def _trainer(
    loaded: LoadedModel,
    task: Task,
    train: EncodedSplit,
    options: FineTuneOptions,
    work_dir: Path,
    teacher: Teacher | None,
    watcher: TrainerCallback,
    order: _Order,
) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(work_dir),
        num_train_epochs=options.epochs,
        learning_rate=options.learning_rate,
        per_device_train_batch_size=options.batch_size,
        seed=options.seed,
        data_seed=options.seed,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="epoch",
        save_total_limit=None,  # the watcher deletes what is not needed, once its successor is whole
        logging_strategy="steps",
        logging_steps=10,
        logging_nan_inf_filter=False,
        train_sampling_strategy="group_by_length",
        disable_tqdm=True,
        report_to=[],
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    trainer = _DistillingTrainer(
        model=loaded.model,
        args=arguments,
        train_dataset=_Samples(train),
        data_collator=_Collator(train),
        callbacks=[watcher],
        task=task,
        teacher=teacher,
        options=options,
        key_mask=loaded.family.attention_mask,
        noise=TokenNoise(train, loaded.tokenizer.all_special_ids, options.seed) if options.is_noisy else None,
        order=order,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


class _Samples(torch.utils.data.Dataset):
    """Sample numbers, with the tokens that the sampler groups by length; the collator makes the padded batch."""

    def __init__(self, split: EncodedSplit) -> None:
        self._tokens = split.features["input_ids"]

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"index": index, "input_ids": self._tokens[index]}


class _Collator:
    def __init__(self, split: EncodedSplit) -> None:
        self._split = split

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Tensor]:
        rows = [sample["index"] for sample in samples]
        batch = {name: torch.from_numpy(value) for name, value in self._split.batch(rows).items()}
        return {**batch, "labels": torch.from_numpy(self._split.labels[rows]), "rows": torch.tensor(rows)}


class _Order:
    """The order of rows in an epoch, which is drawn from torch's generator when the epoch begins, and can be drawn again.

    Args:
        again: what the first epoch's is drawn from; None = the generator as it is.

    Attributes:
        drawn_from: state of the generator before the last order was drawn.
    """

    def __init__(self, again: Tensor | None) -> None:
        self._again = again
        self.drawn_from: Tensor | None = None

    def of(self, sampler: torch.utils.data.Sampler) -> torch.utils.data.Sampler:
        return _Drawn(self, sampler)

    def begin(self) -> None:
        """An epoch's order is about to be drawn."""
        if self._again is not None:
            torch.set_rng_state(self._again)
            self._again = None
        self.drawn_from = torch.get_rng_state()


class _Drawn(torch.utils.data.Sampler):
    def __init__(self, order: _Order, sampler: Any) -> None:
        self._order, self._sampler = order, sampler

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[int]:
        self._order.begin()
        return iter(self._sampler)


class _DistillingTrainer(Trainer):
    """Task loss, mixed with the soft cross-entropy to the teacher's logits (squared error for a regression).

    On inputs that noise has changed or that have no labels, the teacher's answers are all there is to learn from.

    The student runs in bf16 where the hardware has it. That stands here, around the student's forward, and not in
    Trainer's ``bf16``, which wraps the model itself and leaves it so: what is measured and shipped is float32.
    """

    def __init__(
        self,
        *,
        task: Task,
        teacher: Teacher | None,
        options: FineTuneOptions,
        key_mask: str,
        noise: TokenNoise | None,
        order: _Order,
        **trainer_options: Any,
    ) -> None:
        super().__init__(**trainer_options)
        self._task = task
        self._options = options
        self._key_mask = key_mask
        self._teacher = teacher
        self._noise = noise
        self._order = order

    def _get_train_sampler(self, *arguments: Any) -> Any:
        return self._order.of(super()._get_train_sampler(*arguments))

    def training_step(self, model: Any, inputs: dict[str, Tensor], *args: Any, **options: Any) -> Tensor:
        with timed_step("training", inputs["input_ids"].numel()):
            return super().training_step(model, inputs, *args, **options)

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any
    ) -> Tensor | tuple[Tensor, Any]:
        labels, rows = inputs.pop("labels"), inputs.pop("rows")
        if self._noise is not None:
            inputs = self._noise(inputs, self.state.global_step)
        with in_fast_precision(self.model, inputs["input_ids"].shape[1]):
            outputs = model(**inputs, output_hidden_states=self._teacher is not None)
        if self._teacher is None:
            loss = task_loss(self._task, outputs.logits, labels)
        else:
            wanted = self._teacher.answer(rows, inputs)
            share = self._options.teacher_weight if self._noise is None else 1.0
            loss = share * self._logits_loss(outputs.logits.float(), wanted.logits)
            labelled = has_label(self._task, labels)
            if share < 1 and labelled.any():
                ours = task_loss(self._task, outputs.logits[labelled], labels[labelled])
                loss = loss + (1 - share) * labelled.float().mean() * ours
            if self._options.hidden_weight:
                real = inputs[self._key_mask].bool()
                states = [states[real] for states in outputs.hidden_states[1:]]
                loss = loss + self._options.hidden_weight * _hidden_loss(states, wanted.hidden_states)
        return (loss, outputs) if return_outputs else loss

    def _logits_loss(self, logits: Tensor, wanted: Tensor) -> Tensor:
        if self._task.is_regression:
            return torch.nn.functional.mse_loss(logits, wanted)
        temperature = self._options.temperature
        divergence = torch.nn.functional.kl_div(
            (logits / temperature).log_softmax(-1),
            (wanted / temperature).log_softmax(-1),
            reduction="batchmean",
            log_target=True,
        )
        return divergence * temperature**2


def _hidden_loss(states: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """How far the hidden states after each layer are from the teacher's, (tokens, hidden size); 1 = as far as zeros are.

    The student is the teacher with parts missing, so layers correspond one to one.
    """
    distances = [
        (ours.float() - theirs.float()).square().mean() / theirs.float().square().mean()
        for ours, theirs in zip(states, wanted, strict=True)
    ]
    return torch.stack(distances).mean()


class _Watcher(TrainerCallback):
    """Measures the selection split after each epoch, has checkpoints made and seals them, and notices a training that
    diverges."""

    def __init__(
        self,
        loaded: LoadedModel,
        task: Task,
        selection: EncodedSplit,
        options: FineTuneOptions,
        checkpoints: Checkpoints,
        order: _Order,
        on_step: Callable[[int, int, float | None], None] | None,
    ) -> None:
        self._loaded, self._task, self._selection, self._options = loaded, task, selection, options
        self._checkpoints = checkpoints
        self._order = order
        self._on_step = on_step
        self._loss: float | None = None
        self._saved_at = time.monotonic()

    def measure(self, epoch: int, step: int) -> None:
        logits = predict(self._loaded, self._selection, self._options.batch_size)
        labels = self._selection.labels
        loss = task_loss(self._task, torch.from_numpy(logits), torch.from_numpy(labels)).item()
        self._check_converges(loss, f"selection loss after epoch {epoch}")
        self._checkpoints.record(epoch, step, Measurement(loss, compute_metric(self._task.metric, logits, labels)))

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.measure(round(state.epoch), state.global_step)
        self._loaded.model.train()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._checkpoints.commit(state.global_step, self._order.drawn_from if _is_within_epoch(state) else None)
        self._saved_at = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self._loss = loss = logs["loss"]
            self._check_converges(loss, f"training loss at step {state.global_step}")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if _is_within_epoch(state) and time.monotonic() - self._saved_at > _SAVE_SECONDS:
            control.should_save = True
        if self._on_step is not None:
            self._on_step(state.global_step, state.max_steps, self._loss)

    def check_learnt(self) -> None:
        """Refuse a model whose best epoch is far worse than saying the same of every sample."""
        best, constant = self._checkpoints.best, constant_loss(self._task, self._selection.labels)
        if best.loss > _DIVERGED * constant:
            raise self._diverged(
                f"the best selection loss is {best.loss:.4g}, where the same answer for every sample has {constant:.4g}"
            )

    def _check_converges(self, loss: float, what: str) -> None:
        if not math.isfinite(loss):
            raise self._diverged(f"{what} is {loss}")

    def _diverged(self, why: str) -> AxformError:
        return AxformError(
            f"the training diverged: {why}. Start again with --overwrite and a {self._options.learning_rate_option} "
            f"smaller than {self._options.learning_rate:g}."
        )


def _is_within_epoch(state: Any) -> bool:
    return not float(state.epoch).is_integer()
