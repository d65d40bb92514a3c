"""What an export starts from, wherever it came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..core.batches import EncodedSplit
from ..core.metrics import Metric
from ..core.plan import ApproximationPlan
from ..toolchain.models import LoadedModel

__all__ = ["Source"]


@dataclass(frozen=True)
class Source:
    """A model with a plan, and what tells whether the plan keeps its promise."""

    baseline: LoadedModel
    """Unpruned, to compare with."""
    student: LoadedModel
    """What the plan is for; the baseline itself where nothing was trained with the plan."""
    plan: ApproximationPlan
    selection: Callable[[], EncodedSplit]
    """Reads the rows that judged trials, tokenized, on which a lower precision may choose, too."""
    report: EncodedSplit
    """The reported split, tokenized."""
    task: str
    metric: Metric
    labels: tuple[str, ...]
    max_drop: float
    from_run: dict[str, Any]
    """The manifest's fields of the run that it came from; empty where there is none."""
