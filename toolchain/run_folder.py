"""The run folder: what `axform optimize` writes and `axform-export` reads.

options.json   what was asked for
run.json       options, measurements, counts; present when the run is finished
plan.json      the approximation plan
baseline/      the fine-tuned, unpruned model: the teacher and the graph to compare with
model/         the fine-tuned weights that the plan applies to, full size
trials.jsonl   the journal of the search (trials-2.jsonl ... when the search was repeated)
rounds.json    how well each search's model did after its fine-tuning
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ..core.metrics import Measurement, Metric
from ..core.plan import ApproximationPlan
from ..errors import AxformError
from ..files import write_text
from .options import OptimizeOptions

__all__ = ["Measured", "RunFolder", "RunRecord"]


class Measured(BaseModel):
    """Loss and metric on the selection split, metric on the reported split."""

    loss: float
    metric: float
    report_metric: float


class RunRecord(BaseModel):
    """``run.json`` of a finished run."""

    schema_version: int = 1
    options: OptimizeOptions
    labels: tuple[str, ...]
    metric: Metric
    train_rows: int
    selection_rows: int
    report_rows: int
    baseline: Measured
    searched: Measured
    """Under the plan, before the final fine-tuning."""
    final: Measured
    metric_bound: float
    """The smallest metric on the selection split that `--max-drop` allows."""
    trials: int
    search_seconds: float
    rounds: int
    """Searches made: more than one when the final fine-tuning could not win back what the first one cost."""
    versions: dict[str, str]


class RunFolder:
    """Paths inside a run folder, and its two JSON files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def baseline(self) -> Path:
        return self.path / "baseline"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def plan_path(self) -> Path:
        return self.path / "plan.json"

    @property
    def options_path(self) -> Path:
        return self.path / "options.json"

    @property
    def record_path(self) -> Path:
        return self.path / "run.json"

    def journal(self, round_number: int) -> Path:
        return self.path / ("trials.jsonl" if round_number == 0 else f"trials-{round_number + 1}.jsonl")

    def training(self, name: str) -> Path:
        """Checkpoints of a fine-tuning under way."""
        return self.path / f"{name}-training"

    def finished_rounds(self) -> list[Measurement]:
        """Selection measurements after the final fine-tuning of each round so far; the last one's model is on disk."""
        path = self.path / "rounds.json"
        if not path.exists():
            return []
        return [Measurement(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]

    def finish_round(self, measured: Measurement) -> None:
        rounds = [asdict(entry) for entry in (*self.finished_rounds(), measured)]
        write_text(self.path / "rounds.json", json.dumps(rounds, indent=2) + "\n")

    def is_finished(self) -> bool:
        return self.record_path.exists()

    def read_plan(self) -> ApproximationPlan:
        return ApproximationPlan.load(self.plan_path)

    def read_record(self) -> RunRecord:
        """The record of a finished run.

        Raises:
            AxformError: not a run folder, an unfinished run, or a damaged file.
        """
        if not self.path.is_dir():
            raise AxformError(f"{self.path}: no such folder; name the --out folder of `axform optimize`.")
        if not self.record_path.exists():
            if self.options_path.exists():
                raise AxformError(
                    f"{self.path}: the run is not finished; continue it with `axform optimize ... --resume`."
                )
            raise AxformError(
                f"{self.path}: not a run folder (no run.json); name the --out folder of `axform optimize`."
            )
        return _parse(RunRecord, self.record_path)

    def write_record(self, record: RunRecord) -> None:
        write_text(self.record_path, record.model_dump_json(indent=2) + "\n")

    def read_options(self) -> OptimizeOptions:
        return _parse(OptimizeOptions, self.options_path)

    def write_options(self, options: OptimizeOptions) -> None:
        write_text(self.options_path, options.model_dump_json(indent=2) + "\n")


def _parse(kind: Any, path: Path) -> Any:
    try:
        return kind.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise AxformError(f"{path}: damaged or of another version ({reason}); make the run again.") from None
