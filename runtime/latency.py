"""Latency of two models beside each other: interleaved runs, medians, and the ratio with its uncertainty."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.cores import usable_cores
from ..core.families import ModelShape
from ..errors import AxformError
from .bundle import Bundle, Measured, Report
from .calls import random_runner
from .check_data import CheckData
from .energy import find_meter, joules_per_run
from .feeds import ANY_TOKENS, input_types
from .footprint import resident_megabytes
from .interleaved import BENCH_SECONDS, time_interleaved
from .limits import check_memory, positive
from .session import DEFAULT_PROVIDER, Provider, create_session, import_onnxruntime, provider_of

__all__ = [
    "ANY_TOKENS",
    "BENCH_BATCHES",
    "BENCH_SECONDS",
    "BENCH_SEQUENCES",
    "LatencyReport",
    "ShapeLatency",
    "Timing",
    "bench_bundle",
    "bench_files",
    "random_runner",
    "ratio_interval",
    "time_interleaved",
    "timed_shapes",
]

BENCH_BATCHES, BENCH_SEQUENCES = (1, 8), (32, 128)
"""What is timed when nothing else is asked for."""
_BOOTSTRAP_SAMPLES = 2000
_RUNS_AT_ONCE = 1_000_000
"""Resampled runs that are in memory at the same time."""
_MOST_RUNS = 4000
"""Of a shape where their number is not asked for: a tiny model fits 100,000 into the time, whose interval takes minutes."""
_RUNS_FOR_AN_INTERVAL = 6
"""Of fewer runs not even the smallest and the largest enclose the median with 95 %: 1 - 2 / 2^5 is 0.94."""


class Timing(Measured):
    """Milliseconds per run."""

    median: float
    p10: float
    p90: float
    p99: float

    @classmethod
    def of(cls, milliseconds: np.ndarray) -> Timing:
        p10, median, p90, p99 = np.percentile(milliseconds, [10, 50, 90, 99])
        return cls(median=median, p10=p10, p90=p90, p99=p99)


class ShapeLatency(Measured):
    batch: int
    sequence: int
    runs: int
    baseline: Timing
    model: Timing
    ratio: float
    """Median of the baseline over median of the model: above 1 the model is faster."""
    ratio_low: float | None
    ratio_high: float | None
    """95 % bootstrap interval; None of fewer than 6 runs, which give none."""
    same_form: Timing | None = None
    """The baseline in the model's precision and layout; None where it was not timed."""
    plan_ratio: float | None = None
    """Median of that over median of the model: what the plan gains by itself."""
    plan_low: float | None = None
    plan_high: float | None = None
    joules: tuple[float, float] | None = None
    """Energy of a run of the baseline and of the model; None where the machine does not count it."""


class LatencyReport(Report):
    shapes: list[ShapeLatency]
    load_seconds: tuple[float, float] | None = None
    """To make a session of the baseline and of the model; None where it was not measured."""
    resident: tuple[float, float] | None = None
    """MB that a process needs to load each and run it once at the first shape; None where it was not measured."""
    energy_of: str | None = None
    """What ``joules`` are counted of."""
    threads: int
    machine: str
    versions: dict[str, str]


