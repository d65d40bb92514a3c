"""Paired intervals: their level on simulated models, and their statistics against the libraries."""

from __future__ import annotations

import numpy as np
import pytest
from axform.core.bounds import keeps_bound
from axform.core.intervals import Change, _matthews, _matthews_terms, _pearson, _pearson_terms, paired_change
from axform.core.metrics import compute_metric
from scipy.stats import pearsonr
from sklearn.metrics import matthews_corrcoef


def logits_of(answers: np.ndarray, classes: int = 2) -> np.ndarray:
    return np.eye(classes)[answers]


def test_metrics_from_sums_over_rows_agree_with_the_libraries():
    random = np.random.default_rng(0)
    answers, labels, classes = random.integers(0, 3, (5, 40)), random.integers(0, 3, (5, 40)), np.arange(3)
    for answer, label in zip(answers, labels, strict=True):
        found = _matthews(_matthews_terms(answer, label, classes).sum(0))
        assert found == pytest.approx(matthews_corrcoef(label, answer), abs=1e-12)
    for score, target in zip(*random.standard_normal((2, 5, 40)), strict=True):
        found = _pearson(_pearson_terms(score + 1000, target).sum(0))
        assert found == pytest.approx(pearsonr(score, target)[0], abs=1e-9)
    assert _matthews(_matthews_terms(np.zeros(9, int), np.arange(9) % 2, np.arange(2)).sum(0)) == 0.0
    assert _pearson(_pearson_terms(np.full(9, 0.1), np.arange(9.0)).sum(0)) == 0.0


def test_without_relatives_it_is_the_adjusted_wald_interval():
    """Of 100 rows 7 lost and 4 won: Bonett and Price's formula, written out."""
    labels = np.zeros(100, int)
    before, after = np.zeros(100, int), np.zeros(100, int)
    after[:7], before[7:11] = 1, 1
    change = paired_change("accuracy", logits_of(before), logits_of(after), labels)
    lost, won = 8 / 102, 5 / 102
    margin = 1.959964 * np.sqrt((lost + won - (lost - won) ** 2) / 102)
    assert (change.low, change.high) == pytest.approx((won - lost - margin, won - lost + margin), abs=1e-7)


@pytest.mark.parametrize(("metric", "rows"), [("accuracy", 300), ("matthews", 60), ("pearson", 60)])
def test_rows_that_are_written_again_tell_nothing_more(metric, rows):
    random = np.random.default_rng(4)
    truth = random.standard_normal(rows)
    before, after = (truth + s * random.standard_normal(rows) for s in (0.5, 0.7))
    if metric != "pearson":
        before, after, truth = logits_of((before > 0) * 1), logits_of((after > 0) * 1), (truth > 0) * 1
    else:
        before, after = before[:, None], after[:, None]
    once = paired_change(metric, before, after, truth)
    again = [np.repeat(values, 5, axis=0) for values in (before, after, truth)]
    alike = paired_change(metric, *again, groups=np.repeat(3 * np.arange(rows) + 7, 5))
    assert (alike.low, alike.high) == pytest.approx((once.low, once.high), abs=1e-9)
    taken_as_new = paired_change(metric, *again)
    assert alike.resolution > 2 * taken_as_new.resolution


def test_the_interval_covers_the_truth_where_rows_are_related():
    """60 to 120 groups of 1 to 9 rows that are mostly answered alike; as if unrelated, the interval covers a third less."""
    random = np.random.default_rng(5)
    covered = {"groups": 0, "rows": 0}
    trials = 600
    for _ in range(trials):
        sizes = random.integers(1, 10, random.integers(60, 120))
        groups = np.repeat(np.arange(len(sizes)), sizes)
        draw = np.where(random.random(len(groups)) < 0.9, random.random(len(sizes))[groups], random.random(len(groups)))
        before, after = draw < 0.80, (draw < 0.70) | (draw > 0.95)
        answers = logits_of(~before * 1), logits_of(~after * 1), np.zeros(len(groups), int)
        for way, given in (("groups", groups), ("rows", None)):
            change = paired_change("accuracy", *answers, groups=given)
            covered[way] += change.low <= -0.05 <= change.high
    assert 0.92 <= covered["groups"] / trials <= 0.99
    assert covered["rows"] / trials < 0.75


@pytest.mark.parametrize("metric", ["accuracy", "matthews", "pearson"])
def test_rows_that_are_all_related_resolve_nothing(metric):
    random = np.random.default_rng(6)
    truth = random.integers(0, 2, 100)
    before, after = (np.where(random.random(100) < share, truth, 1 - truth) for share in (0.9, 0.8))
    answers = [values[:, None] if metric == "pearson" else logits_of(values) for values in (before, after)]
    change = paired_change(metric, *answers, truth, groups=np.full(100, 7))
    assert change.resolution > 0.9
    assert change.low < 0 < change.high


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
