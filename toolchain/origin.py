"""What a run starts from: a checkpoint, or another run, whose baseline, teachers and kept round it takes as they are."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..core.tasks import Task
from ..errors import AxformError
from ..files import write_folder
from ..seals import damage, seal
from .models import LoadedModel, load_for_task
from .options import OptimizeOptions
from .run_folder import Round, RunFolder, RunInputs

__all__ = ["Origin"]


@dataclass(frozen=True)
class Origin:
    """The model of the options, or the run that they name in its place."""

    options: OptimizeOptions
    run: RunFolder | None
    """The other run; None = a checkpoint."""

    @classmethod
    def of(cls, options: OptimizeOptions) -> Origin:
        """What the options name, checked as far as files tell.

        Raises:
            AxformError: a run whose baseline or teachers are not there, or options that contradict it.
        """
        run = RunFolder(Path(options.model))
        if not run.is_started():
            return cls(options, None)
        if options.baseline_epochs:
            raise AxformError(
                f"--baseline-epochs: {run.path} is a run, whose baseline is taken as it is; leave the option out, or give "
                "the model that the run started from."
            )
        wanted = {run.baseline: "baseline"}
        wanted |= {run.teacher(number): f"teacher {number + 1}" for number in range(1, options.teachers)}
        for folder, what in wanted.items():
            if damage(folder) is not None:
                most = run.read_options().teachers
                raise AxformError(
                    f"{run.path}: its {what} is not there whole; "
                    + (
                        "continue that run with --resume first."
                        if options.teachers <= most
                        else f"it has {most}, so ask for at most --teachers {most}."
                    )
                )
        return cls(options, run)

    def load(self, task: Task, num_labels: int) -> LoadedModel:
        """The model that becomes the baseline, before any training."""
        return self._load(task, num_labels, self.options.seed)

    def load_for_teacher(self, number: int, task: Task, num_labels: int) -> LoadedModel:
        """The same for a teacher: a task head that the checkpoint does not bring begins at random, each with its own."""
        return self._load(task, num_labels, self.options.teacher_seed(number))

    def _load(self, task: Task, num_labels: int, seed: int) -> LoadedModel:
        source = self.options.model if self.run is None else str(self.run.baseline)
        return load_for_task(source, task, num_labels, seed)

    def check_inputs(self, inputs: RunInputs) -> None:
        """Refuse a run on other rows: what its models were trained on might judge them here.

        Raises:
            AxformError: some split is not the same.
        """
        if self.run is None:
            return
        theirs, ours = (one.model_dump(exclude={"model", "unlabelled"}) for one in (self.run.read_inputs(), inputs))
        for name, digest in theirs.items():
            if ours[name] != digest:
                raise AxformError(
                    f"{self.run.path}: was made with other rows in its {name} split; give the same --data, --seed, "
                    "--train-samples, --report-samples and --max-length as there."
                )

    def kept_round(self) -> Round | None:
        """The other run's round that counts; None where it is the baseline or the run is not finished.

        Raises:
            AxformError: it is damaged, or its plan has groups of another size than is asked for.
        """
        return self._kept_round

    @cached_property
    def _kept_round(self) -> Round | None:
        """Read once, since whether it is whole is asked of every byte."""
        if self.run is None or not self.run.is_finished():
            return None
        number = self.run.read_record().round
        if number == 0:
            return None
        kept = self.run.round(number)
        what = damage(kept.path)
        if what is not None:
            raise AxformError(f"{kept.path}: {what}; make it again with --resume of that run.")
        size, wanted = kept.read_plan().group_size, self.options.group_size
        if wanted not in (None, size):
            raise AxformError(f"--group-size {wanted}: {self.run.path} has groups of {size}; leave the option out.")
        return kept

    @property
    def has_learnt(self) -> bool:
        """The other run let its teachers teach before it removed anything; its kept round says what came of it."""
        if self.run is None or not self.run.is_finished():
            return False
        return self.run.read_options().learns_first or self.kept_round() is not None

    def copy_teacher(self, number: int, folder: Path) -> None:
        """Put the other run's teacher into ``folder``, sealed."""
        assert self.run is not None
        with write_folder(folder) as staging:
            shutil.copytree(self.run.teacher(number), staging, dirs_exist_ok=True)
            seal(staging)
