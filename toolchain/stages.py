"""The stages of a run: the baseline, other teachers, rounds of search and fine-tuning, and at last the reported split.

Each stage leaves its result in one step under its final name, sealed, and a stage whose result is there and whole is
not run again. Every random choice is seeded, so what is made again is the same.
"""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import torch

from ..core.batches import EncodedSplit
from ..core.intervals import paired_change
from ..core.progress import Progress
from ..errors import AxformError
from ..files import write_folder
from ..seals import damage, seal
from .context import RunContext, Splits, save_model
from .data import TaskData, encode, encode_judging
from .lengths import as_long_as
from .models import LoadedModel, fingerprint
from .options import FineTuneOptions, OptimizeOptions
from .origin import Origin
from .rounds import Rounds
from .run_folder import RunFolder, RunInputs, RunRecord

__all__ = ["Stages", "epochs_before"]

_FEWEST_LESSONS = 10_000
"""Where fewer rows are as long as the reported ones, rounds learn from all."""


def epochs_before(options: OptimizeOptions, loaded: LoadedModel) -> int:
    """Of the fine-tuning that makes the model the baseline, and of that of every other teacher."""
    asked = options.baseline_epochs
    return asked if asked is not None else 0 if loaded.has_trained_head else FineTuneOptions.epochs


class Stages:
    """One run, on data and a model that were read and checked; nothing is written before `execute`.

    Raises:
        AxformError: the run, or the one that it starts from, was made of other data or another model.
    """

    def __init__(self, origin: Origin, run: RunFolder, data: TaskData, loaded: LoadedModel, progress: Progress) -> None:
        options = origin.options
        progress.stage("tokenizing")
        length = loaded.max_length(options.max_length or data.task.max_length)
        how = loaded.tokenizer, loaded.inputs, length
        train = encode(data.task, data.train, *how)
        selection, acceptance, report = (
            encode_judging(data.task, frame, *how) for frame in (data.selection, data.acceptance, data.report)
        )
        selection, acceptance = (
            self._like_reported(split, report, options.seed, progress, "judge") for split in (selection, acceptance)
        )
        lessons = self._like_reported(train, report, options.seed, progress, "teach the rounds", _FEWEST_LESSONS)
        unlabelled = None
        if data.unlabelled is not None:
            unlabelled = encode(data.task, data.unlabelled, *how)
            lessons = lessons.followed_by(
                self._like_reported(unlabelled, report, options.seed, progress, "teach without labels", _FEWEST_LESSONS)
            )
        splits = Splits(train, lessons, selection, acceptance, report)
        self._context = RunContext(options, run, data.task, splits, progress)
        self._origin = origin
        self._loaded = loaded
        self._epochs = epochs_before(options, loaded)
        self._inputs = RunInputs(
            train=splits.train.digest(),
            selection=splits.selection.digest(),
            acceptance=splits.acceptance.digest(),
            report=splits.report.digest(),
            model=fingerprint(loaded.model),
            unlabelled=None if unlabelled is None else unlabelled.digest(),
        )
        origin.check_inputs(self._inputs)
        origin.kept_round()  # a damaged one is told before anything is written

    def execute(self) -> None:
        """Run every stage whose result is not there yet, in the run's folder, which must be there."""
        self._settle_inputs()
        baseline = self._baseline()
        for number in range(1, self._context.options.teachers):
            self._settle_teacher(number)
        rounds, kept = Rounds(self._context, baseline, self._origin).run()
        self._finish(baseline, rounds, kept)

    @staticmethod
    def _like_reported(
        split: EncodedSplit, report: EncodedSplit, seed: int, progress: Progress, what: str, fewest: int = 0
    ) -> EncodedSplit:
        """The rows that are as long as those of the reported split; all where that would leave fewer than ``fewest``, or
        one label of several, which judges and teaches nothing.

        Of the reported split nothing but lengths is used. Removing parts costs long inputs most, so short ones judge too
        mildly, and teach a model to do without for short ones.
        """
        chosen = as_long_as(split.lengths, report.lengths, seed)
        if not fewest <= len(chosen) < len(split) or np.ptp(split.labels[chosen]) == 0 < np.ptp(split.labels):
            return split
        progress.message(
            f"rows that {what} have {np.median(split.lengths):.0f} tokens, those of the reported split "
            f"{np.median(report.lengths):.0f} (medians): {len(chosen)} of {len(split)} are as long, and {what}"
        )
        return split.select(chosen)

    def _settle_inputs(self) -> None:
        run = self._context.run
        if damage(run.inputs) is not None:
            run.write_inputs(self._inputs, self._context.splits.selection, self._context.splits.report)
        started_on = run.read_inputs().model_dump()
        for name, digest in self._inputs.model_dump().items():
            if started_on[name] != digest:
                what = "the model's weights are" if name == "model" else f"the rows of the {name} split are"
                raise AxformError(
                    f"{run.path}: {what} not those that the run was started on; restore them, or start again with "
                    "--overwrite."
                )

    def _baseline(self) -> LoadedModel:
        context, folder = self._context, self._context.run.baseline
        if context.is_missing(folder):
            if self._epochs:
                context.progress.stage("fine-tuning the baseline")
                context.fine_tune(self._loaded, self._epochs, "baseline")
            else:
                context.progress.message("the model brings a trained task head: taken as the baseline as it is")
            self._keep(self._loaded, folder)
            context.forget_training("baseline")
        return context.reload(folder)

    def _settle_teacher(self, number: int) -> None:
        context, folder, name = self._context, self._context.run.teacher(number), f"teacher-{number}"
        if not context.is_missing(folder):
            return
        if self._origin.run is not None:
            self._origin.copy_teacher(number, folder)
            return
        context.progress.stage(f"fine-tuning teacher {number + 1} of {context.options.teachers}")
        loaded = self._origin.load_for_teacher(number, context.task, self._loaded.model.config.num_labels)
        context.fine_tune(loaded, self._epochs, name, seed=context.options.teacher_seed(number))
        self._keep(loaded, folder)
        context.forget_training(name)

    @staticmethod
    def _keep(loaded: LoadedModel, folder: Path) -> None:
        with write_folder(folder) as staging:
            save_model(loaded, staging)
            seal(staging)

    def _finish(self, baseline: LoadedModel, rounds: int, kept: int) -> None:
        import transformers

        context, splits = self._context, self._context.splits
        context.progress.stage("measuring the reported split")
        chosen, nothing = context.run.round(kept), context.run.round(0)
        record = chosen.read_record()
        before = context.logits(baseline, nothing.read_plan(), splits.report)
        after = context.logits(context.reload(chosen.model), chosen.read_plan(), splits.report)
        made = [context.run.round(number).read_record() for number in range(1, rounds + 1)]
        context.run.write_record(
            RunRecord(
                options=context.options,
                inputs=self._inputs,
                labels=context.task.labels,
                metric=context.task.metric,
                train_rows=len(splits.train),
                selection_rows=len(splits.selection),
                acceptance_rows=len(splits.acceptance),
                report_rows=len(splits.report),
                baseline_fingerprint=baseline.identity().fingerprint,
                baseline=nothing.read_record().final,
                final=record.final,
                acceptance=record.change,
                report=paired_change(context.task.metric, before, after, splits.report.labels, splits.report.groups),
                trials=sum(one.trials for one in made),
                search_seconds=sum(one.search_seconds for one in made),
                rounds=rounds,
                round=kept,
                versions={
                    "python": platform.python_version(),
                    "torch": torch.__version__,
                    "transformers": transformers.__version__,
                },
            )
        )
