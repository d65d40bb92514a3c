"""What an export starts from, wherever it came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..core.batches import EncodedSplit
from ..core.families import Family
from ..core.metrics import Metric
from ..core.plan import ApproximationPlan
from ..toolchain.models import LoadedModel

__all__ = ["Promise", "Source"]


@dataclass(frozen=True)
class Promise:
    """A plan, and what tells whether it keeps what it promises; without the weights, which are large."""

    plan: ApproximationPlan
    family: Family
    selection: Callable[[], EncodedSplit]
    """Reads the rows that judged trials, tokenized, on which a lower precision may choose, too."""
    report: EncodedSplit
    """The reported split, tokenized."""
    task: str
    metric: Metric
    labels: tuple[str, ...]
    max_drop: float
    max_length: int
    """Tokens that the model can take."""
    from_run: dict[str, Any]
    """The manifest's fields of the run that it came from; empty where there is none."""


@dataclass(frozen=True)
class Source:
    """A model with a plan."""

    baseline: LoadedModel
    """Unpruned, to compare with."""
    student: LoadedModel
    """What the plan is for; the baseline itself where nothing was trained with the plan."""
    promise: Promise
