"""Measuring a model on a split, reusing the activations below the layer that a trial edits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.batches import EncodedSplit
from ..core.metrics import Measurement, compute_metric
from ..core.plan import ApproximationPlan
from ..core.tasks import Task
from .apply import AppliedPlan, apply_plan, layers_of
from .models import LoadedModel
from .threads import timed_step

__all__ = ["Evaluator", "predict", "task_loss"]

_EVALUATION = "evaluation"
"""The kind of work that batches of trials and of predictions are, for `timed_step`."""


def task_loss(task: Task, logits: Tensor, labels: Tensor) -> Tensor:
    """Mean loss of a batch: cross-entropy, or the squared error of a regression, on float32 logits (batch, labels)."""
    if task.is_regression:
        return torch.nn.functional.mse_loss(logits.float().squeeze(-1), labels.float())
    return torch.nn.functional.cross_entropy(logits.float(), labels)


def predict(loaded: LoadedModel, split: EncodedSplit, batch_size: int) -> np.ndarray:
    """Logits of every sample in the split's order, (samples, labels) float32."""
    device = next(loaded.model.parameters()).device
    loaded.model.eval()

    @torch.inference_mode()
    def run(batch: dict[str, np.ndarray]) -> np.ndarray:
        with timed_step(_EVALUATION, _work(batch, loaded.shape.num_layers)):
            return loaded.model(**_to_device(batch, device)).logits.float().cpu().numpy()

    return split.run(batch_size, run)


def _work(batch: Mapping[str, Any], layers: int) -> float:
    """How much it is to run a padded batch through that many layers, the embeddings counted as one."""
    return math.prod(next(iter(batch.values())).shape) * (layers + 1)


def _to_device(batch: dict[str, np.ndarray], device: torch.device) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value).to(device) for name, value in batch.items()}


class Evaluator:
    """Measures plans on one split.

    The inputs of the layers are kept for the *current* plan, batch by batch. A trial that differs from it first in
    layer l starts from the deepest kept input at or below l and runs only the layers above; accepting a trial with
    `accept` forgets what lies above l. Kept inputs are the exact tensors, so the result does not depend on the reuse.
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
    ) -> None:
        self._loaded = loaded
        self._task = task
        self._device = next(loaded.model.parameters()).device
        self._layers = layers_of(loaded.model, loaded.family)
        self._batches = [
            (_to_device(batch, self._device), torch.from_numpy(split.labels[indices]).to(self._device))
            for indices, batch in split.batches(batch_size)
        ]
        self._samples = len(split)
        self._plan = plan
        self._applied: AppliedPlan = apply_plan(loaded.model, plan)
        self._kept_layers = self._layers_to_keep(cache_bytes)
        self._kept: list[dict[int, Tensor]] = [{} for _ in self._batches]

    def close(self) -> None:
        """Give the model back unchanged and free the kept activations."""
        self._applied.remove()
        self._kept = [{} for _ in self._batches]

    @property
    def plan(self) -> ApproximationPlan:
        return self._plan

    def measure(self, plan: ApproximationPlan | None = None) -> Measurement:
        """Loss and metric of the model under ``plan`` (None: the current plan), which stays a mere trial."""
        changed = [] if plan is None else self._changed_layers(plan)
        if plan is not None:
            for layer in changed:
                self._applied.set_layer(layer, plan)
        try:
            return self._run(first_changed=min(changed, default=len(self._layers)))
        finally:
            for layer in changed:
                self._applied.set_layer(layer, self._plan)

    def accept(self, plan: ApproximationPlan) -> None:
        """Make ``plan`` the current one."""
        changed = self._changed_layers(plan)
        for layer in changed:
            self._applied.set_layer(layer, plan)
        self._plan = plan
        lowest = min(changed, default=len(self._layers))
        for kept in self._kept:
            for layer in [layer for layer in kept if layer > lowest]:
                del kept[layer]

    def _changed_layers(self, plan: ApproximationPlan) -> list[int]:
        return [i for i, (old, new) in enumerate(zip(self._plan.layers, plan.layers, strict=True)) if old != new]

    def _layers_to_keep(self, cache_bytes: int) -> set[int]:
        """Layers whose inputs fit into the budget, spread evenly; layer 0 is cheap to reach without."""
        hidden = self._loaded.shape.hidden_size
        per_layer = sum(next(iter(batch.values())).numel() for batch, _ in self._batches) * hidden * 4
        candidates = len(self._layers) - 1
        count = min(candidates, cache_bytes // max(per_layer, 1))
        return {round((i + 1) * len(self._layers) / (count + 1)) for i in range(count)}

    @torch.inference_mode()
    def _run(self, first_changed: int) -> Measurement:
        self._loaded.model.eval()
        losses, logits, labels = 0.0, [], []
        for (batch, batch_labels), kept in zip(self._batches, self._kept, strict=True):
            start = max((layer for layer in kept if layer <= first_changed), default=0)
            work = _work(batch, len(self._layers) - start)
            with self._shortcut(start, kept, keep_up_to=first_changed), timed_step(_EVALUATION, work):
                output = self._loaded.model(**batch).logits.float()
            losses += task_loss(self._task, output, batch_labels).item() * len(batch_labels)
            logits.append(output.cpu().numpy())
            labels.append(batch_labels.cpu().numpy())
        metric = compute_metric(self._task.metric, np.concatenate(logits), np.concatenate(labels))
        return Measurement(losses / self._samples, metric)

    @contextmanager
    def _shortcut(self, start: int, kept: dict[int, Tensor], keep_up_to: int) -> Iterator[None]:
        """Let layers below ``start`` pass their input on, feed the kept input to ``start``, keep those up to the edit."""
        undo: list[Callable[[], object]] = []

        def substitute(_: torch.nn.Module, inputs: Sequence[Any]) -> tuple[Any, ...]:
            return (kept[start], *inputs[1:])

        def keeper(layer: int) -> Callable[[torch.nn.Module, Sequence[Any]], None]:
            def keep(_: torch.nn.Module, inputs: Sequence[Any]) -> None:
                kept[layer] = inputs[0]

            return keep

        for index, layer in enumerate(self._layers):
            if index < start:
                layer.forward = _pass_through
                undo.append(partial(delattr, layer, "forward"))
            elif index == start and start in kept:
                undo.append(layer.register_forward_pre_hook(substitute).remove)
            elif index <= keep_up_to and index in self._kept_layers:
                undo.append(layer.register_forward_pre_hook(keeper(index)).remove)
        try:
            yield
        finally:
            for restore in undo:
                restore()


def _pass_through(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states
