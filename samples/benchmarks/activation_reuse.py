"""How much time does a search save by reusing the activations below the edited layer?

Replays the trials of a finished run, each one with and without the reuse, in turn. The losses of both must be equal.

    python samples/benchmarks/activation_reuse.py runs/sst2
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from axform.core.plan import ApproximationPlan
from axform.core.targets import Target
from axform.runtime.latency import machine_name
from axform.toolchain.data import encode
from axform.toolchain.evaluation import Evaluator
from axform.toolchain.models import load_fine_tuned
from axform.toolchain.optimize import settle_task_data
from axform.toolchain.run_folder import RunFolder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--trials", type=int, help="replay at most this many trials, spread over the journal")
    arguments = parser.parse_args()
    run = RunFolder(arguments.run)
    options = run.read_record().options
    data = settle_task_data(options)
    models = [load_fine_tuned(run.baseline) for _ in range(2)]
    length = models[0].max_length(options.max_length or data.task.max_length)
    split = encode(data.task, data.selection, models[0].tokenizer, models[0].inputs, length)
    current = ApproximationPlan.empty(models[0].identity(), run.read_plan().group_size)
    reusing, plain = (
        Evaluator(model, data.task, split, current, batch_size=options.batch_size, cache_bytes=cache)
        for model, cache in zip(models, (2 << 30, 0), strict=True)
    )
    reusing.measure()  # the baseline trial, which fills the cache in every search

    lines = run.journal(1).read_text().splitlines()[2:]
    timed = set(np.linspace(0, len(lines) - 1, arguments.trials or len(lines)).astype(int))
    seconds: list[tuple[float, float]] = []
    for number, line in enumerate(lines):
        record = json.loads(line)
        candidate = current.without(Target.parse(record["element"])) if record["change"] == "prune" else None
        if candidate is None:
            continue
        if number in timed:
            measured, pair = [], []
            for evaluator in (reusing, plain):
                started = time.perf_counter()
                measured.append(evaluator.measure(candidate))
                pair.append(time.perf_counter() - started)
            assert measured[0] == measured[1], "the reuse changed a number"
            seconds.append((pair[0], pair[1]))
        if record["verdict"] == "prune":
            current = candidate
            reusing.accept(candidate)
            plain.accept(candidate)
    with_reuse, without = np.array(seconds).sum(axis=0)
    print(f"{machine_name()}; {len(split)} selection rows; {len(seconds)} trials replayed")
    print(f"with reuse {with_reuse:.1f} s, without {without:.1f} s: {1 - with_reuse / without:.0%} saved")


if __name__ == "__main__":
    main()
