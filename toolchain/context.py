"""What the stages of a run share: its options, folder and rows, and how models are loaded, trained and measured.

Weights are measured after they were saved and loaded again: what is measured is what is shipped.
"""

from __future__ import annotations

import math
import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.batches import EncodedSplit
from ..core.metrics import Measurement
from ..core.plan import ApproximationPlan
from ..core.progress import Progress
from ..core.tasks import Task
from ..errors import AxformError
from ..seals import damage
from .apply import apply_plan
from .evaluation import Evaluator, predict
from .finetune import fine_tune
from .models import LoadedModel, load_fine_tuned, preferred_device, without_progress_bar
from .options import FineTuneOptions, OptimizeOptions
from .run_folder import RunFolder
from .teacher import Committee, Teacher, recorded

__all__ = ["RunContext", "Splits", "save_model"]


@dataclass(frozen=True)
class Splits:
    """The tokenized rows of a run."""

    train: EncodedSplit
    lessons: EncodedSplit
    """What the rounds learn from: rows of train as long as those of ``report``, where enough are, then those without labels."""
    selection: EncodedSplit
    """Judges trials and epochs."""
    acceptance: EncodedSplit
    """Decides whether a round is kept; no trial sees it."""
    report: EncodedSplit
    """Decides nothing."""


class RunContext:
    """One run at work."""

    def __init__(
        self, options: OptimizeOptions, run: RunFolder, task: Task, splits: Splits, progress: Progress
    ) -> None:
        self.options = options
        self.run = run
        self.task = task
        self.splits = splits
        self.progress = progress
        self._device = preferred_device()

    def is_missing(self, folder: Path) -> bool:
        """Whether a sealed folder must be made; one that is damaged is said."""
        what = damage(folder)
        if what is not None and folder.exists():
            self.progress.message(f"{folder}: {what}; it is made again")
        return what is not None

    def reload(self, folder: Path) -> LoadedModel:
        loaded = load_fine_tuned(folder)
        loaded.model.to(self._device)
        return loaded

    def fine_tune(
        self,
        loaded: LoadedModel,
        epochs: int,
        name: str,
        plan: ApproximationPlan | None = None,
        teacher: Teacher | None = None,
        seed: int | None = None,
        gains: bool = False,
    ) -> None:
        """Train in place, with checkpoints under ``name`` that stay until `forget_training`.

        Args:
            plan: applied during the training, which then is to win back what it costs.
            gains: the training is to become better than its hidden states were, which then are not learnt, on inputs
                that are answered in every step.
            seed: None = the run's.
        """
        rate = ("--learning-rate", self.options.learning_rate)
        if plan is not None:
            recovering, gaining = self.options.recovering_rate, self.options.gaining_rate
            rate = ("--final-learning-rate", gaining if gains else recovering)
        options = FineTuneOptions(
            epochs=epochs,
            learning_rate=rate[1],
            learning_rate_option=rate[0],
            batch_size=self.options.batch_size,
            seed=self.options.seed if seed is None else seed,
            hidden_weight=0.0 if gains else FineTuneOptions.hidden_weight,
            is_noisy=gains,
        )
        loaded.model.to(self._device)
        with nullcontext() if plan is None else apply_plan(loaded.model, plan):
            fine_tune(
                loaded,
                self.task,
                self.splits.train if plan is None else self.splits.lessons,
                self.splits.selection,
                options,
                self.run.training(name),
                teacher=teacher,
                on_step=self._report_step,
            )

    def committee(self, first: LoadedModel) -> Committee:
        """The model and the run's other teachers."""
        return Committee(first, [self.reload(self.run.teacher(number)) for number in range(1, self.options.teachers)])

    def recorded(self, first: LoadedModel) -> Teacher:
        """What its committee answers to the lessons, for all epochs and rounds."""
        self.progress.stage("recording the teacher's answers")
        return recorded(self.committee(first), self.splits.lessons, self.options.batch_size, self.progress.step)

    def forget_training(self, name: str) -> None:
        """Delete the checkpoints of a fine-tuning whose result is saved."""
        shutil.rmtree(self.run.training(name), ignore_errors=True)

    def measure(self, loaded: LoadedModel, plan: ApproximationPlan) -> Measurement:
        """Loss and metric on the selection split under a plan.

        Raises:
            AxformError: they are not finite.
        """
        evaluator = Evaluator(
            loaded, self.task, self.splits.selection, plan, batch_size=self.options.batch_size, cache_bytes=0
        )
        try:
            measured = evaluator.measure()
        finally:
            evaluator.close()
        if not math.isfinite(measured.loss) or not math.isfinite(measured.metric):
            raise AxformError(
                f"the model's loss on the selection split is {measured.loss} and its {self.task.metric} "
                f"{measured.metric}: its weights or answers overflow; give another model, or fine-tune it with a smaller "
                "--learning-rate."
            )
        return measured

    def logits(self, loaded: LoadedModel, plan: ApproximationPlan, split: EncodedSplit) -> np.ndarray:
        """Of every sample of a split under a plan, (samples, labels)."""
        with apply_plan(loaded.model, plan):
            return predict(loaded, split, self.options.batch_size)

    def _report_step(self, done: int, total: int, loss: float | None) -> None:
        self.progress.step(done, total, "" if loss is None else f"loss {loss:.4f}")


def save_model(loaded: LoadedModel, folder: Path) -> None:
    """Weights, config and tokenizer."""
    with without_progress_bar():
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
