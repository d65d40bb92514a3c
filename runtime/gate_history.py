"""Verdicts of a gate over time: one line of JSON for each, so that a file can be kept, merged and read anywhere."""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..errors import AxformError
from ..files import writing
from .bundle import Measured
from .gate import GateReport

__all__ = ["PastVerdict", "append_verdict", "read_verdicts"]


class PastVerdict(Measured):
    """One line."""

    time: datetime
    report: GateReport


def append_verdict(report: GateReport, file: Path, now: datetime | None = None) -> None:
    """Add a line; what is there stays, a last line that an editor left without its end, too.

    Raises:
        AxformError: the file cannot be written.
    """
    line = PastVerdict(time=now or datetime.now(timezone.utc), report=report).model_dump_json() + "\n"
    with writing(file), file.open("ab+") as handle:
        if handle.tell():
            handle.seek(-1, os.SEEK_END)
            line = line if handle.read() == b"\n" else "\n" + line
        handle.write(line.encode())


def read_verdicts(file: Path) -> list[PastVerdict]:
    """All lines, in the order in which they were written.

    Raises:
        AxformError: a line is none of `append_verdict`'s; names it.
    """
    found = []
    with writing(file):
        lines = file.read_bytes().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            parsed: Any = json.loads(line)
            found.append(PastVerdict.model_validate(parsed))
        except (ValueError, RecursionError) as error:
            reason = str(error).splitlines()[0]
            raise AxformError(
                f"{file}, line {number}: not a verdict of axform gate ({reason}); remove the line."
            ) from None
    return found
