"""Is it slower by more than is allowed? A verdict on paired measurements, with a bound on how often it is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt
from typing import Literal

import numpy as np

__all__ = ["Bounds", "Verdict", "bounds_of", "judge", "worst"]

Verdict = Literal["PASS", "FAIL", "UNDECIDED"]
_SEVERITY: dict[Verdict, int] = {"PASS": 0, "UNDECIDED": 1, "FAIL": 2}


@dataclass(frozen=True)
class Bounds:
    """Of a mean logarithm: each is crossed by the true one with a probability of at most alpha."""

    mean: float
    low: float
    high: float


def bounds_of(logs: np.ndarray, alpha: float) -> Bounds:
    """One-sided t bounds of the mean of independent blocks, (blocks,), at least two."""
    from scipy.stats import t

    mean = float(np.mean(logs))
    reach = float(t.ppf(1 - alpha, len(logs) - 1)) * float(np.std(logs, ddof=1)) / sqrt(len(logs))
    return Bounds(mean, mean - reach, mean + reach)


def judge(change: Bounds, noise: float, max_regression: float) -> Verdict:
    """FAIL: surely slower by more than ``max_regression``; PASS: surely not; UNDECIDED: neither, or too noisy to say.

    Args:
        change: of the logarithm of the candidate's time over the reference's.
        noise: mean logarithm of the reference's time over its own; beyond the tolerance nothing is judged.
    """
    allowed = log(1 + max_regression)
    if abs(noise) > allowed:
        return "UNDECIDED"
    if change.low > allowed:
        return "FAIL"
    return "PASS" if change.high < allowed else "UNDECIDED"


def worst(verdicts: list[Verdict]) -> Verdict:
    """What several verdicts come to."""
    return max(verdicts, key=_SEVERITY.__getitem__)
