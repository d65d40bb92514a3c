"""The run folder: what `axform optimize` writes and `axform-export` reads.

options.json   what was asked for
inputs/        what the run started on: digests of its data and model, the tokenized rows that judge trials or are reported
baseline/      the fine-tuned, unpruned model: the teacher and the graph to compare with
trials.jsonl   the journal of the first search (trials-2.jsonl ..., trials-x2-3.jsonl with twice the slack)
teacher-1/     fine-tuned like the baseline with another seed, where several models teach; teacher-2/ ...
round-0/       the baseline's plan, which changes nothing, and its measurements
round-1/       what a search and the fine-tuning after it gave: plan.json, model/ (full size), round.json; round-2/ ...
run.json       measurements and counts, and which round counts; there when the run is finished

inputs, baseline, teachers and the rounds are each written in one step and sealed, so that they are whole or not there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from ..core.batches import EncodedSplit
from ..core.intervals import Change
from ..core.metrics import Measurement, Metric
from ..core.plan import ApproximationPlan
from ..errors import AxformError
from ..files import beside, read_json, real_path, write_folder, write_json
from ..seals import damage, seal
from .options import OptimizeOptions

__all__ = ["Round", "RoundRecord", "RunFolder", "RunInputs", "RunRecord"]

SCHEMA_VERSION = 2
_AGAIN = "make the run again with `axform optimize --overwrite`"
_Model = TypeVar("_Model", bound=BaseModel)


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class RunInputs(_Record):
    """What a run started on, as digests, so that it continues on nothing else."""

    train: str
    selection: str
    acceptance: str
    report: str
    model: str
    """Fingerprint of the weights before any training."""
    unlabelled: str | None = None
    """None = no texts without labels."""


class RoundRecord(_Record):
    """``round.json``: one search and the fine-tuning after it."""

    start: int
    """The round whose result the search started from; 0 = the baseline."""
    started_on: str
    """Fingerprint of its weights."""
    slack: float
    """Extra relative loss that the search was allowed."""
    searched: Measurement
    """On the selection split under the plan, before the fine-tuning."""
    final: Measurement
    """And after it."""
    change: Change
    """Of the metric on the acceptance split, against the unpruned baseline."""
    is_accepted: bool
    """The change keeps the bound, so that later rounds may start from here."""
    parameters: int
    """Of the whole model, without what the plan removes."""
    encoder_flops: int
    """That an exported file computes for one sample of the selection split's median length."""
    trials: int
    search_seconds: float


class RunRecord(_Record):
    """``run.json`` of a finished run."""

    schema_version: int = SCHEMA_VERSION
    options: OptimizeOptions
    inputs: RunInputs
    labels: tuple[str, ...]
    metric: Metric
    train_rows: int
    selection_rows: int
    acceptance_rows: int
    report_rows: int
    baseline_fingerprint: str
    baseline: Measurement
    """On the selection split, which judged trials and epochs."""
    final: Measurement
    acceptance: Change
    """Of the metric on rows that no trial saw, which decided whether the round is kept."""
    report: Change
    """Of the metric on the reported split, which decided nothing."""
    trials: int
    """In all rounds, like ``search_seconds``."""
    search_seconds: float
    rounds: int
    """Rounds made, the refused ones included."""
    round: int
    """The one that counts, the last accepted; 0 = none, so that the result is the baseline."""
    versions: dict[str, str]

    def is_other_than(self, other: RunRecord) -> bool:
        """Whether weights or measurements differ."""
        varying = {"search_seconds", "versions"}
        return self.model_dump(exclude=varying) != other.model_dump(exclude=varying)


class Round:
    """One ``round-N`` folder, and where its weights are: round 0 is the baseline, whose weights are not kept twice."""

    def __init__(self, path: Path, model: Path) -> None:
        self.path = path
        self.model = model

    @property
    def plan_path(self) -> Path:
        return self.path / "plan.json"

    @property
    def record_path(self) -> Path:
        return self.path / "round.json"

    def read_plan(self) -> ApproximationPlan:
        return ApproximationPlan.load(self.plan_path)

    def read_record(self) -> RoundRecord:
        return _parse(RoundRecord, self.record_path)

    def write_record(self, record: RoundRecord) -> None:
        write_json(self.record_path, record.model_dump(mode="json"))


