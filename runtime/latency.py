"""Latency of model.onnx beside baseline.onnx: interleaved runs, medians, and the ratio with its uncertainty."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from ..errors import AxformError
from .bundle import Bundle
from .check_data import CheckData
from .session import Provider, create_session, import_onnxruntime

__all__ = ["LatencyReport", "ShapeLatency", "Timing", "bench_bundle", "ratio_interval", "time_interleaved"]

_BOOTSTRAP_SAMPLES = 2000


class Timing(BaseModel):
    """Milliseconds per run."""

    median: float
    p10: float
    p90: float
    p99: float

    @classmethod
    def of(cls, milliseconds: np.ndarray) -> Timing:
        p10, median, p90, p99 = np.percentile(milliseconds, [10, 50, 90, 99])
        return cls(median=median, p10=p10, p90=p90, p99=p99)


class ShapeLatency(BaseModel):
    batch: int
    sequence: int
    runs: int
    baseline: Timing
    model: Timing
    ratio: float
    """Median of the baseline over median of the model: above 1 the model is faster."""
    ratio_low: float
    ratio_high: float
    """95 % bootstrap interval."""


class LatencyReport(BaseModel):
    shapes: list[ShapeLatency]
    provider: str
    threads: int
    machine: str
    versions: dict[str, str]


def bench_bundle(
    bundle: Bundle,
    batches: Sequence[int],
    sequences: Sequence[int],
    *,
    provider: Provider = "auto",
    threads: int | None = None,
    runs: int | None = None,
    seconds: float = 5.0,
    on_run: Callable[[int, int, str], None] | None = None,
) -> LatencyReport:
    """Time both models of a bundle on random tokens of its task, for every batch with every sequence length.

    Args:
        threads: threads inside one operator; None = all cores this process may use.
        runs: runs of each model and shape; None = as many as fit into ``seconds``, at least 20.
        on_run: called with (shapes done, shapes in all, what runs now).

    Raises:
        AxformError: a file was changed, or a sequence is longer than the model can take.
    """
    bundle.verify()
    longest = bundle.manifest.max_length
    if too_long := [sequence for sequence in sequences if sequence > longest]:
        raise AxformError(f"--seq {too_long[0]}: the model takes at most {longest} tokens.")
    onnxruntime = import_onnxruntime()
    threads = threads or _usable_cores()
    tokens = np.concatenate(list(CheckData.load(bundle.check_data).split.features["input_ids"]))
    sessions = [create_session(path, provider, threads, spinning=False) for path in (bundle.baseline, bundle.model)]
    shapes = [(batch, sequence) for batch in batches for sequence in sequences]
    results = []
    for number, (batch, sequence) in enumerate(shapes):
        if on_run is not None:
            on_run(number, len(shapes), f"batch {batch}, sequence {sequence}")
        baseline, model = time_interleaved(
            [_runner(session, batch, sequence, tokens) for session in sessions], runs=runs, seconds=seconds
        )
        low, high = ratio_interval(baseline, model)
        results.append(
            ShapeLatency(
                batch=batch,
                sequence=sequence,
                runs=len(model),
                baseline=Timing.of(baseline),
                model=Timing.of(model),
                ratio=float(np.median(baseline) / np.median(model)),
                ratio_low=low,
                ratio_high=high,
            )
        )
    report = LatencyReport(
        shapes=results,
        provider=sessions[1].get_providers()[0].removesuffix("ExecutionProvider"),
        threads=threads,
        machine=machine_name(),
        versions={"python": platform.python_version(), "onnxruntime": onnxruntime.__version__, "numpy": np.__version__},
    )
    bundle.save_result("bench", report.model_dump())
    return report


def time_interleaved(
    runners: Sequence[Callable[[], object]], runs: int | None = None, seconds: float = 5.0
) -> list[np.ndarray]:
    """Milliseconds per call for each of ``runners``, called in turn so that noise hits all alike, (runs,) each."""
    for _ in range(3):
        for run in runners:
            run()
    times: list[list[float]] = [[] for _ in runners]
    started = time.perf_counter()
    while len(times[0]) < (runs or 20) or (runs is None and time.perf_counter() - started < seconds):
        for run, record in zip(runners, times, strict=True):
            before = time.perf_counter_ns()
            run()
            record.append((time.perf_counter_ns() - before) / 1e6)
    return [np.array(record) for record in times]


def ratio_interval(baseline: np.ndarray, model: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the ratio of medians; pairs of neighbouring runs are resampled together."""
    draws = np.random.default_rng(seed).integers(0, len(model), (_BOOTSTRAP_SAMPLES, len(model)))
    ratios = np.median(baseline[draws], axis=1) / np.median(model[draws], axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(low), float(high)


def machine_name() -> str:
    """Processor model and the number of cores this process may use."""
    cpuinfo = Path("/proc/cpuinfo")
    model = platform.processor() or platform.machine()
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{model}, {_usable_cores()} cores"


def _usable_cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _runner(session: Any, batch: int, sequence: int, vocabulary: np.ndarray) -> Callable[[], object]:
    """One call of a session on random tokens of the task: every position a real token, (batch, sequence)."""
    tokens = np.random.default_rng(0).choice(vocabulary, (batch, sequence))
    feeds = {}
    for entry in session.get_inputs():
        if entry.name == "input_ids":
            feeds[entry.name] = tokens
        elif "mask" in entry.name:
            feeds[entry.name] = np.ones_like(tokens)
        else:
            feeds[entry.name] = np.zeros_like(tokens)
    names = [entry.name for entry in session.get_outputs()]
    return lambda: session.run(names, feeds)