def bench_bundle(
    bundle: Bundle,
    batches: Sequence[int],
    sequences: Sequence[int],
    *,
    provider: Provider = DEFAULT_PROVIDER,
    threads: int | None = None,
    runs: int | None = None,
    seconds: float = BENCH_SECONDS,
    same_form: Callable[[Bundle], Path | None] = lambda bundle: None,
    resident: bool = False,
    cuda_graph: bool = False,
    on_run: Callable[[int, int, str], None] | None = None,
) -> LatencyReport:
    """Time both models of a bundle on random tokens of its task, for every batch with every sequence length.

    Args:
        same_form: makes a file of the baseline in the precision and layout of the model, to be timed beside them.
        threads: threads inside one operator; None = all cores this process may use.
        runs: runs of each model and shape; None = as many as fit into ``seconds``, 20 to 4,000.
        resident: measure, too, what memory each of both needs in a process of its own.
        cuda_graph: replay what the first run launches on the GPU.
        on_run: called with (shapes done, shapes in all, what runs now).

    Raises:
        AxformError: a file was changed or cannot be run, an option is out of range, a sequence is longer than the model
            can take, or a shape is larger than the machine's memory.
    """
    bundle.verify()
    shapes = timed_shapes(bundle.manifest.plan.model.shape, bundle.manifest.max_length, batches, sequences)
    if runs is not None:
        positive("runs", runs)
    threads = usable_cores() if threads is None else threads
    tokens = np.concatenate(list(CheckData.load(bundle.check_data).split.features["input_ids"]))
    files = [bundle.baseline, bundle.model, same_form(bundle)]
    opened = _opened([path for path in files if path is not None], provider, threads, cuda_graph)
    report = _timed(opened, shapes, tokens, threads, runs, seconds, on_run)
    if resident:
        report.resident = _resident(bundle.baseline, bundle.model, provider, threads, shapes[0])
    report.not_recorded = bundle.save_result("bench", report.model_dump())
    return report


def bench_files(
    first: Path,
    second: Path,
    batches: Sequence[int],
    sequences: Sequence[int],
    *,
    provider: Provider = DEFAULT_PROVIDER,
    threads: int | None = None,
    runs: int | None = None,
    seconds: float = BENCH_SECONDS,
    resident: bool = False,
    cuda_graph: bool = False,
    on_run: Callable[[int, int, str], None] | None = None,
) -> LatencyReport:
    """Time any two ONNX models with the same inputs, the first as the report's baseline, like `bench_bundle`.

    Raises:
        AxformError: a file cannot be run, the inputs differ, or an option is out of range.
    """
    shapes = all_shapes(batches, sequences)
    if runs is not None:
        positive("runs", runs)
    check_files(first, second)
    threads = usable_cores() if threads is None else threads
    opened = _opened([first, second], provider, threads, cuda_graph)
    check_inputs((first, second), [one.session for one in opened])
    report = _timed(opened, shapes, ANY_TOKENS, threads, runs, seconds, on_run)
    if resident:
        report.resident = _resident(first, second, provider, threads, shapes[0])
    return report


def _resident(
    baseline: Path, model: Path, provider: Provider, threads: int, shape: tuple[int, int]
) -> tuple[float, float] | None:
    found = resident_megabytes([baseline, model], provider, threads, *shape)
    return None if found is None else (found[0], found[1])


def check_files(*files: Path) -> None:
    """Refuse a comparison of what are no files."""
    for path in files:
        if not path.is_file():
            raise AxformError(f"{path}: no such file; give two .onnx files, or a bundle folder alone.")


def check_inputs(files: tuple[Path, Path], sessions: Sequence[Any]) -> None:
    """Refuse a comparison of models, in sessions of their own, that take different inputs."""
    ours, theirs = (input_types(session) for session in sessions)
    if ours != theirs:
        raise AxformError(
            f"{files[0]} and {files[1]}: take different inputs ({_inputs(ours)}; {_inputs(theirs)}); give two models that "
            "can stand for each other."
        )


def _inputs(types: Mapping[str, str]) -> str:
    return ", ".join(f"{name}: {kind}" for name, kind in types.items()) or "none"


@dataclass(frozen=True)
class _Opened:
    session: Any
    seconds: float


def _opened(files: Sequence[Path], provider: Provider, threads: int, cuda_graph: bool) -> list[_Opened]:
    """Sessions, with how long it took to make them: reading the file, folding what is constant, choosing kernels."""
    import_onnxruntime()
    opened = []
    for file in files:
        started = time.perf_counter()
        session = create_session(file, provider, threads, spinning=False, cuda_graph=cuda_graph)
        opened.append(_Opened(session, time.perf_counter() - started))
    return opened