class RunFolder:
    """Paths inside a run folder, and its files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def replacement(self) -> RunFolder:
        """Where the run that `--overwrite` asks for grows, until it is finished and takes this one's place."""
        return RunFolder(beside(real_path(self.path), "replacement"))

    @property
    def options_path(self) -> Path:
        return self.path / "options.json"

    @property
    def inputs(self) -> Path:
        return self.path / "inputs"

    @property
    def baseline(self) -> Path:
        return self.path / "baseline"

    @property
    def record_path(self) -> Path:
        return self.path / "run.json"

    def teacher(self, number: int) -> Path:
        """A model that teaches beside the baseline; they count from 1."""
        return self.path / f"teacher-{number}"

    def round(self, number: int) -> Round:
        """Rounds count from 1; 0 is the baseline with a plan that changes nothing."""
        path = self.path / f"round-{number}"
        return Round(path, self.baseline if number == 0 else path / "model")

    def journal(self, number: int, what: str = "trials") -> Path:
        """Trials of the search of a round; ``what`` tells kinds of searches apart that may have the same number."""
        return self.path / (f"{what}.jsonl" if number == 1 else f"{what}-{number}.jsonl")

    def training(self, name: str) -> Path:
        """Checkpoints of a fine-tuning under way."""
        return self.path / f"{name}-training"

    def is_started(self) -> bool:
        return self.options_path.exists()

    def is_finished(self) -> bool:
        return self.record_path.exists()

    def missing(self) -> str | None:
        """Which part of a finished run is not as it was written; None when all is there."""
        record = self.read_record()
        teachers = [self.teacher(number) for number in range(1, record.options.teachers)]
        rounds = [self.round(number).path for number in range(record.rounds + 1)]
        for folder in (self.inputs, self.baseline, *teachers, *rounds):
            what = damage(folder)
            if what is not None:
                return f"{folder}: {what}"
        return None

    def read_plan(self) -> ApproximationPlan:
        """The plan of the round that counts."""
        return self.round(self.read_record().round).read_plan()

    def read_record(self) -> RunRecord:
        """The record of a finished run.

        Raises:
            AxformError: not a run folder, an unfinished run, one of another version, or a damaged file.
        """
        if not self.path.is_dir():
            raise AxformError(f"{self.path}: no such folder; name the --out folder of `axform optimize`.")
        if not self.is_finished():
            if not self.is_started():
                raise AxformError(
                    f"{self.path}: not a run folder (no run.json); name the --out folder of `axform optimize`."
                )
            raise AxformError(
                f"{self.path}: the run is not finished; continue it with the same `axform optimize` command and --resume."
            )
        raw = read_json(self.record_path, _AGAIN)
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if version != SCHEMA_VERSION:
            raise AxformError(f"{self.record_path}: of another version of axform (schema {version!r}); {_AGAIN}.")
        return _validated(RunRecord, raw, self.record_path)

    def write_record(self, record: RunRecord) -> None:
        write_json(self.record_path, record.model_dump(mode="json"))

    def read_options(self) -> OptimizeOptions:
        return _parse(OptimizeOptions, self.options_path)

    def write_options(self, options: OptimizeOptions) -> None:
        write_json(self.options_path, options.model_dump(mode="json"))

    def read_inputs(self) -> RunInputs:
        return _parse(RunInputs, self.inputs / "inputs.json")

    def write_inputs(self, inputs: RunInputs, selection: EncodedSplit, report: EncodedSplit) -> None:
        with write_folder(self.inputs) as staging:
            write_json(staging / "inputs.json", inputs.model_dump())
            for name, split in (("selection", selection), ("report", report)):
                with (staging / f"{name}.npz").open("wb") as handle:
                    np.savez_compressed(handle, **split.to_arrays())  # type: ignore[arg-type]
            seal(staging)

    def read_split(self, name: Literal["selection", "report"]) -> EncodedSplit:
        """The tokenized rows of a split; `missing` must have found them whole."""
        path = self.inputs / f"{name}.npz"
        if not path.is_file():
            raise AxformError(f"{path}: is missing, as in runs of earlier versions of axform; {_AGAIN}.")
        with np.load(path) as arrays:
            return EncodedSplit.from_arrays(dict(arrays))


def _parse(kind: type[_Model], path: Path) -> _Model:
    return _validated(kind, read_json(path, _AGAIN), path)


def _validated(kind: type[_Model], raw: object, path: Path) -> _Model:
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise AxformError(f"{path}: damaged ({where}: {first['msg']}); {_AGAIN}.") from None
