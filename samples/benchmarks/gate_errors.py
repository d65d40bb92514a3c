"""How often the latency gate is wrong, on real times: true slow-downs, a quiet machine and a busy one.

    python samples/benchmarks/gate_errors.py --out gate                  with nothing else to do on the machine
    python samples/benchmarks/gate_errors.py --out gate --load 1         beside a process that is busy now and then

A slow-down is another model: a BERT of random weights (4 layers, 256 wide) with a wider FFN, the one of 26 widths that
takes nearest to so much longer; how much it is, the median of the quiet trials tells. 0 % is the same file in another
session. Every trial opens new sessions and asks for a verdict as `axform gate` does; the changes take turns, so that
whatever the machine does hits all alike. What pytest-benchmark's `--benchmark-compare-fail` says of the very same times
stands beside it, compared with the reference's times of the same trial and, as stored times are, with those of the trial
before. Started again, it goes on where it was; --report only prints the table.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from axform.console import note, out, run_app, table
from axform.errors import AxformError
from axform.exporters.onnx_file import save_onnx
from axform.files import read_json, write_json
from axform.runtime.gate import judge_runners
from axform.runtime.latency import ANY_TOKENS, machine_name, random_runner, time_interleaved
from axform.runtime.session import create_session

CHANGES = {0: 100, 3: 20, 5: 20, 8: 20, 10: 100, 20: 20}
"""Slow-down in per cent -> trials."""
SHAPE = (1, 32)
LIMIT = 0.05
WIDTH, WIDTHS = 1024, range(1040, 1456, 16)
"""Of the FFN: the reference's, and those among which the slow-downs are found."""
_SESSIONS, _CALIBRATION_SECONDS = 8, 8.0
"""That a slow-down is found from, and the time for each model."""
RULES = ("mean", "median", "min")


@dataclass(frozen=True)
class Trial:
    load: int
    change: int
    """In per cent, as was aimed at."""
    verdict: str
    looks: int
    seconds: float
    slowdown: float
    noise: float
    candidate: dict[str, float]
    reference: dict[str, float]
    """Of all times of the trial: mean, median and min, in milliseconds."""


class Times:
    """Opens a file as often as it is asked to, and keeps how long each call took."""

    def __init__(self, path: Path) -> None:
        self._path, self._times = path, list[float]()

    def __call__(self) -> Callable[[], None]:
        run = random_runner(session_of(self._path), *SHAPE, ANY_TOKENS)

        def timed() -> None:
            before = time.perf_counter_ns()
            run()
            self._times.append((time.perf_counter_ns() - before) / 1e6)

        return timed

    def figures(self) -> dict[str, float]:
        return {rule: float(getattr(np, rule)(self._times)) for rule in RULES}


def save_model(path: Path, width: int) -> None:
    from axform.core.tasks import TASKS
    from axform.exporters.baseline import export_baseline
    from axform.toolchain.models import load_for_task
    from transformers import BertConfig, BertForSequenceClassification, logging

    logging.set_verbosity_error()

    config = BertConfig(
        hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=width, num_labels=2
    )
    tokenized = load_for_task("minilm", TASKS["text-classification"], 2)
    save_onnx(export_baseline(replace(tokenized, model=BertForSequenceClassification(config).eval())), path)


def session_of(path: Path) -> Any:
    return create_session(path, "cpu", 1, spinning=False)


def slower_by(reference: Path, others: Sequence[Path], seconds: float) -> list[float]:
    """How much slower each of the others is, as a share: the median over sessions, which differ even of one file."""
    ratios = []
    for _ in range(_SESSIONS):
        runners = [random_runner(session_of(path), *SHAPE, ANY_TOKENS) for path in (reference, *others)]
        medians = [float(np.median(times)) for times in time_interleaved(runners, seconds=seconds / _SESSIONS)]
        ratios.append([median / medians[0] - 1 for median in medians[1:]])
    return [float(ratio) for ratio in np.median(ratios, axis=0)]


def models(folder: Path) -> dict[int, tuple[Path, float]]:
    """Change -> a file and how much slower than the reference it really is, both found once, by timing all widths."""
    found, reference = folder / "models.json", folder / f"{WIDTH}.onnx"
    if not found.is_file():
        paths = [folder / f"{width}.onnx" for width in WIDTHS]
        for path, width in zip((reference, *paths), (WIDTH, *WIDTHS), strict=True):
            save_model(path, width)
        slower = slower_by(reference, paths, len(paths) * _CALIBRATION_SECONDS)
        chosen = [paths[int(np.argmin(np.abs(np.array(slower) - change / 100)))] for change in CHANGES if change]
        truth = slower_by(reference, chosen, len(chosen) * _CALIBRATION_SECONDS)
        named = zip(filter(None, CHANGES), chosen, truth, strict=True)
        write_json(found, {0: (reference.name, 0.0)} | {change: (path.name, share) for change, path, share in named})
    told = read_json(found, "remove the folder")
    return {int(change): (folder / name, share) for change, (name, share) in told.items()}


