"""The whole toolchain for one model and task: fine-tune, search, fine-tune the approximated model."""

from __future__ import annotations

import hashlib
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..core.batches import EncodedSplit
from ..core.metrics import Measurement, compute_metric
from ..core.plan import ApproximationPlan, default_group_size
from ..core.progress import Progress
from ..core.tasks import Task, task_named
from ..errors import AxformError
from ..files import write_folder
from ..outputs import check_output_folder, mark
from .apply import apply_plan
from .attention import default_k
from .data import TaskData, encode, load_task_data
from .evaluation import Evaluator, predict
from .finetune import FineTuneOptions, fine_tune
from .journal import Journal
from .models import LoadedModel, load_fine_tuned, load_for_task, preferred_device, without_progress_bar
from .options import OptimizeOptions
from .run_folder import Measured, RunFolder, RunRecord
from .search import SearchOptions, SearchProgress, SearchResult, search
from .significance import Significance, Thresholds

__all__ = ["max_length", "optimize", "settle_task_data"]

_METRIC_SLACK = 0.25
"""Share of the slack by which the metric may fall, too: a model with a loss near chance loses its metric long before its
loss tells."""
_LONG_SEQUENCE = 128
"""From this many tokens on, sign matching is tried by default: below, full attention is a small share of the time."""


def settle_task_data(options: OptimizeOptions) -> TaskData:
    """The task's data as the options ask for it."""
    task = task_named(options.task, options.text_columns, options.label_column)
    return load_task_data(
        task,
        Path(options.data) if options.data else None,
        train_samples=options.train_samples,
        report_samples=options.report_samples,
        seed=options.seed,
    )


