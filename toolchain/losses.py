"""The losses of a task: what a training descends, and what tells trials apart."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..core.tasks import Task
from .labels import UNLABELLED

__all__ = ["constant_loss", "has_label", "losses_by_temperature", "task_loss"]

_TEMPERATURES = torch.logspace(-3, 3, 49, base=2.0)
"""An eighth to eight, eight steps to a doubling; a finer grid changes no loss by a thousandth."""


def task_loss(task: Task, logits: Tensor, labels: Tensor) -> Tensor:
    """Mean loss of a batch: cross-entropy, or the squared error of a regression, on float32 logits (batch, labels)."""
    if task.is_regression:
        return torch.nn.functional.mse_loss(logits.float().squeeze(-1), labels.float())
    return torch.nn.functional.cross_entropy(logits.float(), labels)


def has_label(task: Task, labels: Tensor) -> Tensor:
    """Which samples have one, (batch,) booleans."""
    return ~labels.isnan() if task.is_regression else labels != UNLABELLED


def losses_by_temperature(task: Task, logits: Tensor, labels: Tensor) -> Tensor:
    """Sums over a batch, with the logits divided by each temperature of a grid, (temperatures,) float64.

    A fine-tuned model is surer of itself than it is right, the more so the smaller the task. Removing parts makes it less
    sure, which lowers the cross-entropy by itself and hides what was lost; at the best temperature of each it tells. A
    regression has no temperature, and one sum.
    """
    if task.is_regression:
        return torch.nn.functional.mse_loss(logits.double().squeeze(-1), labels.double(), reduction="sum").reshape(1)
    scaled = logits.double() / _TEMPERATURES.to(logits.device, torch.float64)[:, None, None]
    chosen = scaled.log_softmax(-1)[:, torch.arange(len(labels), device=labels.device), labels]
    return -chosen.sum(-1)


def constant_loss(task: Task, labels: np.ndarray) -> float:
    """Of the best answer that is the same for every sample: the labels' entropy, or a regression's variance."""
    if task.is_regression:
        return float(labels.var())
    shares = np.bincount(labels) / len(labels)
    return float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())
