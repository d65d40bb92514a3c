"""Rounds of a search and a fine-tuning, each starting from the last one that kept the metric's bound.

A round is judged on rows that no trial saw. One that is refused is kept in the run folder as well, but the next starts
again where it started, with half the slack, until the slack is a quarter of the first. A search for what may go that finds
nothing is made again with twice the slack, up to sixteen times the first, unless as much was refused there.

Where several teachers know more than the baseline, the first round removes nothing and learns from them: with the accuracy
focus that is a gain which later rounds have to keep, with the others one that they may spend. A run that starts from another
one has its kept round as the first. Either way the model of that round teaches the later ones.

With the size focus rounds of another kind follow, which give weights fewer bits; their fine-tuning computes with these.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import numpy as np

from ..core.bounds import keeps_bound, smallest_accepted
from ..core.costs import encoder_parameters, file_flops
from ..core.intervals import CONFIDENCE, Change, paired_change
from ..core.metrics import Measurement
from ..core.plan import ApproximationPlan, default_group_size
from ..files import write_folder
from ..seals import seal
from .apply import apply_plan
from .context import RunContext, save_model
from .models import LoadedModel
from .origin import Origin
from .run_folder import Round, RoundRecord
from .searches import Searches, Start
from .teacher import Teacher
from .trials import SearchResult

__all__ = ["Rounds"]

_BITS_ROUNDS = 3
"""That give weights fewer bits, at most: the first mostly ends it, and a refused one is tried again with half the slack."""
_SMALLEST_SLACK = 0.25
"""Share of the first slack with which a refused round is not tried again with less."""
_LARGEST_SLACK = 16.0
"""Times the first slack that a search which found nothing may be made again with, at most."""

_Look = Callable[[Start, int], SearchResult]
"""Finds what a round of that number does to its start."""


class Rounds:
    """The rounds of a run over its baseline, which is round 0."""

    def __init__(self, context: RunContext, baseline: LoadedModel, origin: Origin) -> None:
        self._context = context
        self._options = context.options
        self._run = context.run
        self._baseline = baseline
        self._taken = origin.kept_round()
        self._learns_first = self._options.learns_first and not origin.has_learnt
        self._parameters = sum(parameter.numel() for parameter in baseline.model.parameters())
        self._sequence = int(np.median(context.splits.selection.lengths))
        group_size = self._options.group_size or default_group_size(baseline.shape)
        self._nothing = ApproximationPlan.empty(baseline.identity(), group_size, self._options.focus, context.task.name)
        self._searches = Searches(context, baseline, self._nothing, lambda: self._reference, self._sequence)
        context.progress.stage("measuring the baseline")
        self._answers = context.logits(baseline, self._nothing, context.splits.acceptance)

    @cached_property
    def _reference(self) -> Measurement:
        """The unpruned baseline on the selection split."""
        return self._context.measure(self._baseline, self._nothing)

    @cached_property
    def _recovering_teacher(self) -> Teacher:
        """Of what a plan took away: the first round's model where that was kept, else the baseline."""
        first = self._run.round(1)
        if not (self._learns(1) or self._taken) or not first.read_record().is_accepted:
            return self._context.recorded(self._baseline)
        learnt = self._context.reload(first.model)
        apply_plan(learnt.model, first.read_plan())
        return self._context.recorded(learnt)

    def run(self) -> tuple[int, int]:
        """Make every round that is not there yet: (how many there are, the last that was accepted)."""
        self._settle_baseline()
        kept, done = (self._settle_taken(self._taken), 1) if self._taken else (0, 0)
        done, kept = self._go_on(done, kept, self._options.most_rounds, self._searches.for_removals, "to remove")
        if self._options.focus == "size":
            done, kept = self._go_on(
                done, kept, _BITS_ROUNDS, self._searches.for_bits, "to tell in fewer bits", widest=1.0
            )
        return done, kept

    def _go_on(
        self, done: int, kept: int, most: int, look: _Look, for_what: str, widest: float = _LARGEST_SLACK
    ) -> tuple[int, int]:
        """So many more rounds at most, from the kept one: (how many there are then, the last that was accepted).

        Args:
            widest: times the first slack that is tried, at most.
        """
        first = slack = self._options.first_slack
        refused = math.inf  # the least slack that was too much for the kept round
        last = done + most
        while done < last:
            record = self._settle(done + 1, slack, kept, look)
            if record is None:
                if slack == 0 or 2 * slack > first * widest or 2 * slack >= refused:
                    self._context.progress.message(f"round {done + 1} finds nothing more {for_what}")
                    return done, kept
                self._context.progress.message(
                    f"round {done + 1} finds nothing {for_what} with recover = {slack:g}; it looks again with {2 * slack:g}"
                )
                slack *= 2
                continue
            done += 1
            self._report(done, record)
            if record.is_accepted:
                kept, refused = done, math.inf
            elif self._learns(done):
                continue
            elif slack <= first * _SMALLEST_SLACK:
                return done, kept
            else:
                refused, slack = slack, slack / 2
        return done, kept

    def _settle_taken(self, taken: Round) -> int:
        """Put another run's round in place of the first search: its number, or 0 where it is refused here."""
        one, zero = self._run.round(1), self._run.round(0)
        start = Start(0, zero.read_plan(), zero.read_record(), slack=0.0)
        if self._context.is_missing(one.path) or not _starts_at(one.read_record(), start):
            plan, before = taken.read_plan(), taken.read_record()
            plan = plan.model_copy(update={"focus": self._options.focus})
            found = SearchResult(plan, before.searched, before.searched, before.trials, before.search_seconds)
            self._keep(1, start, found, self._context.reload(taken.model))
        record = one.read_record()
        self._report(1, record)
        return 1 if record.is_accepted else 0

    def _settle_baseline(self) -> None:
        zero, fingerprint = self._run.round(0), self._nothing.model.fingerprint
        if not self._context.is_missing(zero.path) and zero.read_record().started_on == fingerprint:
            return
        measured, found = self._reference, self._nothing_removed()
        with write_folder(zero.path) as staging:
            zero = Round(staging, self._run.baseline)
            self._nothing.save(zero.plan_path)
            record = self._record(0, fingerprint, 0.0, found, self._nothing, measured, self._answers)
            zero.write_record(record.model_copy(update={"is_accepted": True}))
            seal(staging)

    def _settle(self, number: int, slack: float, start_number: int, look: _Look) -> RoundRecord | None:
        """The round of that number, made unless it is there and of this start; None where there is nothing to remove."""
        done, before = self._run.round(number), self._run.round(start_number)
        start = Start(start_number, before.read_plan(), before.read_record(), slack)
        if self._context.is_missing(done.path) or not _starts_at(done.read_record(), start):
            found = self._nothing_removed() if self._learns(number) else look(start, number)
            if found.plan == start.plan and not self._learns(number):
                return None
            self._make(number, start, found)
        return done.read_record()

    def _learns(self, number: int) -> bool:
        """The round removes nothing and learns from several teachers."""
        return number == 1 and self._learns_first

    def _nothing_removed(self) -> SearchResult:
        return SearchResult(self._nothing, self._reference, self._reference, trials=0, seconds=0.0)

    def _make(self, number: int, start: Start, found: SearchResult) -> None:
        context, name = self._context, f"round-{number}"
        student = context.reload(self._run.round(start.number).model)
        gains = self._learns(number) or (self._options.focus == "accuracy" and self._options.learns_first)
        epochs = self._options.final_epochs_on(len(context.splits.lessons), gains)
        if epochs:
            teacher = None
            if self._options.distill:
                teacher = context.committee(self._baseline) if gains else self._recovering_teacher
            context.progress.stage(f"fine-tuning round {number}")
            context.fine_tune(student, epochs, name, plan=found.plan, teacher=teacher, gains=gains)
        self._keep(number, start, found, student)
        context.forget_training(name)

    def _keep(self, number: int, start: Start, found: SearchResult, student: LoadedModel) -> None:
        """Write the round, measured as it was saved."""
        context = self._context
        with write_folder(self._run.round(number).path) as staging:
            folder = Round(staging, staging / "model")
            save_model(student, folder.model)
            saved = context.reload(folder.model)
            plan = found.plan.for_model(saved.identity())
            plan.save(folder.plan_path)
            answers = context.logits(saved, plan, context.splits.acceptance)
            measured = context.measure(saved, plan)
            fingerprint = start.plan.model.fingerprint
            record = self._record(start.number, fingerprint, start.slack, found, plan, measured, answers)
            if self._options.focus == "accuracy" and record.change.after < start.record.change.after:
                record = record.model_copy(update={"is_accepted": False})  # it promises to gain, round by round
            folder.write_record(record)
            seal(staging)

    def _record(
        self,
        start: int,
        started_on: str,
        slack: float,
        found: SearchResult,
        plan: ApproximationPlan,
        final: Measurement,
        answers: np.ndarray,
    ) -> RoundRecord:
        removed = encoder_parameters(self._nothing) - encoder_parameters(plan)
        return RoundRecord(
            start=start,
            started_on=started_on,
            slack=slack,
            searched=found.final,
            final=final,
            change=self._change(answers, CONFIDENCE),
            is_accepted=self._is_accepted(answers, final),
            parameters=self._parameters - removed,
            encoder_flops=file_flops(plan, self._sequence),
            trials=found.trials,
            search_seconds=found.seconds,
        )

    def _change(self, answers: np.ndarray, confidence: float) -> Change:
        """Of the metric on the acceptance split, from the baseline's answers to these."""
        rows = self._context.splits.acceptance
        return paired_change(
            self._context.task.metric, self._answers, answers, rows.labels, rows.groups, confidence=confidence
        )

    def _is_accepted(self, answers: np.ndarray, final: Measurement) -> bool:
        """Whether the bound is kept on the rows that no trial saw, and on average by them and those that trials saw.

        The latter flatter what the trials chose; a metric that falls there says that the former were lucky.
        """
        options, change = self._options, self._change(answers, self._options.confidence or CONFIDENCE)
        if not keeps_bound(change, options.max_drop, options.focus, to_the_end=options.confidence is not None):
            return False
        before = (change.before + self._reference.metric) / 2
        return (change.after + final.metric) / 2 >= smallest_accepted(before, options.max_drop, options.focus)

    def _report(self, number: int, record: RoundRecord) -> None:
        change = record.change
        self._context.progress.message(
            f"round {number}, from round {record.start} with recover = {record.slack:g}: {self._context.task.metric} "
            f"{change.before:.4f} -> {change.after:.4f} on {change.rows} rows that no trial saw, "
            f"{self._reference.metric:.4f} -> {record.final.metric:.4f} on those that judged trials, "
            f"{record.parameters / self._parameters:.0%} of the parameters left; "
            + ("kept" if record.is_accepted else f"refused, {self._reason(record)}")
        )

    def _reason(self, refused: RoundRecord) -> str:
        before = self._run.round(refused.start).read_record().change.after
        if self._options.focus == "accuracy" and refused.change.after < before:
            return f"round {refused.start} has {before:.4f}"
        return "the bound of --max-drop is missed"


def _starts_at(record: RoundRecord, start: Start) -> bool:
    return (record.start, record.started_on, record.slack) == (
        start.number,
        start.plan.model.fingerprint,
        start.slack,
    )
