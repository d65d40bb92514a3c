"""What a fresh process needs to load a model and run it once: time, and memory that stays resident.

Memory is asked of a process of its own for each file, since one that has had another session reuses what that left.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..core.memory import resident_bytes
from .calls import random_runner
from .feeds import ANY_TOKENS
from .session import Provider, create_session, import_onnxruntime, provider_of

__all__ = ["Footprint", "footprint", "resident_megabytes"]


@dataclass(frozen=True)
class Footprint:
    seconds: float
    """To make the session."""
    megabytes: float
    """Resident after one run, beyond what the process had with onnxruntime imported."""


def footprint(
    file: Path, provider: Provider = "cpu", threads: int = 1, batch: int = 1, sequence: int = 128
) -> Footprint | None:
    """Of one file, in a process of its own.

    Returns:
        None where it cannot be told: on another system than Linux, or where the process was killed or runs on a GPU,
        whose memory this does not see.
    """
    if not resident_bytes():
        return None
    command = [sys.executable, "-m", __name__, str(file), provider, str(threads), str(batch), str(sequence)]
    found_where_this_is = {"PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)}
    done = subprocess.run(
        command, env=os.environ | found_where_this_is, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    told = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
    return None if told is None else Footprint(**told)


def resident_megabytes(
    files: Sequence[Path], provider: Provider, threads: int, batch: int, sequence: int
) -> list[float] | None:
    """Of all ``files``, at the same time since they do not disturb each other's memory; None where one is not known."""
    with ThreadPoolExecutor(len(files)) as pool:
        found = list(pool.map(lambda file: footprint(file, provider, threads, batch, sequence), files))
    return [one.megabytes for one in found if one is not None] if None not in found else None


def _measure(file: str, provider: Provider, threads: str, batch: str, sequence: str) -> dict[str, float] | None:
    import_onnxruntime()
    before, started = resident_bytes(), time.perf_counter()
    session = create_session(Path(file), provider, int(threads), spinning=False)
    seconds = time.perf_counter() - started
    if provider_of(session) == "CUDA":
        return None
    random_runner(session, int(batch), int(sequence), ANY_TOKENS)()
    return {"seconds": seconds, "megabytes": (resident_bytes() - before) / 2**20}


if __name__ == "__main__":
    print(json.dumps(_measure(*sys.argv[1:])))  # type: ignore[arg-type]
