"""Does the exported model do what was promised? Numbers against PyTorch, task metric against the baseline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from pydantic import BaseModel

from ..core.batches import EncodedSplit
from ..core.bounds import smallest_accepted
from ..core.metrics import compute_metric
from .bundle import Bundle
from .check_data import CheckData
from .session import Provider, create_session

__all__ = ["TOLERANCE", "NumericParity", "ParityReport", "TaskParity", "check_bundle", "numeric_parity"]

TOLERANCE = 1e-4
"""Largest difference of any output to PyTorch: float32 rounding over tens of layers, with a margin."""


class NumericParity(BaseModel):
    """model.onnx against PyTorch with the plan applied, on the same padded batches."""

    samples: int
    batches: int
    max_abs_error: float
    worst_sample: int
    """Row of the reported split."""
    worst_output: str
    tolerance: float = TOLERANCE

    @property
    def passed(self) -> bool:
        return self.max_abs_error <= self.tolerance


class TaskParity(BaseModel):
    """The task metric of model.onnx beside baseline.onnx, on the whole reported split."""

    metric: str
    samples: int
    baseline: float
    model: float
    bound: float
    """Smallest metric that ``--max-drop`` allows."""

    @property
    def passed(self) -> bool:
        return self.model >= self.bound


class ParityReport(BaseModel):
    numeric: NumericParity
    task: TaskParity

    @property
    def passed(self) -> bool:
        return self.numeric.passed and self.task.passed


def check_bundle(
    bundle: Bundle,
    provider: Provider = "auto",
    threads: int | None = None,
    batch_size: int = 32,
    on_batch: Callable[[int, int], None] | None = None,
) -> ParityReport:
    """Verify the files, run both checks and record the result in the bundle.

    Args:
        on_batch: called with (samples done, samples in all).

    Raises:
        AxformError: a file of the bundle was changed, or cannot be run.
    """
    bundle.verify()
    data = CheckData.load(bundle.check_data)
    model = create_session(bundle.model, provider, threads)
    numeric = numeric_parity(model, data)
    total, done = 2 * len(data.split), 0

    def advance(samples: int) -> None:
        nonlocal done
        done += samples
        if on_batch is not None:
            on_batch(done, total)

    metric = bundle.manifest.metric
    scores = []
    for session in (create_session(bundle.baseline, provider, threads), model):
        logits = run_split(session, data.split, batch_size, advance)
        scores.append(compute_metric(metric, logits, data.split.labels))
    baseline, optimized = scores
    task = TaskParity(
        metric=metric,
        samples=len(data.split),
        baseline=baseline,
        model=optimized,
        bound=smallest_accepted(baseline, bundle.manifest.max_drop, bundle.manifest.plan.focus),
    )
    report = ParityReport(numeric=numeric, task=task)
    bundle.save_result("check", {**report.model_dump(), "passed": report.passed})
    return report


def numeric_parity(session: Any, data: CheckData) -> NumericParity:
    """Run the reference batches and compare every output; a NaN counts as an infinite error."""
    worst, worst_sample, worst_output = 0.0, int(data.references[0].indices[0]), ""
    for reference in data.references:
        names = list(reference.outputs)
        outputs = session.run(names, data.split.batch(reference.indices))
        for name, output in zip(names, outputs, strict=True):
            errors = np.abs(output - reference.outputs[name]).reshape(len(reference.indices), -1).max(axis=1)
            errors = np.where(np.isnan(errors), np.inf, errors)
            if not worst_output or errors.max() > worst:
                worst, worst_output = float(errors.max()), name
                worst_sample = int(reference.indices[errors.argmax()])
    return NumericParity(
        samples=sum(len(reference.indices) for reference in data.references),
        batches=len(data.references),
        max_abs_error=worst,
        worst_sample=worst_sample,
        worst_output=worst_output,
    )


def run_split(session: Any, split: EncodedSplit, batch_size: int, on_batch: Callable[[int], None]) -> np.ndarray:
    """The first output for every sample in the split's order, (samples, labels)."""
    name = session.get_outputs()[0].name

    def run(batch: dict[str, np.ndarray]) -> np.ndarray:
        rows = session.run([name], batch)[0]
        on_batch(len(rows))
        return rows

    return split.run(batch_size, run)
