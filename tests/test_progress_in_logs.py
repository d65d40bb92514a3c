"""In a log, where there is no bar to look at, every long command says at least every half minute that it is at work."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Any

import pytest
from axform import console
from axform.errors import AxformError
from support import run_command

LONG = {
    "optimize": ("axform.toolchain.optimize", "optimize"),
    "export": ("axform.exporters.export", "export"),
    "check": ("axform.runtime.parity", "check_bundle"),
    "bench": ("axform.runtime.latency", "bench_bundle"),
    "gate": ("axform.runtime.gate", "gate"),
    "pareto": ("axform.exporters.pareto", "states_of"),
    "quickstart": ("axform.quickstart", "optimize"),
}
ARGUMENTS = {
    "optimize": ["model", "--task", "glue/sst2", "--out", "run"],
    "export": ["run", "--out", "bundle"],
    "quickstart": ["--out", "quick"],
    "pareto": ["run"],
}


def test_half_a_minute_it_is():
    assert console._BETWEEN_LINES <= 30


@pytest.mark.parametrize("command", LONG)
def test_a_command_that_says_nothing_itself_is_said_to_be_at_work(command, tiny_bundle, tmp_path, monkeypatch, capsys):
    def silent(*_: Any, **__: Any) -> None:
        time.sleep(0.4)
        raise AxformError("that was it.")

    module, name = LONG[command]
    monkeypatch.setattr(importlib.import_module(module), name, silent)
    monkeypatch.setattr(console, "_BETWEEN_LINES", 0.1)
    monkeypatch.chdir(tmp_path)
    if command == "quickstart":
        Path("quick/data").mkdir(parents=True)
    code, printed = run_command(capsys, command, *ARGUMENTS.get(command, [tiny_bundle]))
    assert code == 2 and "error: that was it." in printed.err
    lines = [line for line in printed.err.splitlines() if "under way (0:00)" in line]
    assert len(lines) >= 2


def test_nothing_is_said_of_what_is_short():
    lines: list[str] = []
    progress = console.LogProgress(lines.append, between=0.2)
    progress.finish()
    assert lines == []
    time.sleep(0.5)
    assert lines == []  # and nobody goes on talking
    progress.stage("timing")
    progress.step(3, 8)
    time.sleep(0.5)
    progress.finish()
    said = list(lines)
    time.sleep(0.3)
    assert lines == said
    assert said[0] == "timing: begins (0:00)" and said[-1] == "timing: done, 8/8 (0:00)"
    assert said[1:-1] and all(line.startswith("timing: 3/8") for line in said[1:-1])
