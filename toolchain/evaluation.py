"""Measuring a model on a split, trial by trial."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.batches import EncodedSplit
from ..core.metrics import Measurement, compute_metric
from ..core.plan import ApproximationPlan
from ..core.tasks import Task
from .apply import AppliedPlan, apply_plan, layers_of
from .losses import losses_by_temperature
from .models import LoadedModel
from .precision import in_fast_precision
from .reuse import Edit, KeptActivations, first_edit
from .significance import Hopeless
from .threads import timed_step

__all__ = ["Evaluator", "predict", "to_device"]

_EVALUATION = "evaluation"
"""The kind of work that batches of trials and of predictions are, for `timed_step`."""


def predict(loaded: LoadedModel, split: EncodedSplit, batch_size: int) -> np.ndarray:
    """Logits of every sample in the split's order, (samples, labels) float32."""
    device = next(loaded.model.parameters()).device
    loaded.model.eval()

    @torch.inference_mode()
    def run(batch: dict[str, np.ndarray]) -> np.ndarray:
        with timed_step(_EVALUATION, _work(batch, loaded.shape.num_layers)):
            return loaded.model(**to_device(batch, device)).logits.float().cpu().numpy()

    return split.run(batch_size, run)


def _work(batch: Mapping[str, Any], layers: int) -> float:
    """How much it is to run a padded batch through that many layers, the embeddings counted as one."""
    return math.prod(next(iter(batch.values())).shape) * (layers + 1)


def to_device(batch: Mapping[str, np.ndarray], device: torch.device) -> dict[str, Tensor]:
    """The arrays of a padded batch as tensors where the model is."""
    return {name: torch.from_numpy(value).to(device) for name, value in batch.items()}


class Evaluator:
    """Measures plans on one split.

    A trial computes nothing that the current plan has computed below the trial's first change (`KeptActivations`). Trials
    are compared with each other, so that all of them may run in a precision that is fast; what is reported may not. The
    loss is that at the model's best temperature (`losses_by_temperature`).
    """

    def __init__(
        self,
        loaded: LoadedModel,
        task: Task,
        split: EncodedSplit,
        plan: ApproximationPlan,
        *,
        batch_size: int = 32,
        cache_bytes: int = 2 << 30,
        is_fast: bool = False,
    ) -> None:
        self._loaded = loaded
        self._task = task
        device = next(loaded.model.parameters()).device
        layers = layers_of(loaded.model, loaded.family)
        self._batches = [
            (to_device(batch, device), torch.from_numpy(split.labels[indices]).to(device))
            for indices, batch in split.batches(batch_size)
        ]
        self._samples = len(split)
        self._is_fast = is_fast
        self._plan = plan
        self._applied: AppliedPlan = apply_plan(loaded.model, plan)
        self._nothing_changes = Edit(len(layers))
        tokens = sum(next(iter(batch.values())).numel() for batch, _ in self._batches)
        self._kept = KeptActivations(layers, loaded.family, len(self._batches), tokens, cache_bytes)
        self._kept_with = self._attention

    def close(self) -> None:
        """Give the model back unchanged and free the kept activations."""
        self._applied.remove()
        self._kept.clear()

    @property
    def plan(self) -> ApproximationPlan:
        return self._plan

    def measure(self) -> Measurement:
        """Loss and metric under the current plan."""
        return self._completed(*self._run(self._nothing_changes, math.inf))

    def measure_trial(self, plan: ApproximationPlan, hopeless_above: float = math.inf) -> Measurement | Hopeless:
        """Loss and metric under ``plan``, which does not become the current one.

        Args:
            hopeless_above: a mean loss; the trial ends as soon as the losses so far, none of which is negative, add up
                to more.
        """
        self._applied.set(plan)
        try:
            losses, logits = self._run(first_edit(self._plan, plan) or self._nothing_changes, hopeless_above)
        finally:
            self._applied.set(self._plan)
        if len(logits) < len(self._batches):
            return Hopeless(losses / self._samples)
        return self._completed(losses, logits)

    def accept(self, plan: ApproximationPlan) -> None:
        """Make ``plan`` the current one."""
        edit = first_edit(self._plan, plan)
        if edit is None:
            return
        self._applied.set(plan)
        self._plan = plan
        self._kept.forget_above(edit)

    @property
    def _attention(self) -> str | None:
        """The kind that the model computes with, which a plan may change."""
        return self._loaded.model.config._attn_implementation

    @torch.inference_mode()
    def _run(self, edit: Edit, hopeless_above: float) -> tuple[float, list[np.ndarray]]:
        """Sum of the losses at the best temperature, and the logits of each batch that was run."""
        self._loaded.model.eval()
        if (
            self._attention != self._kept_with
        ):  # in bf16 another kind rounds otherwise, in the layers below the edit, too
            self._kept.clear()
            self._kept_with = self._attention
        losses, logits = torch.zeros(()), []
        for number, (batch, labels) in enumerate(self._batches):
            if losses.min() > hopeless_above * self._samples:
                break
            work = _work(batch, self._loaded.shape.num_layers - self._kept.start(number, edit))
            with self._kept.shortcut(number, edit), timed_step(_EVALUATION, work), self._precision(batch):
                output = self._loaded.model(**batch).logits.float()
            losses = losses + losses_by_temperature(self._task, output, labels).cpu()
            logits.append(output.cpu().numpy())
        return losses.min().item(), logits

    def _precision(self, batch: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        if not self._is_fast:
            return nullcontext()
        return in_fast_precision(self._loaded.model, next(iter(batch.values())).shape[1])

    def _completed(self, losses: float, logits: list[np.ndarray]) -> Measurement:
        labels = np.concatenate([labels.cpu().numpy() for _, labels in self._batches])
        return Measurement(losses / self._samples, compute_metric(self._task.metric, np.concatenate(logits), labels))
