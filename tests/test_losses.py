"""The loss that tells trials apart, against float64 and by what it must not see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from axform.core.tasks import TASKS
from axform.toolchain.losses import constant_loss, losses_by_temperature, task_loss
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

CLASSIFICATION, REGRESSION = TASKS["glue/mnli"], TASKS["glue/stsb"]


def answers(rows=200, classes=3, sureness=4.0):
    """Logits that know something of the labels, and are too sure of it."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, classes, rows)
    logits = generator.normal(size=(rows, classes)) + 1.2 * np.eye(classes)[labels]
    return torch.from_numpy(sureness * logits).float(), torch.from_numpy(labels)


def best(logits, labels):
    return losses_by_temperature(CLASSIFICATION, logits, labels).min().item()


def test_the_best_temperature_against_a_minimization():
    logits, labels = answers()

    def loss(log_temperature):
        scaled = logits.double().numpy() / np.exp(log_temperature)
        return -log_softmax(scaled, axis=-1)[np.arange(len(labels)), labels].sum()

    exact = minimize_scalar(loss, bounds=(-2, 2), method="bounded").fun
    assert exact <= best(logits, labels) < 1.001 * exact
    assert best(logits, labels) < 0.8 * loss(0.0)


@pytest.mark.parametrize("sureness", [0.5, 2.0])
def test_how_sure_a_model_is_changes_nothing(sureness):
    logits, labels = answers()
    assert best(sureness * logits, labels) == pytest.approx(best(logits, labels), rel=1e-9)


def test_sums_of_batches_are_sums_of_all():
    logits, labels = answers()
    parts = [losses_by_temperature(CLASSIFICATION, logits[i::3], labels[i::3]) for i in range(3)]
    torch.testing.assert_close(sum(parts), losses_by_temperature(CLASSIFICATION, logits, labels))


def test_a_regression_has_one_loss():
    logits, labels = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([1.5, 2.0, 2.0])
    found = losses_by_temperature(REGRESSION, logits, labels)
    assert found.tolist() == [pytest.approx(4.25)]
    assert task_loss(REGRESSION, logits, labels).item() == pytest.approx(4.25 / 3)


def test_nan_stays_nan():
    logits, labels = answers()
    logits[3] = float("nan")
    assert np.isnan(best(logits, labels))


def test_a_constant_answer():
    assert constant_loss(CLASSIFICATION, np.array([0, 1, 2, 0])) == pytest.approx(1.5 * np.log(2))
    assert constant_loss(REGRESSION, np.array([1.0, 3.0])) == 1.0
