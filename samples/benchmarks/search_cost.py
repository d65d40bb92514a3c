"""What makes a search cheap, each by itself: reused activations, trials that end early, bf16.

Searches one fine-tuned model of a run again and again, in turn, and compares verdicts and CPU time, which neighbours on
the machine disturb less than the clock:

    plain        every trial runs the whole model over all rows
    layers       inputs of the layers are reused below the edit
    inside       and what lies below the edit inside its layer
    early        and a hopeless trial ends early
    bf16         and products are computed in bf16, where that is fast: this is what axform does

    python samples/benchmarks/search_cost.py runs/sst2 --rows 1500
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import pandas as pd
import torch
from axform.console import out, table
from axform.core.plan import ApproximationPlan
from axform.runtime.latency import machine_name
from axform.toolchain.data import encode, settle_task_data
from axform.toolchain.evaluation import Evaluator
from axform.toolchain.journal import Journal
from axform.toolchain.models import load_fine_tuned
from axform.toolchain.options import RECOVER
from axform.toolchain.run_folder import RunFolder
from axform.toolchain.search import SearchOptions, search
from axform.toolchain.significance import Thresholds

_ROOM = 4 << 30
VARIANTS = ("plain", "layers", "inside", "early", "bf16")


class _Patient(Evaluator):
    """No trial ends early."""

    def measure_trial(self, plan, hopeless_above=np.inf):
        return super().measure_trial(plan)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder; its fine-tuned baseline is searched")
    parser.add_argument("--rows", type=int, default=1500, help="rows that judge trials (default: %(default)s)")
    parser.add_argument(
        "--repeats", type=int, default=1, help="searches of each kind, interleaved (default: %(default)s)"
    )
    parser.add_argument(
        "--slack", type=float, default=RECOVER, help="extra loss that a trial may cost (default: %(default)s)"
    )
    parser.add_argument(
        "--approximate",
        type=float,
        default=0.02,
        help="extra loss beyond which a block's heads and groups are not tried",
    )
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    arguments = parser.parse_args()
    run = RunFolder(arguments.run)
    options = run.read_options()
    torch.set_num_threads(options.threads or torch.get_num_threads())
    data = settle_task_data(options)
    rows = pd.concat([data.selection, data.acceptance, data.train]).iloc[: arguments.rows]
    loaded = load_fine_tuned(run.baseline)
    split = encode(
        data.task, rows, loaded.tokenizer, loaded.inputs, loaded.max_length(options.max_length or data.task.max_length)
    )
    current = ApproximationPlan.empty(loaded.identity(), run.round(0).read_plan().group_size)
    layer_bytes = sum(next(iter(batch.values())).size for _, batch in split.batches(options.batch_size)) * (
        4 * loaded.shape.hidden_size
    )
    rooms = {"plain": 0, "layers": layer_bytes * (loaded.shape.num_layers - 1)}
    thresholds = Thresholds(
        approximate=arguments.approximate, max_drop=0.005 + arguments.slack / 5, slack=arguments.slack
    )

    def run_search(variant: str) -> tuple[float, list[tuple[str, str]]]:
        kind = Evaluator if variant in ("early", "bf16") else _Patient
        with tempfile.TemporaryDirectory() as folder:
            evaluator = kind(
                loaded,
                data.task,
                split,
                current,
                batch_size=options.batch_size,
                cache_bytes=rooms.get(variant, _ROOM),
                is_fast=variant == "bf16",
            )
            started = time.process_time()
            verdicts: list[tuple[str, str]] = []
            search(
                evaluator,
                SearchOptions(focus="speed", thresholds=thresholds),
                Journal(Path(folder) / "trials.jsonl", {}),
                lambda trial: verdicts.append((str(trial.element), trial.record.verdict.value)),
            )
            seconds = time.process_time() - started
            evaluator.close()
        return seconds, verdicts

    results = [{variant: run_search(variant) for variant in arguments.variants} for _ in range(arguments.repeats)]
    first = arguments.variants[0]
    expected = dict(results[0][first][1])

    def row(variant: str) -> list[str]:
        seconds = [result[variant][0] for result in results]
        share = np.median([result[variant][0] / result[first][0] for result in results])
        verdicts = results[0][variant][1]
        other = sum(expected.get(element) != verdict for element, verdict in verdicts)
        return [variant, f"{np.median(seconds):.1f}", f"{share:.0%}", str(len(verdicts)), str(other)]

    title = f"a whole search, {len(split)} rows, {torch.get_num_threads()} threads, {machine_name()}"
    columns = ["kind", "CPU seconds", f"of {first}", "trials", "other verdicts"]
    out.print(table(title, columns, [row(variant) for variant in arguments.variants]))


if __name__ == "__main__":
    main()
