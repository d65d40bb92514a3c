"""Paired intervals: their level on simulated models, and their statistics against the libraries."""

from __future__ import annotations

import numpy as np
import pytest
from axform.core.bounds import keeps_bound
from axform.core.intervals import Change, _matthews, _pearson, paired_change
from axform.core.metrics import compute_metric
from scipy.stats import pearsonr
from sklearn.metrics import matthews_corrcoef


def logits_of(answers: np.ndarray, classes: int = 2) -> np.ndarray:
    return np.eye(classes)[answers]


def test_vectorised_statistics_agree_with_the_libraries():
    random = np.random.default_rng(0)
    answers, labels = random.integers(0, 3, (5, 40)), random.integers(0, 3, (5, 40))
    expected = [matthews_corrcoef(label, answer) for answer, label in zip(answers, labels, strict=True)]
    np.testing.assert_allclose(_matthews(answers, labels), expected, atol=1e-12)
    scores, targets = random.standard_normal((2, 5, 40))
    expected = [pearsonr(score, target)[0] for score, target in zip(scores, targets, strict=True)]
    np.testing.assert_allclose(_pearson(scores, targets), expected, atol=1e-12)
    assert _matthews(np.zeros((1, 9), int), np.arange(9)[None] % 2)[0] == 0.0
    assert _pearson(np.ones((1, 9)), np.arange(9.0)[None])[0] == 0.0


@pytest.mark.parametrize("rows", [40, 374])
def test_the_interval_of_an_accuracy_covers_the_truth_as_often_as_it_says(rows):
    """Of two models that lose 6 % and win 3 % of the other's rows."""
    random = np.random.default_rng(1)
    labels, covered, trials = np.zeros(rows, int), 0, 2000
    for _ in range(trials):
        draw = random.random(rows)
        before, after = draw < 0.80, (draw < 0.74) | (draw > 0.97)
        change = paired_change("accuracy", logits_of(~before * 1), logits_of(~after * 1), labels)
        covered += change.low <= -0.03 <= change.high
    assert 0.94 <= covered / trials <= 0.995


@pytest.mark.parametrize("metric", ["matthews", "pearson"])
def test_the_interval_of_a_correlation_covers_the_truth(metric):
    random = np.random.default_rng(2)

    def draw(rows):
        truth = random.standard_normal(rows)
        before, after = (truth + s * random.standard_normal(rows) for s in (0.5, 0.7))
        if metric == "pearson":
            return before[:, None], after[:, None], truth
        return logits_of((before > 0) * 1), logits_of((after > 0) * 1), (truth > 0) * 1

    before, after, truth = draw(400_000)
    wanted = compute_metric(metric, after, truth) - compute_metric(metric, before, truth)
    changes = [paired_change(metric, *draw(200)) for _ in range(80)]
    assert 0.86 <= np.mean([change.low <= wanted <= change.high for change in changes]) <= 1.0


def test_equal_answers_still_have_an_interval_and_more_rows_resolve_more():
    labels = np.zeros(400, int)
    same = logits_of(labels)
    few, many = (paired_change("accuracy", same[:n], same[:n], labels[:n]) for n in (40, 400))
    assert few.estimate == many.estimate == 0 and few.resolution > 5 * many.resolution > 0


def test_the_interval_is_of_the_pair_and_not_of_each_model():
    random = np.random.default_rng(3)
    labels = random.integers(0, 2, 1000)
    before = np.where(random.random(1000) < 0.7, labels, 1 - labels)
    after = before.copy()
    after[:10] = 1 - after[:10]
    change = paired_change("accuracy", logits_of(before), logits_of(after), labels)
    assert change.resolution < 0.01  # of one accuracy alone: 0.028
    assert change.low <= change.estimate <= change.high
    assert change.before == (before == labels).mean() and change.rows == 1000


@pytest.mark.parametrize(
    ("after", "low", "focus", "by_estimate", "to_the_end"),
    [
        (0.897, -0.001, "speed", True, True),
        (0.897, -0.02, "speed", True, False),
        (0.890, -0.03, "speed", False, False),
        (0.899, -0.01, "accuracy", False, False),
        (0.900, -0.01, "accuracy", True, False),
        (0.920, 0.001, "accuracy", True, True),
    ],
)
def test_the_estimate_or_the_end_of_its_interval_keeps_the_bound(after, low, focus, by_estimate, to_the_end):
    """Of 0.9 the speed focus may lose 0.5 %, 0.0045, the accuracy focus nothing."""
    change = Change(0.9, after, low, 0.03, 374)
    assert keeps_bound(change, 0.005, focus) is by_estimate
    assert keeps_bound(change, 0.005, focus, to_the_end=True) is to_the_end
