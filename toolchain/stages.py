"""The stages of a run: the baseline, rounds of a search and a fine-tuning, and at last the reported split.

Each stage leaves its result in one step under its final name, sealed, and a stage whose result is there and whole is
not run again. Every random choice is seeded, so what is made again is the same. Weights are measured after they were
saved and loaded again: what is measured is what is shipped.
"""

from __future__ import annotations

import math
import platform
import shutil
from pathlib import Path

import numpy as np
import torch

from ..core.metrics import Measurement, compute_metric
from ..core.plan import ApproximationPlan, default_group_size
from ..core.progress import Progress
from ..errors import AxformError
from ..files import write_folder
from ..seals import damage, seal
from .apply import apply_plan
from .attention import default_k
from .data import TaskData, encode
from .evaluation import Evaluator, predict
from .finetune import fine_tune
from .journal import Journal
from .models import LoadedModel, fingerprint, load_fine_tuned, preferred_device, without_progress_bar
from .options import FineTuneOptions, OptimizeOptions
from .run_folder import Measured, Round, RoundRecord, RunFolder, RunInputs, RunRecord
from .search import SearchOptions, SearchProgress, SearchResult, search
from .significance import Significance, Thresholds

__all__ = ["Stages"]

_METRIC_SLACK = 0.25
"""Share of the slack by which the metric may fall, too: a model with a loss near chance loses its metric long before its
loss tells."""
_LONG_SEQUENCE = 128
"""From this many tokens on, sign matching is tried by default: below, full attention is a small share of the time."""


