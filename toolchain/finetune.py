"""Fine-tuning through transformers.Trainer: the baseline, and the approximated model with the baseline as teacher."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from ..core.batches import EncodedSplit
from ..core.metrics import Measurement, compute_metric
from ..core.tasks import Task
from .evaluation import predict, task_loss
from .models import LoadedModel, without_progress_bar
from .options import FineTuneOptions

__all__ = ["FineTuneOptions", "fine_tune"]


def fine_tune(
    loaded: LoadedModel,
    task: Task,
    train: EncodedSplit,
    selection: EncodedSplit,
    options: FineTuneOptions,
    work_dir: Path,
    *,
    teacher: PreTrainedModel | None = None,
    keep_start: bool = False,
    on_step: Callable[[int, int, float], None] | None = None,
) -> list[Measurement]:
    """Train in place and leave the model with the weights of its best epoch on the selection split.

    Checkpoints go to ``work_dir``, so that a killed run continues after its last full epoch; they are deleted at the
    end.

    Args:
        teacher: an already fine-tuned model of the same task whose logits are distilled.
        keep_start: count the weights before training as a candidate too.
        on_step: called with (step, steps, training loss).

    Returns:
        The selection measurements after each epoch, with ``keep_start`` preceded by the one before training.
    """
    watcher = _BestEpoch(loaded, task, selection, options.batch_size, work_dir / "best.pt", on_step)
    if keep_start and not watcher.by_epoch:
        watcher.record(epoch=0)
    arguments = TrainingArguments(
        output_dir=str(work_dir),
        num_train_epochs=options.epochs,
        learning_rate=options.learning_rate,
        per_device_train_batch_size=options.batch_size,
        seed=options.seed,
        data_seed=options.seed,
        bf16=_has_fast_bf16(),
        use_cpu=not torch.cuda.is_available(),
        save_strategy="epoch",
        save_total_limit=1,
        logging_strategy="steps",
        logging_steps=10,
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
    )
    trainer.remove_callback(PrinterCallback)
    with without_progress_bar():
        trainer.train(resume_from_checkpoint=get_last_checkpoint(str(work_dir)) if work_dir.is_dir() else None)
    loaded.model.load_state_dict(torch.load(watcher.path, weights_only=True))
    loaded.model.eval()
    shutil.rmtree(work_dir)
    return list(watcher.by_epoch.values())


def _has_fast_bf16() -> bool:
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    cpu: Any = torch.cpu
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


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
        indices = [sample["index"] for sample in samples]
        batch = {name: torch.from_numpy(value) for name, value in self._split.batch(indices).items()}
        return {**batch, "labels": torch.from_numpy(self._split.labels[indices])}


class _DistillingTrainer(Trainer):
    """Task loss, mixed with the soft cross-entropy to the teacher's logits (squared error for a regression)."""

    def __init__(
        self,
        *,
        task: Task,
        teacher: PreTrainedModel | None,
        options: FineTuneOptions,
        key_mask: str,
        **trainer_options: Any,
    ) -> None:
        super().__init__(**trainer_options)
        self._task = task
        self._options = options
        self._key_mask = key_mask
        self._teacher = None if teacher is None else teacher.eval().to(self.args.device)

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any
    ) -> Tensor | tuple[Tensor, Any]:
        labels = inputs.pop("labels")
        outputs = model(**inputs, output_hidden_states=self._teacher is not None)
        loss = task_loss(self._task, outputs.logits, labels)
        if self._teacher is not None:
            with torch.no_grad():
                wanted = self._teacher(**inputs, output_hidden_states=True)
            share = self._options.teacher_weight
            loss = (1 - share) * loss + share * self._logits_loss(outputs.logits.float(), wanted.logits.float())
            if self._options.hidden_weight:
                real = inputs[self._key_mask].bool()
                loss = loss + self._options.hidden_weight * _hidden_loss(outputs, wanted, real)
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


def _hidden_loss(outputs: Any, wanted: Any, real: Tensor) -> Tensor:
    """How far the hidden states after each layer are from the teacher's, on real tokens; 1 = as far as zeros are.

    The student is the teacher with parts missing, so layers correspond one to one. ``real`` is (batch, sequence).
    """
    layers = zip(outputs.hidden_states[1:], wanted.hidden_states[1:], strict=True)
    distances = [(ours[real] - theirs[real]).square().mean() / theirs[real].square().mean() for ours, theirs in layers]
    return torch.stack(distances).mean()


class _BestEpoch(TrainerCallback):
    """Measures the selection split after each epoch and keeps the weights of the best one on disk."""

    def __init__(
        self,
        loaded: LoadedModel,
        task: Task,
        selection: EncodedSplit,
        batch_size: int,
        path: Path,
        on_step: Callable[[int, int, float], None] | None,
    ) -> None:
        self._loaded, self._task, self._selection, self._batch_size = loaded, task, selection, batch_size
        self._on_step = on_step
        self._loss = float("nan")
        self.path = path
        self.by_epoch: dict[int, Measurement] = {}
        if path.exists():
            saved = torch.load(self._measurements_path, weights_only=True)
            self.by_epoch = {epoch: Measurement(loss, metric) for epoch, loss, metric in saved}

    @property
    def _measurements_path(self) -> Path:
        return self.path.with_name("measurements.pt")

    def record(self, epoch: int) -> None:
        logits = predict(self._loaded, self._selection, self._batch_size)
        labels = self._selection.labels
        loss = task_loss(self._task, torch.from_numpy(logits), torch.from_numpy(labels)).item()
        measured = Measurement(loss, compute_metric(self._task.metric, logits, labels))
        self.by_epoch.pop(epoch, None)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if all(_rank(measured) > _rank(other) for other in self.by_epoch.values()):
            temporary = self.path.with_suffix(".tmp")
            torch.save(self._loaded.model.state_dict(), temporary)
            temporary.replace(self.path)
        self.by_epoch[epoch] = measured
        torch.save([(number, m.loss, m.metric) for number, m in self.by_epoch.items()], self._measurements_path)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.record(round(state.epoch))
        self._loaded.model.train()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        self._loss = (logs or {}).get("loss", self._loss)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._on_step is not None:
            self._on_step(state.global_step, state.max_steps, self._loss)


def _rank(measured: Measurement) -> tuple[float, float]:
    return (measured.metric, -measured.loss)
