"""Energy per run, where the machine counts it: Linux's RAPL for the processor, NVML for the GPU.

Both count all that the processor or the GPU does meanwhile, idling included, so nothing else should run beside.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

__all__ = ["Meter", "Nvml", "Rapl", "find_meter", "joules_per_run"]

_POWERCAP = Path("/sys/class/powercap")
_DOMAIN = re.compile(r"intel-rapl:[0-9]+")
"""A whole processor; what lies inside has a second number. AMD's are called so, too."""
_WHOLE_MACHINE = "psys"
"""A domain that counts the processors again."""
_BLOCK_SECONDS, _BLOCKS = 0.5, 3
"""Counters move about once in a millisecond, and NVML's up to ten times slower."""


class Meter(Protocol):
    """A counter of energy."""

    @property
    def what(self) -> str:
        """What is counted, in a few words."""

    def joules(self) -> float:
        """Counted since it was made."""


class Rapl:
    """The processors' own counters, which start again at their largest value.

    Raises:
        OSError: there are none, or this user may not read them.
    """

    what = "processor (RAPL)"

    def __init__(self, powercap: Path) -> None:
        folders = [path for path in sorted(powercap.iterdir()) if _DOMAIN.fullmatch(path.name)]
        self._domains = [path for path in folders if (path / "name").read_text().strip() != _WHOLE_MACHINE]
        if not self._domains:
            raise FileNotFoundError(f"{powercap}: no processor counts its energy")
        self._ranges = [int((path / "max_energy_range_uj").read_text()) for path in self._domains]
        self._last = self._read()
        self._micro = 0

    def joules(self) -> float:
        now = self._read()
        for before, after, largest in zip(self._last, now, self._ranges, strict=True):
            self._micro += after - before + (largest if after < before else 0)
        self._last = now
        return self._micro / 1e6

    def _read(self) -> list[int]:
        return [int((path / "energy_uj").read_text()) for path in self._domains]


class Nvml:
    """The counter of the first GPU.

    Args:
        nvml: the module pynvml.
    """

    what = "GPU (NVML)"

    def __init__(self, nvml: Any) -> None:
        nvml.nvmlInit()
        self._nvml = nvml
        self._gpu = nvml.nvmlDeviceGetHandleByIndex(0)
        self._first = self._millijoules()

    def joules(self) -> float:
        return (self._millijoules() - self._first) / 1000

    def _millijoules(self) -> int:
        return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu))


def find_meter(provider: str) -> Meter | None:
    """What counts the energy of runs on an execution provider, such as CPU or CUDA; None where nothing does."""
    if provider == "CUDA":
        try:
            import pynvml

            return Nvml(pynvml)
        except Exception:  # not installed, no driver, or a GPU that does not count; pynvml has errors of its own
            return None
    try:
        return Rapl(_POWERCAP)
    except (OSError, ValueError):
        return None


def joules_per_run(runners: Sequence[Callable[[], object]], meter: Meter, seconds: float | None = None) -> list[float]:
    """Of each of ``runners``, which run in blocks of ``seconds`` in turn: the median of its blocks."""
    seconds = _BLOCK_SECONDS if seconds is None else seconds
    found: list[list[float]] = [[] for _ in runners]
    for _ in range(_BLOCKS):
        for run, blocks in zip(runners, found, strict=True):
            before, started, calls = meter.joules(), time.perf_counter(), 0
            while not calls or time.perf_counter() - started < seconds:
                run()
                calls += 1
            blocks.append((meter.joules() - before) / calls)
    return [float(np.median(blocks)) for blocks in found]
