"""What `axform triton` is asked for, and how a model of a repository is to run."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ...errors import AxformError
from ...runtime.limits import positive

__all__ = ["DEFAULTS", "TritonSettings"]

_MOST_GPUS = 64
_MOST_INSTANCES = 256
_LARGEST_BATCH = 2**16
_LONGEST_DELAY = 60_000.0
"""Milliseconds."""


@dataclass(frozen=True)
class TritonSettings:
    """The options of ``axform triton``."""

    gpus: int = 0
    """Whose numbers are 0, 1, ...; 0 for the CPU."""
    instances: int = 1
    """Of a model, on each GPU."""
    threads: int | None = None
    """Inside one operator; 0 = all cores; None = all cores for one instance, one for each of several."""
    max_batch: int = 32
    """Rows that run together, and rows of one request."""
    max_delay_ms: float = 2.0
    mounted_at: str = "/models"
    """Where Triton sees the repository; ONNX Runtime asks for the op library by its full path."""

    @property
    def intra_op_threads(self) -> int:
        """0 for all cores."""
        if self.threads is not None:
            return self.threads
        return 0 if self.instances == 1 or self.gpus else 1

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            AxformError: with the option and what it may be.
        """
        for flag, value, most in (
            ("--instances", self.instances, _MOST_INSTANCES),
            ("--max-batch", self.max_batch, _LARGEST_BATCH),
        ):
            if positive(flag, value) > most:
                raise AxformError(f"{flag} {value}: give at most {most}.")
        for flag, count, most in (("--gpus", self.gpus, _MOST_GPUS), ("--threads", self.threads or 0, 1024)):
            if not 0 <= count <= most:
                raise AxformError(f"{flag} {count}: give a whole number from 0 to {most}.")
        if not (math.isfinite(self.max_delay_ms) and 0 <= self.max_delay_ms <= _LONGEST_DELAY):
            raise AxformError(f"--max-delay-ms {self.max_delay_ms:g}: give a number from 0 to {_LONGEST_DELAY:g}.")
        if not re.fullmatch(r"(/[A-Za-z0-9._-]+)+", self.mounted_at):
            raise AxformError(f"--mounted-at {self.mounted_at}: give a full path such as {DEFAULTS.mounted_at}.")


DEFAULTS = TritonSettings()
