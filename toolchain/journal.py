"""The journal of a search: one JSON line per trial, so that a killed search continues where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ..core.metrics import Measurement
from ..errors import AxformError
from ..files import write_text, writing
from .significance import Verdict

__all__ = ["Journal", "TrialRecord"]


class TrialRecord(BaseModel):
    """One trial; a loss that is no number is written as text that reads back as it was."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    trial: int
    element: str
    change: str
    """``prune`` or ``sign matching``."""
    loss: float
    metric: float | None
    """None: the trial was hopeless and ended early; its loss is at least ``loss``."""
    verdict: Verdict
    seconds: float

    @property
    def measurement(self) -> Measurement:
        """Of a trial that was not hopeless."""
        assert self.metric is not None
        return Measurement(self.loss, self.metric)


class Journal:
    """Trials of one search, appended to a file whose first line holds the search's settings.

    Opening an existing journal replays its trials through `next_recorded`; a line cut off by a crash is dropped.

    Raises:
        AxformError: the journal on disk belongs to a search with other settings, or is damaged before its last line.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self._recorded: list[TrialRecord] = []
        self._replayed = 0
        if path.exists():
            self._recorded = self._read(settings)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"settings": dict(settings)}), *(record.model_dump_json() for record in self._recorded)]
        write_text(path, "\n".join(lines) + "\n")

    @property
    def recorded(self) -> int:
        """Trials that were on disk when the journal was opened."""
        return len(self._recorded)

    def next_recorded(self, element: str, change: str) -> TrialRecord | None:
        """The next trial from disk, which must be the one that the search is about to run; None when all are replayed."""
        if self._replayed == len(self._recorded):
            return None
        record = self._recorded[self._replayed]
        if (record.element, record.change) != (element, change):
            raise AxformError(
                f"{self.path}: trial {record.trial} is {record.change} {record.element}, but this search would try "
                f"{change} {element}; the journal is of another version, start again without --resume."
            )
        self._replayed += 1
        return record

    def append(self, record: TrialRecord) -> None:
        with writing(self.path), self.path.open("a", encoding="utf-8") as handle:
            handle.write(record.model_dump_json() + "\n")
            handle.flush()
            os.fsync(handle.fileno())

    def _read(self, settings: Mapping[str, Any]) -> list[TrialRecord]:
        try:
            complete = self.path.read_bytes().split(b"\n")[:-1]  # what follows the last newline was cut off by a crash
            if not complete:
                return []
            found = json.loads(complete[0])["settings"].copy()
            records = [TrialRecord.model_validate_json(line) for line in complete[1:]]
            if [record.trial for record in records] != list(range(len(records))):
                raise ValueError("trials are missing")
        except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            reason = str(error).splitlines()[0]
            raise AxformError(f"{self.path}: damaged ({reason}); delete it to search again from the start.") from None
        expected = json.loads(json.dumps(dict(settings)))
        for name in sorted(expected.keys() | found.keys()):
            if found.get(name) != expected.get(name):
                raise AxformError(
                    f"{self.path}: was made with {name} = {found.get(name)!r}, this search has {expected.get(name)!r}; "
                    "resume with the same settings, or start again with --overwrite."
                )
        return records