def optimize(
    options: OptimizeOptions,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> RunRecord:
    """Find the parts that the task does not need and write the run folder ``out``.

    The baseline is fine-tuned first (skipped for a model that brings a trained head), the search only evaluates, and
    the model with the plan applied is fine-tuned at the end (AxFormer v1, Algorithm 3). A killed run continues with
    ``resume`` and ends in the same plan.

    Raises:
        AxformError: bad options, data or model; the message says what to do.
    """
    run = RunFolder(out)
    if resume and run.options_path.exists():
        _check_same_options(run, options)
        if run.is_finished():
            return run.read_record()
    else:
        check_output_folder(
            out, "run", overwrite, {"the model": Path(options.model), "the data": Path(options.data or out / "none")}
        )
    data = settle_task_data(options)
    loaded = load_for_task(options.model, data.task, data.num_labels, options.seed)
    _check_fits(options, loaded)
    if not run.options_path.exists() or not resume:
        _clear(out)
        mark(out, "run")
        run.write_options(options)
    return _Run(options, run, data, loaded, progress or Progress()).execute()


def _check_same_options(run: RunFolder, options: OptimizeOptions) -> None:
    before, now = run.read_options().model_dump(), options.model_dump()
    for name, value in before.items():
        if now[name] != value:
            raise AxformError(
                f"{run.path}: was started with {name} = {value!r}, now {now[name]!r}; "
                "resume with the same options, or start again with --overwrite."
            )


def _check_fits(options: OptimizeOptions, loaded: LoadedModel) -> None:
    """What can only be judged with the model at hand, before anything is written."""
    if options.baseline_epochs == 0 and not loaded.has_trained_head:
        raise AxformError(
            f"model {options.model!r}: has no trained sequence classification head, so it must be fine-tuned first; "
            "leave out --baseline-epochs 0."
        )
    smallest = min(loaded.shape.hidden_size, loaded.shape.intermediate_size)
    if options.group_size is not None and options.group_size > smallest:
        raise AxformError(f"--group-size {options.group_size}: larger than the model's {smallest} features.")


def _clear(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


@dataclass(frozen=True)
class _Splits:
    train: EncodedSplit
    selection: EncodedSplit
    report: EncodedSplit


class _Run:
    def __init__(
        self, options: OptimizeOptions, run: RunFolder, data: TaskData, loaded: LoadedModel, progress: Progress
    ) -> None:
        self._options = options
        self._run = run
        self._data = data
        self._task: Task = data.task
        self._loaded = loaded
        self._progress = progress
        self._device = preferred_device()
        self._splits = self._encode()

    def execute(self) -> RunRecord:
        teacher = self._baseline()
        self._group_size = self._options.group_size or default_group_size(teacher.shape)
        baseline = self._measure(teacher, ApproximationPlan.empty(teacher.identity(), self._group_size))
        guard = Significance(self._options.focus, Thresholds(max_drop=self._options.max_drop), baseline)
        for round_number, slack in enumerate(_slacks(self._options.first_slack)):
            finished = self._run.finished_rounds()
            if len(finished) > round_number + 1:
                continue  # a later round replaced this one's model
            found = self._search(slack, round_number)
            student, final = self._final(teacher, found, round_number, is_done=len(finished) > round_number)
            if guard.keeps_metric(final):
                break
            self._progress.message(
                f"with recover = {slack:g} the final fine-tuning reached {final.metric:.4f} on the selection split, "
                f"below the bound {guard.metric_bound:.4f}"
            )
        rounds = len(self._run.finished_rounds())
        return self._finish(teacher, student, found, baseline, final, guard.metric_bound, rounds)

    def _encode(self) -> _Splits:
        length = max_length(self._options.max_length or self._task.max_length, self._loaded)
        self._progress.stage("tokenizing")
        return _Splits(
            *(
                encode(self._task, frame, self._loaded.tokenizer, self._loaded.inputs, length)
                for frame in (self._data.train, self._data.selection, self._data.report)
            )
        )

    def _baseline(self) -> LoadedModel:
        if not self._run.baseline.is_dir():
            epochs = self._options.baseline_epochs
            if epochs is None:
                epochs = 0 if self._loaded.has_trained_head else 3
            if epochs:
                self._progress.stage("fine-tuning the baseline")
                self._fine_tune(self._loaded, epochs, "baseline", teacher=None)
            else:
                self._progress.message("the model brings a trained task head: taken as the baseline as it is")
            _save(self._loaded, self._run.baseline)
        return self._reload(self._run.baseline)

    def _search(self, slack: float, round_number: int) -> SearchResult:
        loaded = self._reload(self._run.baseline)
        plan = ApproximationPlan.empty(loaded.identity(), self._group_size)
        plan.focus, plan.task = self._options.focus, self._task.name
        thresholds = self._thresholds(slack)
        options = SearchOptions(
            focus=self._options.focus,
            thresholds=thresholds,
            sequence=int(np.median(self._splits.selection.lengths)),
            layer_order=self._options.layer_order,
            sign_matching_k=self._sign_matching_k(),
            selection=self._options.selection,
            ffn_groups=self._options.ffn_groups,
            attention_groups=self._options.attention_groups,
        )
        journal = Journal(
            self._run.journal(round_number),
            {
                "model": plan.model.fingerprint,
                "selection": _digest(self._splits.selection),
                "focus": options.focus,
                "thresholds": [thresholds.prune, thresholds.approximate, thresholds.max_drop],
                "group_size": self._group_size,
                "order": options.layer_order,
            },
        )
        self._progress.stage("searching")
        evaluator = Evaluator(loaded, self._task, self._splits.selection, plan, batch_size=self._options.batch_size)
        try:
            return search(evaluator, options, journal, self._report_trial)
        finally:
            evaluator.close()

    def _final(
        self, teacher: LoadedModel, found: SearchResult, round_number: int, is_done: bool
    ) -> tuple[LoadedModel, Measurement]:
        student = self._reload(self._run.model if is_done else self._run.baseline)
        if not is_done and self._options.final_epochs and found.plan.changes():
            self._progress.stage("fine-tuning the approximated model")
            with apply_plan(student.model, found.plan):
                self._fine_tune(
                    student,
                    self._options.final_epochs,
                    f"final-{round_number + 1}",
                    teacher=teacher if self._options.distill else None,
                    keep_start=True,
                )
        final = self._measure(student, found.plan)
        if not is_done:
            _save(student, self._run.model)
            plan = found.plan.model_copy(deep=True)
            plan.model = student.identity()
            plan.save(self._run.plan_path)
            self._run.finish_round(final)
        return student, final

    def _finish(
        self,
        teacher: LoadedModel,
        student: LoadedModel,
        found: SearchResult,
        baseline: Measurement,
        final: Measurement,
        bound: float,
        rounds: int,
    ) -> RunRecord:
        import transformers

        self._progress.stage("measuring the reported split")
        baseline_report = self._report_metric(teacher)
        unrecovered = self._reload(self._run.baseline)
        with apply_plan(unrecovered.model, found.plan):
            searched_report = self._report_metric(unrecovered)
        with apply_plan(student.model, found.plan):
            final_report = self._report_metric(student)
        record = RunRecord(
            options=self._options,
            labels=self._task.labels,
            metric=self._task.metric,
            train_rows=len(self._splits.train),
            selection_rows=len(self._splits.selection),
            report_rows=len(self._splits.report),
            baseline=Measured(loss=baseline.loss, metric=baseline.metric, report_metric=baseline_report),
            searched=Measured(loss=found.final.loss, metric=found.final.metric, report_metric=searched_report),
            final=Measured(loss=final.loss, metric=final.metric, report_metric=final_report),
            metric_bound=bound,
            trials=found.trials,
            search_seconds=found.seconds,
            rounds=rounds,
            versions={
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
        )
        self._run.write_record(record)
        return record

    def _reload(self, folder: Path) -> LoadedModel:
        loaded = load_fine_tuned(folder)
        loaded.model.to(self._device)
        return loaded

    def _fine_tune(
        self, loaded: LoadedModel, epochs: int, name: str, teacher: LoadedModel | None, keep_start: bool = False
    ) -> None:
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
            self._splits.train,
            self._splits.selection,
            options,
            self._run.training(name),
            teacher=None if teacher is None else teacher.model,
            keep_start=keep_start,
            on_step=lambda done, total, loss: self._progress.step(done, total, f"loss {loss:.4f}"),
        )

    def _measure(self, loaded: LoadedModel, plan: ApproximationPlan) -> Measurement:
        evaluator = Evaluator(
            loaded, self._task, self._splits.selection, plan, batch_size=self._options.batch_size, cache_bytes=0
        )
        try:
            return evaluator.measure()
        finally:
            evaluator.close()

    def _report_metric(self, loaded: LoadedModel) -> float:
        logits = predict(loaded, self._splits.report, self._options.batch_size)
        return compute_metric(self._task.metric, logits, self._splits.report.labels)

    def _thresholds(self, slack: float) -> Thresholds:
        options = self._options
        return Thresholds(
            prune=options.prune_threshold + slack,
            approximate=options.approximate_threshold + slack,
            max_drop=options.max_drop + _METRIC_SLACK * slack,
        )

    def _sign_matching_k(self) -> int | None:
        mode, longest = self._options.sign_matching, int(self._splits.selection.lengths.max())
        k = default_k(longest)
        if mode == "off" or (mode == "auto" and longest < _LONG_SEQUENCE):
            return None
        if longest <= k:
            self._progress.message(
                f"sign matching keeps {k} keys and no sample is longer ({longest} tokens): not tried"
            )
            return None
        return k

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


def max_length(wanted: int | None, loaded: LoadedModel) -> int:
    """``wanted``, but at most what the tokenizer and the position embeddings allow; None = that most."""
    positions = loaded.model.config.max_position_embeddings
    if loaded.family.model_type == "roberta":
        positions -= loaded.model.config.pad_token_id + 1  # its positions start after the padding index
    most = min(positions, loaded.tokenizer.model_max_length)
    return most if wanted is None else min(wanted, most)


def _save(loaded: LoadedModel, folder: Path) -> None:
    with write_folder(folder) as staging, without_progress_bar():
        loaded.model.save_pretrained(staging)
        loaded.tokenizer.save_pretrained(staging)


def _digest(split: EncodedSplit) -> str:
    digest = hashlib.sha256(split.labels.tobytes())
    for name in sorted(split.features):
        for sample in split.features[name]:
            digest.update(sample.tobytes())
    return digest.hexdigest()
