"""The metrics that tasks are judged by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = ["Measurement", "Metric", "compute_metric"]

Metric = Literal["accuracy", "matthews", "pearson"]


@dataclass(frozen=True)
class Measurement:
    """Mean loss per sample and task metric (larger is better) of a model on one split."""

    loss: float
    metric: float


def compute_metric(metric: Metric, logits: np.ndarray, labels: np.ndarray) -> float:
    """The task metric, larger is better; 0 where it is undefined because an answer or a label never varies.

    Args:
        logits: (samples, labels), or (samples, 1) for a regression.
        labels: (samples,), class ids or target values.
    """
    if metric == "accuracy":
        return float((logits.argmax(-1) == labels).mean())
    if metric == "pearson":
        return _correlation(logits.reshape(len(labels)), labels)
    return _matthews(logits.argmax(-1), labels)


def _correlation(predictions: np.ndarray, targets: np.ndarray) -> float:
    if np.ptp(predictions) == 0 or np.ptp(targets) == 0:
        return 0.0
    return float(np.corrcoef(predictions.astype(np.float64), targets.astype(np.float64))[0, 1])


def _matthews(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Matthews correlation over any number of classes: the covariance of the two one-hot matrices over their spread."""
    classes = np.union1d(predicted, labels)
    ours, theirs = ((values[:, None] == classes).astype(np.float64) for values in (predicted, labels))
    ours, theirs = ours - ours.mean(0), theirs - theirs.mean(0)
    spread = np.sqrt((ours**2).sum() * (theirs**2).sum())
    return float((ours * theirs).sum() / spread) if spread else 0.0
