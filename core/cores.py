"""How many cores a process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ["usable_cores"]

_CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores that this process may use, by its affinity and the quota of its control groups."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(bound, _quota(_own_cgroup()))))


def _own_cgroup() -> Path:
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return _CGROUPS
    return next((_CGROUPS / line[4:] for line in lines if line.startswith("0::/")), _CGROUPS)


def _quota(folder: Path, root: Path = _CGROUPS) -> float:
    """Cores that the control group ``folder`` and those around it grant, version 2 or 1; infinite without a limit."""
    quotas = [math.inf]
    for group in (folder, *(parent for parent in folder.parents if parent.is_relative_to(root))):
        quotas.append(_cores_of(group / "cpu.max"))
    quotas.append(_cores_of(root / "cpu" / "cpu.cfs_quota_us", root / "cpu" / "cpu.cfs_period_us"))
    return min(quotas)


def _cores_of(*files: Path) -> float:
    """Quota over period, in one file or two."""
    try:
        quota, period = " ".join(file.read_text(encoding="utf-8") for file in files).split()
    except (OSError, ValueError):
        return math.inf
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)
