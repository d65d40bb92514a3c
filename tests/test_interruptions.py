"""Killed at any moment, or out of disk space: a run continues to the same plan and weights, a bundle is whole or absent."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import save_pretrained_only, save_sentiment


@pytest.mark.parametrize("scenario", ["killed-runs", "full-disk", "killed-exports"])
def test_nothing_is_lost_or_half_written(tmp_path, scenario):
    work = tmp_path / "work"
    work.mkdir()
    places = [work, save_pretrained_only(tmp_path / "model"), save_sentiment(tmp_path / "data")]
    script = Path(__file__).with_name("interruptions.py")
    result = subprocess.run(
        [sys.executable, script, scenario, *places, str(time.time_ns())], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
