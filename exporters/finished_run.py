"""A finished run as an export needs it: whole, and every part of it of that run."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from ..core.batches import EncodedSplit
from ..core.plan import ApproximationPlan
from ..errors import AxformError
from ..toolchain.models import LoadedModel, load_fine_tuned
from ..toolchain.run_folder import RoundRecord, RunFolder, RunRecord
from .source import Promise, Source

__all__ = ["FinishedRun"]


class FinishedRun:
    """What an export needs of a run, all of it whole and of that run.

    Args:
        step: the round to export; None = the one that counts.

    Raises:
        AxformError: no such round, or a part is missing, damaged or of another run.
    """

    def __init__(self, run: RunFolder, step: int | None = None) -> None:
        self._run = run
        self.record: RunRecord = run.read_record()
        missing = run.missing()
        if missing is not None:
            raise AxformError(f"{missing}; the same `axform optimize` command with --resume makes it again.")
        self.baseline: LoadedModel = load_fine_tuned(run.baseline)
        self.report: EncodedSplit = run.read_split("report")
        fingerprint = self.baseline.identity().fingerprint
        _check_same(run.baseline, "the fingerprint of its weights", fingerprint, self.record.baseline_fingerprint)
        _check_same(run.inputs, "the digests of its data", run.read_inputs(), self.record.inputs)
        _check_same(run.inputs, "its reported split", self.report.digest(), self.record.inputs.report)
        self.choose(self.record.round if step is None else step)

    def choose(self, step: int) -> None:
        """Take up another round; all of them are known to be whole.

        Raises:
            AxformError: no such round, or one of another run.
        """
        run = self._run
        if not 0 <= step <= self.record.rounds:
            raise AxformError(f"--step {step}: {run.path} has the rounds 0 (the baseline) to {self.record.rounds}.")
        chosen = run.round(step)
        self.step = step
        self.round: RoundRecord = chosen.read_record()
        self.plan: ApproximationPlan = chosen.read_plan()
        self.student: LoadedModel = load_fine_tuned(chosen.model)
        _check_same(chosen.plan_path, "the plan's model", self.plan.model, self.student.identity())
        self._check_descent(step)

    def source(self) -> Source:
        """The round as it is exported."""
        record = self.record
        promise = Promise(
            plan=self.plan,
            family=self.student.family,
            selection=partial(self._run.read_split, "selection"),
            report=self.report,
            task=record.options.task,
            metric=record.metric,
            labels=record.labels,
            max_drop=record.options.max_drop,
            max_length=self.student.max_length(None),
            from_run={
                "step": self.step,
                "round": self.round.model_dump(mode="json"),
                "run": _without_places(record),
            },
        )
        return Source(self.baseline, self.student, promise)

    def _check_descent(self, step: int) -> None:
        """Every round back to the baseline started from the weights of the one before it."""
        record = self._run.round(step).read_record()
        begun = self._run.round(record.start).read_plan().model.fingerprint
        _check_same(self._run.round(step).path, "the weights that it started from", record.started_on, begun)
        if step:
            self._check_descent(record.start)
        else:
            _check_same(self._run.round(0).path, "its baseline", begun, self.record.baseline_fingerprint)


def _without_places(record: RunRecord) -> dict[str, Any]:
    """The record without folders of the machine that made it; a bundle goes to others."""
    public = record.model_dump(mode="json")
    model = Path(record.options.model)
    public["options"] |= {"data": None, "model": model.name if model.is_absolute() else record.options.model}
    return public


def _check_same(place: Path, what: str, found: object, expected: object) -> None:
    if found != expected:
        raise AxformError(f"{place}: is of another run: {what} is {found}, where {expected} is expected; restore it.")
