"""How much longer does a small run take beside a busy process?

Runs `optimize` on a few rows of a task, alone and beside processes that never rest, once with threads that wait as
`axform.toolchain.threads` chooses and once as OpenMP does by itself. All runs must end in the same weights.

    python samples/benchmarks/thread_choice.py --data DATA
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from axform.runtime.latency import machine_name

RUN = """
import json, sys, time
from pathlib import Path
from axform.toolchain.optimize import optimize
from axform.toolchain.options import OptimizeOptions
from axform.toolchain.run_folder import RunFolder

out = Path(sys.argv[2])
started = time.perf_counter()
optimize(OptimizeOptions(**json.loads(sys.argv[1])), out)
seconds = time.perf_counter() - started
print(json.dumps({"seconds": seconds, "weights": RunFolder(out).read_plan().model.fingerprint}))
"""
WAYS = {"as chosen": {}, "by itself": {"GOMP_SPINCOUNT": "300000"}}
"""Environment of each way; the count is the one that GNU's OpenMP has without the variable, and turns the choice off."""


@contextmanager
def busy(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def timed_run(options: dict[str, object], way: str) -> tuple[float, str]:
    """Seconds of a run and the fingerprint of its weights."""
    environment = {**os.environ, "TRANSFORMERS_VERBOSITY": "error", **WAYS[way]}
    with tempfile.TemporaryDirectory() as folder:
        call = [sys.executable, "-c", RUN, json.dumps(options), str(Path(folder, "run"))]
        done = subprocess.run(call, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    return result["seconds"], result["weights"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with train.* and validation.* of the task")
    parser.add_argument("--task", default="glue/sst2")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--busy", type=int, nargs="+", default=[1], help="how many busy processes run beside it")
    parser.add_argument("--runs", type=int, default=1, help="runs of each; medians are compared")
    arguments = parser.parse_args()
    options: dict[str, object] = {
        "model": arguments.model,
        "task": arguments.task,
        "data": arguments.data,
        "train_samples": arguments.rows,
        "report_samples": arguments.rows // 4,
        "baseline_epochs": 2,
        "final_epochs": 1,
        "learning_rate": 1e-4,
        "recover": 0.0,
    }
    print(f"{machine_name()}; load before {os.getloadavg()[0]:.1f}; {arguments.rows} rows, {arguments.task}")
    weights = set()
    seconds: dict[tuple[int, str], list[float]] = {}
    for _ in range(arguments.runs):
        for beside in (0, *arguments.busy):
            for way in WAYS:
                with busy(beside):
                    taken, fingerprint = timed_run(options, way)
                weights.add(fingerprint)
                seconds.setdefault((beside, way), []).append(taken)
                print(f"  {way}, beside {beside} busy: {taken:.1f} s", flush=True)
    for beside in arguments.busy:
        for way in WAYS:
            ratio = statistics.median(seconds[beside, way]) / statistics.median(seconds[0, way])
            print(
                f"{way}: beside {beside} busy {'process' if beside == 1 else 'processes'} {ratio:.2f}x the time alone"
            )
    print(f"different weights: {len(weights)}")


if __name__ == "__main__":
    main()
