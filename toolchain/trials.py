"""What every search is made of: trials of a plan, each recorded before anything follows from it.

A strategy asks for trials and accepts some of them; the journal replays those of a killed search.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ..core.metrics import Measurement
from ..core.plan import ApproximationPlan, Focus
from ..core.targets import Target
from .evaluation import Evaluator
from .journal import Journal, TrialRecord
from .significance import Hopeless, Significance, Thresholds, Verdict

__all__ = ["SearchProgress", "SearchResult", "Trials"]


@dataclass(frozen=True)
class SearchProgress:
    """State of a search after a trial."""

    element: Target
    record: TrialRecord
    done: int
    """Elements of the queue that are settled, tried or dropped."""
    total: int
    loss_ratio: float
    """Loss of the trial over the baseline loss; at least, where the trial ended early."""
    plan: ApproximationPlan
    replayed: bool
    """The trial was read from the journal, not run."""


@dataclass(frozen=True)
class SearchResult:
    plan: ApproximationPlan
    baseline: Measurement
    final: Measurement
    """Loss and metric under the plan, before the final fine-tuning."""
    trials: int
    seconds: float
    """Time spent in trials, those of earlier, interrupted runs included."""


class Trials:
    """The plan that a search has come to, and the trials that brought it there.

    Args:
        evaluator: holds the state to start from, which is measured first.
        reference_metric: that the metric's bound is a share of; None = that of the state to start from.
        constant_loss: of the best answer that is the same for every sample.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        journal: Journal,
        on_trial: Callable[[SearchProgress], None] | None,
        focus: Focus,
        thresholds: Thresholds,
        reference_metric: float | None,
        constant_loss: float | None,
    ) -> None:
        self._evaluator = evaluator
        self._journal = journal
        self._on_trial = on_trial
        self.plan = evaluator.plan
        self._count = 0
        self._seconds = 0.0
        self._baseline = self._recorded(
            Target(0, "attn"), "baseline", lambda: (self._evaluator.measure(), Verdict.RETAIN)
        ).measurement
        self._current = self._baseline
        self.significance = Significance(focus, thresholds, self._baseline, reference_metric, constant_loss)

    def run(self, element: Target, change: str, candidate: ApproximationPlan) -> TrialRecord:
        """Measure a plan and judge it.

        Args:
            element: what is changed; together with ``change`` it names the trial.
        """

        def judged() -> tuple[Measurement | Hopeless, Verdict]:
            measured = self._evaluator.measure_trial(candidate, self.significance.hopeless_above(element))
            return measured, self.significance.judge(measured)

        return self._recorded(element, change, judged)

    def accept(self, plan: ApproximationPlan, measured: Measurement) -> None:
        """Go on from a plan that was tried."""
        self.plan = plan
        self._current = measured
        self.significance.accept(measured)
        self._evaluator.accept(plan)

    def report(self, element: Target, record: TrialRecord, done: int, total: int) -> None:
        if self._on_trial is None:
            return
        self._on_trial(
            SearchProgress(
                element=element,
                record=record,
                done=done,
                total=total,
                loss_ratio=record.loss / self._baseline.loss if self._baseline.loss else 1.0,
                plan=self.plan,
                replayed=self._replayed,
            )
        )

    def result(self) -> SearchResult:
        return SearchResult(self.plan, self._baseline, self._current, self._count, self._seconds)

    def _recorded(
        self, element: Target, change: str, judged: Callable[[], tuple[Measurement | Hopeless, Verdict]]
    ) -> TrialRecord:
        record = self._journal.next_recorded(str(element), change)
        self._replayed = record is not None
        if record is None:
            started = time.perf_counter()
            measured, verdict = judged()
            record = TrialRecord(
                trial=self._count,
                element=str(element),
                change=change,
                loss=measured.loss,
                metric=measured.metric if isinstance(measured, Measurement) else None,
                verdict=verdict,
                seconds=time.perf_counter() - started,
            )
            self._journal.append(record)
        self._count += 1
        self._seconds += record.seconds
        return record