def judged(load: int, change: int, candidate: Path, reference: Path, seconds: float, seed: int) -> Trial:
    sides = [Times(path) for path in (candidate, reference, reference)]
    started = time.perf_counter()
    shape = judge_runners(sides, SHAPE, max_regression=LIMIT, seconds=seconds, seed=seed)
    took = time.perf_counter() - started
    figures = [side.figures() for side in sides]
    return Trial(load, change, shape.verdict, shape.looks, took, shape.slowdown, shape.noise, *figures[:2])


def _busy_now_and_then(seed: int) -> None:
    random, parent = np.random.default_rng(seed), os.getppid()
    matrix = random.normal(size=(256, 256)).astype(np.float32)
    while os.getppid() == parent:  # one that was killed cannot end it
        until = time.perf_counter() + random.exponential(0.5)
        while time.perf_counter() < until:
            matrix @ matrix
        time.sleep(random.exponential(0.5))


@contextmanager
def load_of(processes: int) -> Iterator[None]:
    """Processes that compute for half a second on average, then sleep as long."""
    context = multiprocessing.get_context("spawn")
    busy = [context.Process(target=_busy_now_and_then, args=(seed,), daemon=True) for seed in range(processes)]
    for process in busy:
        process.start()
    try:
        yield
    finally:
        for process in busy:
            process.terminate()


def run(folder: Path, load: int, seconds: float) -> None:
    known, file = models(folder), folder / "trials.jsonl"
    done = [trial for trial in read_trials(file) if trial.load == load]
    left = [
        (number, change)
        for number in range(max(CHANGES.values()))
        for change, count in CHANGES.items()
        if number < count and number >= sum(trial.change == change for trial in done)
    ]
    with load_of(load), file.open("a", encoding="utf-8") as journal:
        for count, (number, change) in enumerate(left):
            trial = judged(load, change, known[change][0], known[0][0], seconds, seed=1000 * number + change)
            journal.write(json.dumps(asdict(trial)) + "\n")
            journal.flush()
            if count % 20 == 0:
                note(f"{count}/{len(left)}: {change} % {trial.verdict} in {trial.seconds:.0f} s")


def read_trials(file: Path) -> list[Trial]:
    return [Trial(**json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []


def report(folder: Path) -> None:
    known, trials = models(folder), read_trials(folder / "trials.jsonl")
    quiet = [[trial.slowdown for trial in trials if trial.change == change and not trial.load] for change in CHANGES]
    truth = {
        change: float(np.median(seen)) if seen else known[change][1]
        for change, seen in zip(CHANGES, quiet, strict=True)
    }
    rows = []
    for load in sorted({trial.load for trial in trials}):
        mine = [trial for trial in trials if trial.load == load]
        before = {id(later): earlier for earlier, later in pairwise(mine)}
        for change in CHANGES:
            cell = [trial for trial in mine if trial.change == change]
            if not cell:
                continue
            verdicts = [sum(trial.verdict == name for trial in cell) for name in ("PASS", "FAIL", "UNDECIDED")]
            seconds = [trial.seconds for trial in cell]
            rows.append(
                (
                    f"beside {load}" if load else "quiet",
                    f"{change} % ({truth[change]:+.1%})",
                    str(len(cell)),
                    *map(str, verdicts),
                    f"{np.median(seconds):.0f}, {max(seconds):.0f} s",
                    *(_failed(cell, rule, {id(trial): trial for trial in cell}) for rule in RULES),
                    *(_failed(cell, rule, before) for rule in RULES),
                )
            )
    compared = [f"{rule}, {against}" for against in ("same trial", "stored") for rule in RULES]
    columns = ("machine", "slower by", "trials", "PASS", "FAIL", "UNDECIDED", "takes (median, most)", *compared)
    out.print(
        table(f"axform gate, --max-regression {LIMIT}; compare-fail at {LIMIT:.0%} ({machine_name()})", columns, rows)
    )


def _failed(cell: list[Trial], rule: str, against: dict[int, Trial]) -> str:
    pairs = [(trial, against[id(trial)]) for trial in cell if id(trial) in against]
    return str(sum(trial.candidate[rule] > (1 + LIMIT) * other.reference[rule] for trial, other in pairs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gate"), help="models and trials (default: %(default)s)")
    parser.add_argument("--load", type=int, default=0, help="processes that are busy now and then (default: none)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a look (default: %(default)s; the gate's is 20)")
    parser.add_argument("--report", action="store_true", help="only print the table of what is there")
    arguments = parser.parse_args()
    if arguments.load < 0 or arguments.seconds <= 0:
        raise AxformError("--load and --seconds: give a number of processes, and a time above 0.")
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not arguments.report:
        run(arguments.out, arguments.load, arguments.seconds)
    report(arguments.out)


if __name__ == "__main__":
    run_app(main)
