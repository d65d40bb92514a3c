"""Does the exported model do what was promised? Numbers against PyTorch, task metric against the baseline."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import custom_ops
from ..core.batches import EncodedSplit
from ..core.bounds import smallest_accepted
from ..core.intervals import paired_change
from ..core.precision import DEFAULT_PRECISION, TOLERANCES, Precision, Tolerance
from ..errors import AxformError
from .bundle import Bundle, Measured, Report
from .check_data import CheckData
from .limits import positive
from .session import DEFAULT_PROVIDER, Provider, create_session, provider_of, run_session

__all__ = ["NumericParity", "ParityReport", "TaskParity", "check_bundle", "numeric_parity"]


class NumericParity(Measured):
    """model.onnx against PyTorch with the plan applied, on the same padded batches."""

    samples: int
    batches: int
    max_abs_error: float
    worst_sample: int
    """Row of the reported split."""
    worst_output: str
    tolerance: float
    """Of that output, in the precision that the file was exported in."""
    changed: float | None = 0.0
    """Share of the samples whose largest output is another one; None = there is one output, as in a regression."""

    @property
    def passed(self) -> bool:
        return self.max_abs_error <= self.tolerance


class TaskParity(Measured):
    """The task metric of model.onnx beside baseline.onnx, on the whole reported split."""

    metric: str
    samples: int
    baseline: float
    model: float
    low: float
    high: float
    """Ends of the paired 95 % interval of the change from ``baseline`` to ``model``."""
    bound: float
    """Smallest metric that ``--max-drop`` allows."""

    @property
    def passed(self) -> bool:
        return self.model >= self.bound


class ParityReport(Report):
    numeric: NumericParity
    """As a session runs the model: with the op library where there is one."""
    bodies: NumericParity | None = None
    """Without the op library, on the function bodies; None where the numbers above are those of the bodies already."""
    task: TaskParity

    @property
    def passed(self) -> bool:
        return self.numeric.passed and self.task.passed and (self.bodies is None or self.bodies.passed)


def check_bundle(
    bundle: Bundle,
    provider: Provider = DEFAULT_PROVIDER,
    threads: int | None = None,
    batch_size: int = 32,
    on_batch: Callable[[int, int], None] | None = None,
) -> ParityReport:
    """Verify the files, run both checks and record the result in the bundle.

    Args:
        on_batch: called with (samples done, samples in all).

    Raises:
        AxformError: a file of the bundle was changed or cannot be run, or an option is out of range.
    """
    positive("batch_size", batch_size)
    bundle.verify()
    data = CheckData.load(bundle.check_data)
    model = create_session(bundle.model, provider, threads)
    report = ParityReport(
        provider=provider_of(model),
        numeric=numeric_parity(model, data, bundle.manifest.precision),
        bodies=_body_parity(bundle, data, provider, threads),
        task=_task_parity(
            bundle, data, (create_session(bundle.baseline, provider, threads), model), batch_size, on_batch
        ),
    )
    report.not_recorded = bundle.save_result("check", {**report.model_dump(), "passed": report.passed})
    return report


def _body_parity(bundle: Bundle, data: CheckData, provider: Provider, threads: int | None) -> NumericParity | None:
    """The numbers where there is no op library, if it stands for anything in this bundle."""
    if not (bundle.manifest.op_library.accelerates and custom_ops.is_available()):
        return None
    session = create_session(bundle.model, provider, threads, op_library=False)
    return numeric_parity(session, data, bundle.manifest.precision)


def _task_parity(
    bundle: Bundle,
    data: CheckData,
    sessions: tuple[Any, Any],
    batch_size: int,
    on_batch: Callable[[int, int], None] | None,
) -> TaskParity:
    total, done = 2 * len(data.split), 0

    def advance(samples: int) -> None:
        nonlocal done
        done += samples
        if on_batch is not None:
            on_batch(done, total)

    metric = bundle.manifest.metric
    before, after = (run_split(session, data.split, batch_size, advance) for session in sessions)
    change = paired_change(metric, before, after, data.split.labels, data.split.groups)
    return TaskParity(
        metric=metric,
        samples=len(data.split),
        baseline=change.before,
        model=change.after,
        low=change.low,
        high=change.high,
        bound=smallest_accepted(change.before, bundle.manifest.max_drop, bundle.manifest.plan.focus),
    )


def numeric_parity(session: Any, data: CheckData, precision: Precision = DEFAULT_PRECISION) -> NumericParity:
    """Run the reference batches and compare every output; a NaN counts as an infinite error.

    Raises:
        AxformError: the model cannot be run, or its outputs have other shapes than PyTorch's.
    """
    tolerances = {name: _tolerance(TOLERANCES[precision], data, name) for name in data.references[0].outputs}
    worst: tuple[float, float, int, str] | None = None
    changed, choices = 0, 0
    for reference in data.references:
        names = list(reference.outputs)
        outputs = run_session(session, names, data.split.batch(reference.indices))
        for name, output in zip(names, outputs, strict=True):
            errors = _errors(name, output, reference.outputs[name])
            found = (float(errors.max()), tolerances[name], int(reference.indices[errors.argmax()]), name)
            if worst is None or found[0] * worst[1] > worst[0] * found[1]:
                worst = found
        choices = outputs[0].shape[-1]
        changed += int((outputs[0].argmax(-1) != reference.outputs[names[0]].argmax(-1)).sum())
    assert worst is not None
    error, tolerance, sample, name = worst
    samples = sum(len(reference.indices) for reference in data.references)
    return NumericParity(
        samples=samples,
        batches=len(data.references),
        max_abs_error=error,
        worst_sample=sample,
        worst_output=name,
        tolerance=tolerance,
        changed=changed / samples if choices > 1 else None,
    )


def _tolerance(allowed: Tolerance, data: CheckData, output: str) -> float:
    """Of an output, as a number."""
    outputs = [reference.outputs[output] for reference in data.references]
    rows = np.concatenate([each.reshape(-1, each.shape[-1]) for each in outputs])  # of hidden states each token is one
    largest = float(np.abs(rows).max())
    if not math.isfinite(largest):
        return allowed.absolute
    return max(allowed.absolute + allowed.relative * float(rows.std(axis=0).mean()), allowed.of_largest * largest)


def _errors(name: str, output: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The largest absolute difference of each sample, (batch,)."""
    if output.shape != expected.shape:
        raise AxformError(
            f"output {name} of model.onnx has shape {output.shape}, PyTorch's in check.npz {expected.shape}; "
            "export again with axform-export."
        )
    errors = np.abs(output - expected).reshape(len(expected), -1).max(axis=1)
    return np.where(np.isnan(errors), np.inf, errors)


def run_split(session: Any, split: EncodedSplit, batch_size: int, on_batch: Callable[[int], None]) -> np.ndarray:
    """The first output for every sample in the split's order, (samples, labels)."""
    name = session.get_outputs()[0].name

    def run(batch: dict[str, np.ndarray]) -> np.ndarray:
        rows = run_session(session, [name], batch)[0]
        on_batch(len(rows))
        return rows

    return split.run(batch_size, run)
