"""The stages of a run: the baseline, rounds of search and fine-tuning, and at last the reported split.

Each stage leaves its result in one step under its final name, sealed, and a stage whose result is there and whole is
not run again. Every random choice is seeded, so what is made again is the same.
"""

from __future__ import annotations

import platform

import numpy as np
import torch

from ..core.batches import EncodedSplit
from ..core.intervals import paired_change
from ..core.progress import Progress
from ..errors import AxformError
from ..files import write_folder
from ..seals import damage, seal
from .context import RunContext, Splits, save_model
from .data import TaskData, encode
from .lengths import as_long_as
from .models import LoadedModel, fingerprint
from .options import FineTuneOptions, OptimizeOptions
from .rounds import Rounds
from .run_folder import RunFolder, RunInputs, RunRecord

__all__ = ["Stages"]


class Stages:
    """One run, on data and a model that were read and checked.

    Raises:
        AxformError: the run was started on other data or another model.
    """

    def __init__(
        self, options: OptimizeOptions, run: RunFolder, data: TaskData, loaded: LoadedModel, progress: Progress
    ) -> None:
        progress.stage("tokenizing")
        length = loaded.max_length(options.max_length or data.task.max_length)
        train, selection, acceptance, report = (
            encode(data.task, frame, loaded.tokenizer, loaded.inputs, length)
            for frame in (data.train, data.selection, data.acceptance, data.report)
        )
        selection, acceptance = (
            self._like_reported(split, report, options.seed, progress) for split in (selection, acceptance)
        )
        splits = Splits(train, selection, acceptance, report)
        self._context = RunContext(options, run, data.task, splits, progress)
        self._loaded = loaded
        self._inputs = RunInputs(
            train=splits.train.digest(),
            selection=splits.selection.digest(),
            acceptance=splits.acceptance.digest(),
            report=splits.report.digest(),
            model=fingerprint(loaded.model),
        )
        self._settle_inputs()

    def execute(self) -> None:
        """Run every stage whose result is not there yet."""
        baseline = self._baseline()
        rounds, kept = Rounds(self._context, baseline).run()
        self._finish(baseline, rounds, kept)

    @staticmethod
    def _like_reported(split: EncodedSplit, report: EncodedSplit, seed: int, progress: Progress) -> EncodedSplit:
        """The held-back rows that are as long as those of the reported split; of that nothing but lengths is used."""
        chosen = as_long_as(split.lengths, report.lengths, seed)
        if len(chosen) == len(split):
            return split
        progress.message(
            f"held-back rows have {np.median(split.lengths):.0f} tokens, those of the reported split "
            f"{np.median(report.lengths):.0f} (medians): {len(chosen)} of {len(split)} are as long and judge"
        )
        return split.select(chosen)

    def _settle_inputs(self) -> None:
        run = self._context.run
        if damage(run.inputs) is not None:
            run.write_inputs(self._inputs, self._context.splits.report)
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
            epochs = context.options.baseline_epochs
            if epochs is None:
                epochs = 0 if self._loaded.has_trained_head else FineTuneOptions.epochs
            if epochs:
                context.progress.stage("fine-tuning the baseline")
                context.fine_tune(self._loaded, epochs, "baseline")
            else:
                context.progress.message("the model brings a trained task head: taken as the baseline as it is")
            with write_folder(folder) as staging:
                save_model(self._loaded, staging)
                seal(staging)
            context.forget_training("baseline")
        return context.reload(folder)

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
                report=paired_change(context.task.metric, before, after, splits.report.labels),
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
