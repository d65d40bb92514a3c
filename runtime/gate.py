"""The latency gate: may this model replace that one? Both run in turn, in one process, and the answer has three values."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import exp, log
from pathlib import Path
from typing import TypeAlias

import numpy as np
from pydantic import ValidationError

from ..core.cores import usable_cores
from ..errors import AxformError
from .bundle import Bundle, Measured, Report
from .calls import random_runner
from .check_data import CheckData
from .feeds import ANY_TOKENS
from .latency import LatencyReport, all_shapes, machine_name
from .session import DEFAULT_PROVIDER, Provider, create_session, provider_of
from .verdicts import Verdict, bounds_of, judge, worst

__all__ = ["ALPHA", "LOOK_SECONDS", "MAX_REGRESSION", "GateReport", "GatedShape", "gate", "judge_runners"]

Runner: TypeAlias = Callable[[], object]
"""One call of a session."""
MAX_REGRESSION, ALPHA, LOOK_SECONDS = 0.05, 0.01, 20.0
"""Defaults: the slow-down that is tolerated, the chance of a wrong PASS or FAIL, and the time of a look at one shape."""
_FEWEST_BLOCKS, _BLOCK_SECONDS, _LOOKS = 12, 0.25, 2
"""Independent blocks of a look, and the time that their runs take beside opening sessions; a first look that cannot decide is
followed by a fresh one."""
_WARM_UP = 3
"""Calls of a session that has just been opened."""
_FEWEST_ROUNDS = 5
"""Of a block: in each the three sessions run once, in random order."""


class GatedShape(Measured):
    """The verdict on one shape. Slow-downs are shares: 0.05 = 5 % slower."""

    batch: int
    sequence: int
    verdict: Verdict
    slowdown: float
    low: float
    high: float
    """One-sided bounds of the slow-down, each wrong with the probability that its look may spend."""
    noise: float
    """How far the reference is from itself in the same look."""
    looks: int
    rounds: int
    """Runs of each session in the last look."""


class GateReport(Report):
    candidate: str
    reference: str
    max_regression: float
    alpha: float
    threads: int
    machine: str
    verdict: Verdict
    shapes: list[GatedShape]


@dataclass(frozen=True)
class _Sides:
    """What is compared: the candidate's time over the reference's, times what that was recorded to be."""

    candidate: Path
    reference: Path
    recorded: dict[tuple[int, int], float]
    """Shape -> the recorded ratio of the reference's time over the candidate's; empty = they are to be equally fast."""
    tokens: np.ndarray
    recorded_on: str | None = None
    """The execution provider of the recorded ratios."""

    def expected(self, shape: tuple[int, int]) -> float:
        """Logarithm of the candidate's time over the reference's that is no change at all."""
        return -log(self.recorded[shape]) if self.recorded else 0.0


def gate(
    candidate: Path,
    reference: Path | None = None,
    *,
    batches: Sequence[int] = (1,),
    sequences: Sequence[int] = (128,),
    max_regression: float = MAX_REGRESSION,
    alpha: float = ALPHA,
    provider: Provider = DEFAULT_PROVIDER,
    threads: int | None = None,
    seconds: float = LOOK_SECONDS,
    on_look: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> GateReport:
    """Judge whether ``candidate`` is slower than it may be.

    With a reference, it may not be slower than that by more than ``max_regression``. Without one, the candidate is a
    bundle whose `bench` was recorded, and its gain over its own baseline may not have shrunk by more.

    The sessions run in random order, round by round; the medians of a block give one logarithm of a ratio, and twelve
    of them or more t bounds. Each block opens its sessions anew, since how one happens to lie in memory moves all of its times. A
    look that cannot decide is followed by a fresh one; both looks and all shapes share ``alpha``. The reference runs in two
    sessions; where they differ from each other by more than the tolerance, the machine is too noisy.

    Args:
        candidate, reference: bundle folders or .onnx files.
        on_look: called with (looks taken, looks at most, what is timed).

    Raises:
        AxformError: an option out of range, a model that cannot be run, or nothing recorded to compare with.
    """
    _check(max_regression, alpha, seconds)
    shapes = all_shapes(batches, sequences)
    threads = usable_cores() if threads is None else threads
    sides = _sides(candidate, reference, shapes, threads)
    paths = (sides.candidate, sides.reference, sides.reference)
    ran_on = provider_of(create_session(sides.candidate, provider, threads, spinning=False))
    if sides.recorded_on not in (None, ran_on):
        raise AxformError(
            f"{candidate}: its latency was recorded on {sides.recorded_on}, and this is {ran_on}; give --provider "
            f"{str(sides.recorded_on).lower()}, or record it anew with `axform bench {candidate} --provider {ran_on.lower()}`."
        )
    judged: list[GatedShape] = []
    for number, shape in enumerate(shapes):

        def tell(look: int, number: int = number, shape: tuple[int, int] = shape) -> None:
            on_look(number * _LOOKS + look - 1, len(shapes) * _LOOKS, f"batch {shape[0]}, sequence {shape[1]}")

        def opened(path: Path, shape: tuple[int, int] = shape) -> Runner:
            return random_runner(create_session(path, provider, threads, spinning=False), *shape, sides.tokens)

        judged.append(
            judge_runners(
                [partial(opened, path) for path in paths],
                shape,
                expected=sides.expected(shape),
                max_regression=max_regression,
                alpha=alpha / len(shapes),
                seconds=seconds,
                seed=number,
                on_look=tell,
            )
        )
    return GateReport(
        provider=ran_on,
        candidate=str(candidate),
        reference="its own baseline, as recorded" if reference is None else str(reference),
        max_regression=max_regression,
        alpha=alpha,
        threads=threads,
        machine=machine_name(),
        verdict=worst([shape.verdict for shape in judged]),
        shapes=judged,
    )


def judge_runners(
    openers: Sequence[Callable[[], Runner]],
    shape: tuple[int, int],
    *,
    max_regression: float = MAX_REGRESSION,
    alpha: float = ALPHA,
    seconds: float = LOOK_SECONDS,
    expected: float = 0.0,
    seed: int = 0,
    on_look: Callable[[int], None] = lambda look: None,
) -> GatedShape:
    """Judge the candidate, the reference, and the reference once more, in as many looks as are needed.

    Args:
        openers: each opens a session anew and gives what runs it.
        shape: (batch, sequence) of what they run.
        alpha: chance of a wrong verdict, all looks together.
        expected: logarithm of the candidate's time over the reference's that is no change at all.
        on_look: called with the number of the look that begins, from 1.
    """
    for look in range(1, _LOOKS + 1):
        on_look(look)
        rounds, times = _blocks(openers, seconds, seed=look + _LOOKS * seed)
        logs = np.log(times)
        change = bounds_of(logs[0] - logs[1:].mean(axis=0) - expected, alpha / _LOOKS)
        noise = float(np.mean(logs[2] - logs[1]))
        verdict = judge(change, noise, max_regression)
        if verdict != "UNDECIDED":
            break
    return GatedShape(
        batch=shape[0],
        sequence=shape[1],
        verdict=verdict,
        slowdown=exp(change.mean) - 1,
        low=exp(change.low) - 1,
        high=exp(change.high) - 1,
        noise=exp(abs(noise)) - 1,
        looks=look,
        rounds=rounds,
    )


def _blocks(openers: Sequence[Callable[[], Runner]], seconds: float, seed: int) -> tuple[int, np.ndarray]:
    """Runs of each, and the medians of every block, (runners, blocks), milliseconds.

    More time makes more blocks, not longer ones: what differs between sessions is averaged over blocks alone.
    """
    random = np.random.default_rng(seed)
    blocks: list[np.ndarray] = []
    rounds, began = 0, time.perf_counter()
    while len(blocks) < _FEWEST_BLOCKS or (time.perf_counter() - began) * (1 + 1 / len(blocks)) < seconds:
        runners: dict[int, Runner] = {index: openers[index]() for index in random.permutation(len(openers))}
        for _ in range(_WARM_UP):
            started = time.perf_counter()
            for run in runners.values():
                run()
        length = min(_BLOCK_SECONDS, seconds / _FEWEST_BLOCKS)
        rounds = rounds or max(_FEWEST_ROUNDS, int(length / (time.perf_counter() - started)))
        times = np.empty((len(openers), rounds))
        for number in range(rounds):
            for index in random.permutation(len(openers)):
                before = time.perf_counter_ns()
                runners[index]()
                times[index, number] = (time.perf_counter_ns() - before) / 1e6
        blocks.append(np.median(times, axis=1))
    return rounds * len(blocks), np.stack(blocks, axis=1)


def _sides(candidate: Path, reference: Path | None, shapes: Sequence[tuple[int, int]], threads: int) -> _Sides:
    if reference is not None:
        first, second = _file_of(candidate), _file_of(reference)
        return _Sides(first, second, {}, _tokens(candidate))
    if not candidate.is_dir():
        raise AxformError(f"{candidate}: a file alone has nothing to be compared with; give --reference, or a bundle.")
    bundle = Bundle(candidate)
    bundle.verify()
    report = _recorded(bundle)
    recorded = {} if report is None else {(shape.batch, shape.sequence): shape.ratio for shape in report.shapes}
    for batch, sequence in shapes:
        if (batch, sequence) not in recorded:
            raise AxformError(
                f"{candidate}: no latency is recorded at batch {batch} and {sequence} tokens; record it with `axform bench "
                f"{candidate} --batch {batch} --seq {sequence} --threads {threads}`, or give --reference."
            )
    assert report is not None
    if report.threads != threads:
        raise AxformError(
            f"{candidate}: its latency was recorded with {report.threads} threads, asked for are {threads}; give "
            f"--threads {report.threads}, or record it anew with `axform bench`."
        )
    return _Sides(bundle.model, bundle.baseline, recorded, _tokens(candidate), report.provider)


def _recorded(bundle: Bundle) -> LatencyReport | None:
    """What `bench` recorded; None where nothing is, or something that this version does not read."""
    try:
        return LatencyReport.model_validate(bundle.manifest.results.get("bench"))
    except ValidationError:
        return None


def _file_of(path: Path) -> Path:
    if path.is_dir():
        return Bundle(path).model
    if not path.is_file():
        raise AxformError(f"{path}: no such file; name a bundle folder or an .onnx file.")
    return path


def _tokens(path: Path) -> np.ndarray:
    if not path.is_dir():
        return ANY_TOKENS
    return np.concatenate(list(CheckData.load(Bundle(path).check_data).split.features["input_ids"]))


def _check(max_regression: float, alpha: float, seconds: float) -> None:
    if not 0 < max_regression < 10:
        raise AxformError(f"--max-regression {max_regression:g}: give a share above 0, e.g. 0.05 for 5 %.")
    if not 0 < alpha < 0.5:
        raise AxformError(f"--alpha {alpha:g}: give the chance of a wrong verdict, between 0 and 0.5.")
    if not 0 < seconds < 86400:
        raise AxformError(f"--seconds {seconds:g}: give a time above 0.")
