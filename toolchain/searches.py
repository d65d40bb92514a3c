"""What a round looks for: a search from where it starts, with what it may cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..core.batches import EncodedSplit
from ..core.metrics import Measurement, compute_metric
from ..core.plan import ApproximationPlan
from .attention import default_k
from .bits import bits_search
from .context import RunContext
from .evaluation import Evaluator
from .journal import Journal
from .losses import constant_loss
from .models import LoadedModel
from .precision import uses_bf16
from .run_folder import RoundRecord
from .search import SearchOptions, search
from .significance import Thresholds
from .trials import SearchProgress, SearchResult

__all__ = ["Searches", "Start"]

_METRIC_SLACK = 0.25
"""Share of the slack by which the metric may fall, too: a model with a loss near chance loses its metric long before its
loss tells."""
_MOST_AT_ONCE = 0.25
"""Share of the FLOPs that one search removes at most with more than the first slack: what may be lost then is most of what
the model knows, and a loss near chance no longer tells what a fine-tuning can win back."""
_LONG_SEQUENCE = 128
"""From this many tokens on, sign matching is tried by default: below, full attention is a small share of the time."""


@dataclass(frozen=True)
class Start:
    """Where a round starts, and what its search may cost."""

    number: int
    """Of the round that it starts from."""
    plan: ApproximationPlan
    record: RoundRecord
    slack: float


class Searches:
    """The searches of a run, all on the same rows.

    Args:
        nothing: the plan that changes nothing, for the baseline.
        reference: the baseline on the selection split.
        sequence: tokens of a sample that costs are computed for.
    """

    def __init__(
        self,
        context: RunContext,
        baseline: LoadedModel,
        nothing: ApproximationPlan,
        reference: Callable[[], Measurement],
        sequence: int,
    ) -> None:
        self._context = context
        self._options = context.options
        self._run = context.run
        self._baseline = baseline
        self._nothing = nothing
        self._reference = reference
        self._sequence = sequence

    def for_removals(self, start: Start, number: int) -> SearchResult:
        """What may go."""
        options = self._search_options(start.slack)
        return self._searched(
            start,
            number,
            "searching",
            self._journal(start, number, "trials"),
            {} if options.most_removed == 1.0 else {"most removed": options.most_removed},
            lambda evaluator, journal: search(evaluator, options, journal, self._report_trial),
        )

    def for_bits(self, start: Start, number: int) -> SearchResult:
        """How few bits the weights need."""
        options, fewest = self._search_options(start.slack), self._options.fewest_bits
        return self._searched(
            start,
            number,
            "searching bits",
            self._journal(start, number, "bits"),
            {"fewest bits": fewest},
            lambda evaluator, journal: bits_search(evaluator, options, fewest, journal, self._report_trial),
        )

    def _journal(self, start: Start, number: int, what: str) -> Path:
        """Of its own for each slack, since a search that finds nothing is made again with more under the same number."""
        first = self._options.first_slack
        again = "" if start.slack == first else f"-x{start.slack / first:g}"
        return self._run.journal(number, f"{what}{again}")

    @cached_property
    def _trial_rows(self) -> EncodedSplit:
        """What trials are measured on: the selection split, or as much of it as tells them apart."""
        selection, most = self._context.splits.selection, self._options.trial_rows
        if len(selection) <= most:
            return selection
        chosen = np.random.default_rng(self._options.seed).choice(len(selection), most, replace=False)
        if np.ptp(selection.labels[chosen]) == 0:
            self._context.progress.message(
                f"--trial-rows {most}: so few have but one label, which tells nothing of a trial; all {len(selection)} do"
            )
            return selection
        return selection.select(np.sort(chosen))

    @cached_property
    def _trial_metric(self) -> float:
        """The unpruned baseline's on the rows of the trials."""
        rows = self._trial_rows
        if rows is self._context.splits.selection:
            return self._reference().metric
        answers = self._context.logits(self._baseline, self._nothing, rows)
        return compute_metric(self._context.task.metric, answers, rows.labels)

    def _search_options(self, slack: float) -> SearchOptions:
        return SearchOptions(
            focus=self._options.focus,
            thresholds=self._thresholds(slack),
            reference_metric=self._trial_metric,
            constant_loss=constant_loss(self._context.task, self._trial_rows.labels),
            sequence=self._sequence,
            layer_order=self._options.layer_order,
            sign_matching_k=self._sign_matching_k(),
            selection=self._options.selection,
            ffn_groups=self._options.ffn_groups,
            attention_groups=self._options.attention_groups,
            most_removed=_MOST_AT_ONCE if slack > self._options.first_slack else 1.0,
        )

    def _searched(
        self,
        start: Start,
        number: int,
        stage: str,
        path: Path,
        settings: dict[str, float],
        run: Callable[[Evaluator, Journal], SearchResult],
    ) -> SearchResult:
        """A search from the start, with a journal that continues only what was the same."""
        context = self._context
        journal = Journal(
            path,
            {
                "model": start.plan.model.fingerprint,
                "selection": self._trial_rows.digest(),
                "focus": self._options.focus,
                "thresholds": asdict(self._thresholds(start.slack)),
                "group_size": start.plan.group_size,
                "order": self._options.layer_order,
                "precision": "bf16" if uses_bf16() else "float32",
                **settings,
            },
        )
        context.progress.stage(f"{stage}, round {number}")
        loaded = context.reload(self._run.round(start.number).model)
        evaluator = Evaluator(
            loaded,
            context.task,
            self._trial_rows,
            start.plan,
            batch_size=self._options.batch_size,
            is_fast=True,
        )
        try:
            return run(evaluator, journal)
        finally:
            evaluator.close()

    def _thresholds(self, slack: float) -> Thresholds:
        options = self._options
        return Thresholds(
            prune=options.prune_threshold,
            approximate=options.approximate_threshold,
            max_drop=options.max_drop + _METRIC_SLACK * slack,
            slack=slack,
        )

    def _sign_matching_k(self) -> int | None:
        mode, longest = self._options.sign_matching, int(self._context.splits.selection.lengths.max())
        k = default_k(longest)
        if mode == "off" or (mode == "auto" and longest < _LONG_SEQUENCE):
            return None
        if longest <= k:
            self._context.progress.message(
                f"sign matching keeps {k} keys and no sample is longer ({longest} tokens): not tried"
            )
            return None
        return k

    def _report_trial(self, trial: SearchProgress) -> None:
        self._context.progress.step(
            trial.done,
            trial.total,
            f"{trial.element}: {trial.record.verdict.value}, loss x{trial.loss_ratio:.3f}; "
            f"{trial.plan.changes()} parts removed or approximated",
        )
