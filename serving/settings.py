"""What a server is asked for, validated once; the supervisor hands it to its workers as JSON."""

from __future__ import annotations

import importlib.util
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ..core.cores import usable_cores
from ..errors import AxformError, listed
from ..runtime.limits import check_threads, positive
from ..runtime.session import DEFAULT_PROVIDER, Provider

__all__ = ["DEFAULTS", "ServeSettings", "check_installed", "named_bundles"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_NEEDED = ("starlette", "uvicorn", "httptools", "grpc", "tritonclient", "prometheus_client")
_MOST_WORKERS = 256
_LARGEST_PORT = 65535
_LARGEST_BATCH = 2**16
_LONGEST_DELAY = 60_000.0
"""Milliseconds."""
_DAY = 86_400.0
"""Seconds."""
_LARGEST_BODY = 2_000.0
"""Megabytes; gRPC counts bytes in 31 bits."""


class ServeSettings(BaseModel):
    """The options of ``axform serve``."""

    model_config = ConfigDict(frozen=True)

    bundles: dict[str, str]
    """Name of a model -> the folder of its bundle."""
    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int = 8001
    workers: int = 1
    threads: int = 1
    """Inside one operator; batches that run at once share the cores of a worker by this."""
    provider: Provider = DEFAULT_PROVIDER
    max_batch: int = 32
    """Rows."""
    max_delay_ms: float = 0.0
    max_queue: int = 256
    """Rows."""
    max_body_mb: float = 8.0
    api_key_file: str | None = None
    watch: bool = False
    drain_delay: float = 1.0
    """Seconds."""
    read_timeout: float = 30.0
    """Seconds."""
    log_requests: bool = False

    @property
    def max_body(self) -> int:
        """Bytes."""
        return int(self.max_body_mb * 1e6)

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            AxformError: with the option and what it may be.
        """
        check_threads(self.threads)
        for flag, value in (("--max-batch", self.max_batch), ("--workers", self.workers)):
            positive(flag, value)
        if self.workers > _MOST_WORKERS:
            raise AxformError(
                f"--workers {self.workers}: give at most {_MOST_WORKERS}; this machine has {usable_cores()} cores."
            )
        if self.max_batch > _LARGEST_BATCH:
            raise AxformError(f"--max-batch {self.max_batch}: give at most {_LARGEST_BATCH}.")
        if self.max_queue < self.max_batch:
            raise AxformError(f"--max-queue {self.max_queue}: give at least --max-batch, {self.max_batch}.")
        for flag, port in (("--port", self.port), ("--grpc-port", self.grpc_port)):
            if not 0 <= port <= _LARGEST_PORT:
                raise AxformError(f"{flag} {port}: give a port from 1 to {_LARGEST_PORT}, or 0 for any that is free.")
        if self.port and self.port == self.grpc_port:
            raise AxformError(f"--port and --grpc-port are both {self.port}; give two.")
        for flag, number, least, most in (
            ("--max-delay-ms", self.max_delay_ms, 0.0, _LONGEST_DELAY),
            ("--drain-delay", self.drain_delay, 0.0, _DAY),
            ("--read-timeout", self.read_timeout, 0.1, _DAY),
            ("--max-body-mb", self.max_body_mb, 0.001, _LARGEST_BODY),
        ):
            if not (math.isfinite(number) and least <= number <= most):
                raise AxformError(f"{flag} {number:g}: give a number from {least:g} to {most:g}.")


DEFAULTS = ServeSettings(bundles={})


def named_bundles(bundles: Sequence[str]) -> dict[str, str]:
    """Models by name: each of ``bundles`` is a folder, whose name the model gets, or ``NAME=FOLDER``.

    Raises:
        AxformError: a name that cannot stand in an address, or one that two bundles have.
    """
    named: dict[str, str] = {}
    for entry in bundles:
        given, equals, folder = entry.partition("=")
        if not equals or "/" in given:
            given, folder = Path(entry).resolve().name, entry
        if not _NAME.fullmatch(given):
            raise AxformError(
                f"{entry}: {given!r} cannot be a model's name in an address (letters, digits, . _ -); give one as NAME=FOLDER."
            )
        if given in named:
            raise AxformError(f"{entry}: there is a model {given} already; name this one as NAME=FOLDER.")
        named[given] = folder
    return named


def check_installed() -> None:
    """Raise `AxformError` where the extra ``serve`` is not installed, or workers cannot share a socket."""
    if os.name != "posix":
        raise AxformError("axform serve needs Linux or macOS, where processes share a socket; run it there.")
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise AxformError(
            f"{listed(missing)}: not installed; the server needs them: run `pip install 'axform[cpu,serve]'`."
        )