def _timed(
    opened: Sequence[_Opened],
    shapes: Sequence[tuple[int, int]],
    tokens: np.ndarray,
    threads: int,
    runs: int | None,
    seconds: float,
    on_run: Callable[[int, int, str], None] | None,
) -> LatencyReport:
    """The baseline, the model, and the baseline in the model's form if there is a third, on random ``tokens``."""
    results = []
    meter = find_meter(provider_of(opened[1].session))
    for number, (batch, sequence) in enumerate(shapes):
        if on_run is not None:
            on_run(number, len(shapes), f"batch {batch}, sequence {sequence}")
        runners = [random_runner(one.session, batch, sequence, tokens) for one in opened]
        baseline, model, *others = time_interleaved(runners, runs=runs, seconds=seconds, most=_MOST_RUNS)
        low, high = _interval(baseline, model)
        shape = ShapeLatency(
            batch=batch,
            sequence=sequence,
            runs=len(model),
            baseline=Timing.of(baseline),
            model=Timing.of(model),
            ratio=float(np.median(baseline) / np.median(model)),
            ratio_low=low,
            ratio_high=high,
        )
        for other in others:
            shape.same_form = Timing.of(other)
            shape.plan_ratio = float(np.median(other) / np.median(model))
            shape.plan_low, shape.plan_high = _interval(other, model)
        if meter is not None:
            before, after = joules_per_run(runners[:2], meter)
            shape.joules = before, after
        results.append(shape)
    return LatencyReport(
        shapes=results,
        provider=provider_of(opened[1].session),
        load_seconds=(opened[0].seconds, opened[1].seconds),
        energy_of=None if meter is None else meter.what,
        threads=threads,
        machine=machine_name(),
        versions={
            "python": platform.python_version(),
            "onnxruntime": import_onnxruntime().__version__,
            "numpy": np.__version__,
        },
    )


def _interval(baseline: np.ndarray, model: np.ndarray) -> tuple[float | None, float | None]:
    return ratio_interval(baseline, model) if len(model) >= _RUNS_FOR_AN_INTERVAL else (None, None)


def all_shapes(batches: Sequence[int], sequences: Sequence[int]) -> list[tuple[int, int]]:
    shapes = [(positive("--batch", batch), positive("--seq", sequence)) for batch in batches for sequence in sequences]
    if not shapes:
        raise AxformError("--batch and --seq: give at least one batch size and one sequence length.")
    return shapes


def timed_shapes(
    model: ModelShape, longest: int, batches: Sequence[int], sequences: Sequence[int]
) -> list[tuple[int, int]]:
    """Every batch with every sequence, all of which a model of at most ``longest`` tokens and the machine can take."""
    shapes = all_shapes(batches, sequences)
    for batch, sequence in shapes:
        if sequence > longest:
            raise AxformError(f"--seq {sequence}: the model takes at most {longest} tokens.")
        check_memory(model, batch, sequence)
    return shapes


def ratio_interval(baseline: np.ndarray, model: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the ratio of medians; pairs of neighbouring runs are resampled together."""
    random, runs, ratios = np.random.default_rng(seed), len(model), []
    at_once = max(1, _RUNS_AT_ONCE // runs)
    for start in range(0, _BOOTSTRAP_SAMPLES, at_once):
        draws = random.integers(0, runs, (min(at_once, _BOOTSTRAP_SAMPLES - start), runs))
        ratios.append(np.median(baseline[draws], axis=1) / np.median(model[draws], axis=1))
    low, high = np.percentile(np.concatenate(ratios), [2.5, 97.5])
    return float(low), float(high)


def machine_name() -> str:
    """Processor model and the number of cores this process may use."""
    cpuinfo = Path("/proc/cpuinfo")
    model = platform.processor() or platform.machine()
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{model}, {usable_cores()} cores"
