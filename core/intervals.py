"""How far a change of a metric can be trusted: paired confidence intervals over the same samples.

Both models answer the same rows, so the interval is that of the difference, which is much narrower than those of the
two metrics. For accuracies it is the adjusted Wald interval for paired proportions (Bonett and Price, Journal of
Educational and Behavioral Statistics 37, 2012), which keeps its level also where few answers differ; for correlations
the paired percentile bootstrap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from .metrics import Metric, compute_metric

__all__ = ["CONFIDENCE", "Change", "paired_change"]

CONFIDENCE = 0.95
"""Of every interval that is shown."""
_RESAMPLES = 2000
_ROWS_AT_ONCE = 4_000_000
"""Resampled rows that are in memory at the same time."""


@dataclass(frozen=True)
class Change:
    """A metric's change between two models on the same rows."""

    before: float
    after: float
    low: float
    high: float
    """Ends of the interval of ``after - before``."""
    rows: int

    @property
    def estimate(self) -> float:
        return self.after - self.before

    @property
    def resolution(self) -> float:
        """Half the interval's width: smaller changes cannot be told from none on these rows."""
        return (self.high - self.low) / 2


def paired_change(
    metric: Metric, before: np.ndarray, after: np.ndarray, labels: np.ndarray, confidence: float = CONFIDENCE
) -> Change:
    """The change of a metric from the logits ``before`` to ``after``, both (samples, labels), with its interval.

    Args:
        labels: (samples,), class ids or target values.
        confidence: level of the two-sided interval, below 1.
    """
    values = compute_metric(metric, before, labels), compute_metric(metric, after, labels)
    if metric == "accuracy":
        low, high = _paired_proportions(before.argmax(-1) == labels, after.argmax(-1) == labels, confidence)
    elif metric == "matthews":
        low, high = _bootstrap(_matthews, np.stack([before.argmax(-1), after.argmax(-1)]), labels, confidence)
    else:
        scores = np.stack([before.reshape(len(labels)), after.reshape(len(labels))]).astype(np.float64)
        low, high = _bootstrap(_pearson, scores, labels.astype(np.float64), confidence)
    return Change(*values, low, high, len(labels))


def _paired_proportions(before: np.ndarray, after: np.ndarray, confidence: float) -> tuple[float, float]:
    lost, won = (before & ~after).sum() + 1, (after & ~before).sum() + 1
    rows = len(before) + 2
    lost, won = lost / rows, won / rows
    margin = _quantile(confidence) * np.sqrt((lost + won - (won - lost) ** 2) / rows)
    return float(max(-1.0, won - lost - margin)), float(min(1.0, won - lost + margin))


def _quantile(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)


_Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _bootstrap(
    statistic: _Statistic, answers: np.ndarray, labels: np.ndarray, confidence: float
) -> tuple[float, float]:
    """Percentiles of the statistic's change over rows drawn with replacement; ``answers`` is (2, samples)."""
    random = np.random.default_rng(0)
    rows, changes = len(labels), []
    at_once = max(1, _ROWS_AT_ONCE // rows)
    for start in range(0, _RESAMPLES, at_once):
        drawn = random.integers(0, rows, (min(at_once, _RESAMPLES - start), rows))
        before, after = (statistic(answer[drawn], labels[drawn]) for answer in answers)
        changes.append(after - before)
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(changes), [tail, 1 - tail])
    return float(low), float(high)


def _pearson(answers: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Correlations along the last axis; 0 where one side never varies."""
    answers, targets = answers - answers.mean(-1, keepdims=True), targets - targets.mean(-1, keepdims=True)
    spread = np.sqrt((answers**2).sum(-1) * (targets**2).sum(-1))
    return np.divide((answers * targets).sum(-1), spread, out=np.zeros_like(spread), where=spread > 0)


def _matthews(answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Matthews correlations along the last axis, over any number of classes; 0 where one side never varies."""
    together, ours, theirs = (np.zeros(answers.shape[:-1]) for _ in range(3))
    for label in np.union1d(answers, labels):
        chosen, is_so = answers == label, labels == label
        p, q = chosen.mean(-1), is_so.mean(-1)
        together += (chosen & is_so).mean(-1) - p * q
        ours += p * (1 - p)
        theirs += q * (1 - q)
    spread = np.sqrt(ours * theirs)
    return np.divide(together, spread, out=np.zeros_like(spread), where=spread > 0)
