"""How far a change of a metric can be trusted: paired confidence intervals over the same samples.

Both models answer the same rows, so the interval is that of the difference, which is much narrower than those of the
two metrics. For accuracies it is the adjusted Wald interval for paired proportions (Bonett and Price, Journal of
Educational and Behavioral Statistics 37, 2012), which keeps its level also where few answers differ; for correlations
the paired percentile bootstrap.

Rows that say the same are answered alike, right or wrong, and tell less than as many that do not. So what is counted is
groups of related rows: the variance of an accuracy's change is that of its sums over groups, and the bootstrap draws
groups. Of 2,930 rows of 894 of SST-2's sentences an interval is 1.38 times as wide as if no two were related.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from .metrics import Metric, compute_metric

__all__ = ["CONFIDENCE", "Change", "paired_change"]

CONFIDENCE = 0.95
"""Of every interval that is shown."""
_RESAMPLES = 2000
_DRAWN_AT_ONCE = 4_000_000
"""Resampled groups that are in memory at the same time."""


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
    metric: Metric,
    before: np.ndarray,
    after: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None = None,
    confidence: float = CONFIDENCE,
) -> Change:
    """The change of a metric from the logits ``before`` to ``after``, both (samples, labels), with its interval.

    Args:
        labels: (samples,), class ids or target values.
        groups: (samples,), equal for related samples; None = no two are.
        confidence: level of the two-sided interval, below 1.
    """
    values = compute_metric(metric, before, labels), compute_metric(metric, after, labels)
    groups = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    if metric == "accuracy":
        won = (after.argmax(-1) == labels) * 1.0 - (before.argmax(-1) == labels)
        low, high = _adjusted_wald(won, groups, confidence)
    elif metric == "matthews":
        classes = np.unique(np.concatenate([labels, before.argmax(-1), after.argmax(-1)]))
        answers = [_matthews_terms(logits.argmax(-1), labels, classes) for logits in (before, after)]
        low, high = _bootstrap(_matthews, answers, groups, confidence)
    else:
        answers = [_pearson_terms(logits.reshape(len(labels)), labels) for logits in (before, after)]
        low, high = _bootstrap(_pearson, answers, groups, confidence)
    return Change(*values, low, high, len(labels))


def _adjusted_wald(won: np.ndarray, groups: np.ndarray, confidence: float) -> tuple[float, float]:
    """Ends of the interval of the mean of ``won``, (rows,), -1 to 1, after one group was added that lost and one that won."""
    size = len(won) / (groups.max() + 1)
    sizes = np.append(np.bincount(groups), [size, size])
    sums = np.append(np.bincount(groups, won), [-size, size])
    rows = sizes.sum()
    change = sums.sum() / rows
    margin = _quantile(confidence) * np.sqrt(((sums - change * sizes) ** 2).sum()) / rows
    return float(max(-1.0, change - margin)), float(min(1.0, change + margin))


def _quantile(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)


_Statistic = Callable[[np.ndarray], np.ndarray]
"""A metric from the sums of its terms over rows, (..., terms) to (...)."""


def _bootstrap(
    statistic: _Statistic, answers: Sequence[np.ndarray], groups: np.ndarray, confidence: float
) -> tuple[float, float]:
    """Percentiles of the statistic's change over groups drawn with replacement; both ``answers`` are (rows, terms).

    One group alone says nothing of others: every draw would be the same, so all changes of a correlation are in it.
    """
    random = np.random.default_rng(0)
    count = int(groups.max()) + 1
    if count == 1:
        return -2.0, 2.0
    before, after = (np.zeros((count, terms.shape[1])) for terms in answers)
    for sums, terms in zip((before, after), answers, strict=True):
        np.add.at(sums, groups, terms)
    changes = []
    at_once = max(1, _DRAWN_AT_ONCE // count)
    for start in range(0, _RESAMPLES, at_once):
        times = random.multinomial(count, np.full(count, 1 / count), min(at_once, _RESAMPLES - start)).astype(float)
        changes.append(statistic(times @ after) - statistic(times @ before))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(changes), [tail, 1 - tail])
    return float(low), float(high)


def _pearson_terms(answers: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Of each row, (rows, 6); both sides are moved to a mean of 0, as only then their squares keep their digits."""
    x, y = (values.astype(np.float64) - values.mean(dtype=np.float64) for values in (answers, targets))
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=-1)


def _pearson(sums: np.ndarray) -> np.ndarray:
    """Correlations; 0 where one side never varies."""
    rows, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    return _ratio(rows * xy - x * y, (rows * xx - x * x) * (rows * yy - y * y), (rows * xx) * (rows * yy))


def _matthews_terms(answers: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Of each row, (rows, 2 + 2 * classes): one, whether the answer is right, and answer and label as one-hot."""
    chosen, is_so = (values[:, None] == classes for values in (answers, labels))
    return np.concatenate([np.ones((len(labels), 1)), (answers == labels)[:, None], chosen, is_so], axis=1)


def _matthews(sums: np.ndarray) -> np.ndarray:
    """Matthews correlations over any number of classes; 0 where one side never varies."""
    rows, right = sums[..., 0], sums[..., 1]
    ours, theirs = np.split(sums[..., 2:], 2, axis=-1)
    spreads = [rows**2 - (side**2).sum(-1) for side in (ours, theirs)]
    return _ratio(rows * right - (ours * theirs).sum(-1), spreads[0] * spreads[1], rows**4)


def _ratio(covariance: np.ndarray, spread: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Covariance over the root of the spread, which is none where nothing but rounding is left of its scale."""
    varies = spread > 1e-14 * scale
    return np.divide(
        covariance, np.sqrt(spread, where=varies, out=np.ones_like(spread)), where=varies, out=np.zeros_like(spread)
    )