class Stages:
    """One run, on data and a model that were read and checked.

    Raises:
        AxformError: the run was started on other data or another model.
    """

    def __init__(
        self, options: OptimizeOptions, run: RunFolder, data: TaskData, loaded: LoadedModel, progress: Progress
    ) -> None:
        self._options = options
        self._run = run
        self._task = data.task
        self._loaded = loaded
        self._progress = progress
        self._device = preferred_device()
        progress.stage("tokenizing")
        self._train, self._selection, self._report = (
            encode(data.task, frame, loaded.tokenizer, loaded.inputs, self._max_length())
            for frame in (data.train, data.selection, data.report)
        )
        self._inputs = RunInputs(
            train=self._train.digest(),
            selection=self._selection.digest(),
            report=self._report.digest(),
            model=fingerprint(loaded.model),
        )
        self._settle_inputs()

    def execute(self) -> None:
        """Run every stage whose result is not there yet."""
        baseline = self._baseline()
        identity = baseline.identity()
        self._group_size = self._options.group_size or default_group_size(baseline.shape)
        measured = self._measure(baseline, ApproximationPlan.empty(identity, self._group_size))
        guard = Significance(self._options.focus, Thresholds(max_drop=self._options.max_drop), measured)
        for number, slack in enumerate(_slacks(self._options.first_slack), 1):
            done = self._round(number, slack, baseline, identity.fingerprint)
            final = done.read_record().final
            if guard.keeps_metric(final):
                break
            self._progress.message(
                f"with recover = {slack:g} the final fine-tuning reached {final.metric:.4f} on the selection split, "
                f"below the bound {guard.metric_bound:.4f}"
            )
        self._finish(baseline, measured, guard.metric_bound, number, done)

    def _max_length(self) -> int:
        return self._loaded.max_length(self._options.max_length or self._task.max_length)

    def _settle_inputs(self) -> None:
        if damage(self._run.inputs) is not None:
            self._run.write_inputs(self._inputs, self._report)
        started_on = self._run.read_inputs().model_dump()
        for name, digest in self._inputs.model_dump().items():
            if started_on[name] != digest:
                what = "the model's weights are" if name == "model" else f"the rows of the {name} split are"
                raise AxformError(
                    f"{self._run.path}: {what} not those that the run was started on; restore them, or start again with "
                    "--overwrite."
                )

    def _baseline(self) -> LoadedModel:
        folder = self._run.baseline
        if self._is_missing(folder):
            epochs = self._options.baseline_epochs
            if epochs is None:
                epochs = 0 if self._loaded.has_trained_head else FineTuneOptions.epochs
            if epochs:
                self._progress.stage("fine-tuning the baseline")
                self._fine_tune(self._loaded, epochs, "baseline", teacher=None)
            else:
                self._progress.message("the model brings a trained task head: taken as the baseline as it is")
            with write_folder(folder) as staging:
                _save(self._loaded, staging)
                seal(staging)
            self._forget_training("baseline")
        return self._reload(folder)

    def _round(self, number: int, slack: float, baseline: LoadedModel, fingerprint: str) -> Round:
        """The round of that number, made unless it is there and belongs to this baseline."""
        done = self._run.round(number)
        if self._is_missing(done.path) or done.read_record().baseline != fingerprint:
            found = self._search(slack, number)
            name = f"final-{number}"
            student = self._reload(self._run.baseline)
            if self._options.final_epochs and found.plan.changes():
                self._progress.stage("fine-tuning the approximated model")
                with apply_plan(student.model, found.plan):
                    self._fine_tune(
                        student, self._options.final_epochs, name, baseline if self._options.distill else None
                    )
            with write_folder(done.path) as staging:
                self._write_round(Round(staging), student, found, slack, fingerprint)
                seal(staging)
            self._forget_training(name)
        return done

    def _write_round(
        self, folder: Round, student: LoadedModel, found: SearchResult, slack: float, fingerprint: str
    ) -> None:
        _save(student, folder.model)
        saved = self._reload(folder.model)
        plan = found.plan.model_copy(deep=True)
        plan.model = saved.identity()
        plan.save(folder.plan_path)
        folder.write_record(
            RoundRecord(
                slack=slack,
                baseline=fingerprint,
                searched=found.final,
                final=self._measure(saved, plan),
                trials=found.trials,
                search_seconds=found.seconds,
            )
        )

    def _search(self, slack: float, number: int) -> SearchResult:
        loaded = self._reload(self._run.baseline)
        plan = ApproximationPlan.empty(loaded.identity(), self._group_size)
        plan.focus, plan.task = self._options.focus, self._task.name
        thresholds = self._thresholds(slack)
        options = SearchOptions(
            focus=self._options.focus,
            thresholds=thresholds,
            sequence=int(np.median(self._selection.lengths)),
            layer_order=self._options.layer_order,
            sign_matching_k=self._sign_matching_k(),
            selection=self._options.selection,
            ffn_groups=self._options.ffn_groups,
            attention_groups=self._options.attention_groups,
        )
        journal = Journal(
            self._run.journal(number),
            {
                "model": plan.model.fingerprint,
                "selection": self._inputs.selection,
                "focus": options.focus,
                "thresholds": [thresholds.prune, thresholds.approximate, thresholds.max_drop],
                "group_size": self._group_size,
                "order": options.layer_order,
            },
        )
        self._progress.stage("searching")
        evaluator = Evaluator(loaded, self._task, self._selection, plan, batch_size=self._options.batch_size)
        try:
            return search(evaluator, options, journal, self._report_trial)
        finally:
            evaluator.close()

    def _finish(self, baseline: LoadedModel, measured: Measurement, bound: float, number: int, done: Round) -> None:
        import transformers

        self._progress.stage("measuring the reported split")
        kept, plan = done.read_record(), done.read_plan()
        student = self._reload(done.model)
        fingerprint = baseline.identity().fingerprint
        baseline_report = self._report_metric(baseline)
        with apply_plan(baseline.model, plan):
            searched_report = self._report_metric(baseline)
        with apply_plan(student.model, plan):
            final_report = self._report_metric(student)
        self._run.write_record(
            RunRecord(
                options=self._options,
                inputs=self._inputs,
                labels=self._task.labels,
                metric=self._task.metric,
                train_rows=len(self._train),
                selection_rows=len(self._selection),
                report_rows=len(self._report),
                baseline_fingerprint=fingerprint,
                baseline=Measured(loss=measured.loss, metric=measured.metric, report_metric=baseline_report),
                searched=Measured(loss=kept.searched.loss, metric=kept.searched.metric, report_metric=searched_report),
                final=Measured(loss=kept.final.loss, metric=kept.final.metric, report_metric=final_report),
                metric_bound=bound,
                trials=kept.trials,
                search_seconds=kept.search_seconds,
                round=number,
                versions={
                    "python": platform.python_version(),
                    "torch": torch.__version__,
                    "transformers": transformers.__version__,
                },
            )
        )

    def _is_missing(self, folder: Path) -> bool:
        what = damage(folder)
        if what is not None and folder.exists():
            self._progress.message(f"{folder}: {what}; it is made again")
        return what is not None

    def _reload(self, folder: Path) -> LoadedModel:
        loaded = load_fine_tuned(folder)
        loaded.model.to(self._device)
        return loaded

    def _fine_tune(self, loaded: LoadedModel, epochs: int, name: str, teacher: LoadedModel | None) -> None:
        options = FineTuneOptions(
            epochs=epochs,
            learning_rate=self._options.learning_rate,
            batch_size=self._options.batch_size,
            seed=self._options.seed,
        )
        loaded.model.to(self._device)
        fine_tune(
            loaded,
            self._task,
            self._train,
            self._selection,
            options,
            self._run.training(name),
            teacher=None if teacher is None else teacher.model,
            keep_start=name != "baseline",
            on_step=self._report_step,
        )

    def _forget_training(self, name: str) -> None:
        """Delete the checkpoints of a fine-tuning whose result is saved."""
        shutil.rmtree(self._run.training(name), ignore_errors=True)

    def _measure(self, loaded: LoadedModel, plan: ApproximationPlan) -> Measurement:
        evaluator = Evaluator(
            loaded, self._task, self._selection, plan, batch_size=self._options.batch_size, cache_bytes=0
        )
        try:
            measured = evaluator.measure()
        finally:
            evaluator.close()
        if not math.isfinite(measured.loss) or not math.isfinite(measured.metric):
            raise AxformError(
                f"the model's loss on the selection split is {measured.loss} and its {self._task.metric} "
                f"{measured.metric}: its weights or answers overflow; give another model, or fine-tune it with a smaller "
                "--learning-rate."
            )
        return measured

    def _report_metric(self, loaded: LoadedModel) -> float:
        logits = predict(loaded, self._report, self._options.batch_size)
        return compute_metric(self._task.metric, logits, self._report.labels)

    def _thresholds(self, slack: float) -> Thresholds:
        options = self._options
        return Thresholds(
            prune=options.prune_threshold + slack,
            approximate=options.approximate_threshold + slack,
            max_drop=options.max_drop + _METRIC_SLACK * slack,
        )

    def _sign_matching_k(self) -> int | None:
        mode, longest = self._options.sign_matching, int(self._selection.lengths.max())
        k = default_k(longest)
        if mode == "off" or (mode == "auto" and longest < _LONG_SEQUENCE):
            return None
        if longest <= k:
            self._progress.message(
                f"sign matching keeps {k} keys and no sample is longer ({longest} tokens): not tried"
            )
            return None
        return k

    def _report_step(self, done: int, total: int, loss: float | None) -> None:
        self._progress.step(done, total, "" if loss is None else f"loss {loss:.4f}")

    def _report_trial(self, trial: SearchProgress) -> None:
        self._progress.step(
            trial.done,
            trial.total,
            f"{trial.element}: {trial.record.verdict.value}, loss x{trial.loss_ratio:.3f}; "
            f"{trial.plan.changes()} parts removed or approximated",
        )


def _slacks(recover: float) -> list[float]:
    """The slack of each round: all of it, half of it, none."""
    return [recover, recover / 2, 0.0] if recover else [0.0]


def _save(loaded: LoadedModel, folder: Path) -> None:
    with without_progress_bar():
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
