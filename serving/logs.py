"""The log of the server: a line of JSON for each event, on stderr.

JSON in ASCII escapes whatever is no printable character, so that nothing a client sent can end a line or reach a terminal.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import datetime, timezone
from typing import Any

__all__ = ["log", "route_libraries"]

_LONGEST = 300
"""Characters of a value."""


def log(event: str, level: str = "info", **values: Any) -> None:
    """Write a line: when, which process, what happened, and ``values``."""
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    line = {"time": now, "level": level, "event": event, "process": os.getpid()}
    line |= {name: _bounded(value) for name, value in values.items()}
    try:
        sys.stderr.write(json.dumps(line, ensure_ascii=True) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass  # who reads the log has left; the server goes on


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        failure = {}
        if record.exc_info and record.exc_info[1] is not None:
            failure["error"] = f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
        log("message", record.levelname.lower(), logger=record.name, text=record.getMessage(), **failure)


def route_libraries() -> None:
    """Let what libraries log be lines of JSON, too, from warnings on."""
    root = logging.getLogger()
    root.handlers = [_Lines()]
    root.setLevel(logging.WARNING)


def _bounded(value: Any) -> Any:
    if isinstance(value, int | float | bool) or value is None:
        return value
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
