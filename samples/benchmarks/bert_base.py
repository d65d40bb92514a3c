"""BERT-base with random weights under published pruning ratios: what an export costs, and what each file is worth.

    python samples/benchmarks/bert_base.py --out bert

Plans:
  half the FFN, a third of the heads   FastFormers' setting for BoolQ (arXiv 2010.13382)
  2.2 times fewer FLOPs                AxFormer's speed focus on GLUE (arXiv 2010.03688: 2.17x), as whole blocks
  the same in 4 bits                   its size focus (8.5x), all weights and embeddings
Each export is a process of its own, whose time and largest resident memory are told. Latency is that of the unoptimized
file over that of each other one, one thread, all of them in one interleaved run. Metrics of random weights mean nothing
and are not told.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from axform.console import out, run_app, table
from axform.core.costs import encoder_flops
from axform.core.families import ModelShape
from axform.core.plan import ApproximationPlan, Bits, ModelIdentity, Remove
from axform.core.targets import BlockKind, Target
from axform.core.tasks import TASKS
from axform.errors import AxformError
from axform.files import write_folder
from axform.outputs import holds_files
from axform.runtime.bundle import Bundle
from axform.runtime.latency import ANY_TOKENS, machine_name, random_runner, time_interleaved
from axform.runtime.session import create_session
from axform.toolchain.models import load_for_task

SHAPE = ModelShape(num_layers=12, num_heads=12, hidden_size=768, intermediate_size=3072)
BLOCKS: tuple[BlockKind, ...] = ("ffn", "attn")
SHAPES = ((1, 32), (1, 128), (8, 128))
_FEWER_FLOPS = 2.17
SEQUENCE = 128
"""Tokens that FLOPs are counted for."""


def plans() -> dict[str, ApproximationPlan]:
    identity = ModelIdentity(
        family="bert",
        num_layers=SHAPE.num_layers,
        num_heads=SHAPE.num_heads,
        hidden_size=SHAPE.hidden_size,
        intermediate_size=SHAPE.intermediate_size,
    )
    nothing = ApproximationPlan.empty(identity, 256, task="text-classification")
    inside = nothing
    for layer in range(SHAPE.num_layers):
        for group in range(0, 12, 2):
            inside = inside.with_part(Remove(target=Target(layer, "ffn.group", group)))
        for head in range(0, 12, 3):
            inside = inside.with_part(Remove(target=Target(layer, "attn.head", head)))
    blocks = nothing
    order = [Target(layer, kind) for kind in BLOCKS for layer in reversed(range(SHAPE.num_layers))]
    for block in (*order[::2], *order[1::2]):
        if encoder_flops(nothing, SEQUENCE) < _FEWER_FLOPS * encoder_flops(blocks, SEQUENCE):
            blocks = blocks.with_part(Remove(target=block))
    in_bits = blocks.with_part(Bits(target=Target.outside("rest"), bits=4))
    return {
        "unpruned": nothing,
        "half the FFN, a third of the heads": inside,
        "2.2 times fewer FLOPs": blocks,
        "the same in 4 bits": in_bits,
    }


def save_model(folder: Path) -> None:
    """Random weights under MiniLM's tokenizer, which has BERT's vocabulary."""
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer = load_for_task("minilm", TASKS["text-classification"], 2).tokenizer
    with write_folder(folder) as staging:
        BertForSequenceClassification(BertConfig(num_labels=2)).save_pretrained(staging)
        tokenizer.save_pretrained(staging)


def save_data(folder: Path) -> None:
    """A few sentences with labels at random, for the parity check."""
    random = np.random.default_rng(0)
    words = ["time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school"]
    with write_folder(folder) as staging:
        for split, count in (("train", 200), ("validation", 100)):
            rows = [" ".join(random.choice(words, random.integers(4, 30))) for _ in range(count)]
            frame = pd.DataFrame({"sentence": rows, "label": random.integers(0, 2, count)})
            frame.to_parquet(staging / f"{split}.parquet")


@dataclass(frozen=True)
class Export:
    seconds: float
    megabytes: float


def export(folder: Path, name: str, plan: ApproximationPlan, precision: str) -> tuple[Bundle, Export | None]:
    """In a process of its own; None for what was there already."""
    bundle, file = folder / "bundles" / f"{name.replace(' ', '-').replace(',', '')}-{precision}", folder / "plan.json"
    if holds_files(bundle):
        return Bundle(bundle), None
    plan.save(file)
    bundle.parent.mkdir(exist_ok=True)
    program = "import sys; from axform.cli import main; sys.argv[0] = 'axform'; main()"
    words = ["export", folder / "model", "--plan", file, "--data", folder / "data", "--out", bundle]
    command = [sys.executable, "-c", program, *map(str, words), "--precision", precision]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise AxformError(f"the export of {name} ended with {process.returncode}: {' '.join(command[3:])}")
    return Bundle(bundle), Export(time.perf_counter() - started, usage.ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bert"), help="where everything goes (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=30.0, help="of timing a shape (default: %(default)s)")
    arguments = parser.parse_args()
    folder = arguments.out
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "model").exists():
        save_model(folder / "model")
    if not (folder / "data").exists():
        save_data(folder / "data")
    made = {}
    for name, plan in plans().items():
        has_bits = any(isinstance(part, Bits) for part in plan.parts)
        for precision in ("float32",) if has_bits else ("float32", "int8"):
            made[f"{name}, {precision}"] = export(folder, name, plan, precision)
    baseline = next(iter(made.values()))[0].baseline
    files = {"unoptimized": baseline} | {name: bundle.model for name, (bundle, _) in made.items()}
    sessions = [create_session(file, "cpu", 1, spinning=False) for file in files.values()]
    times = {
        shape: time_interleaved(
            [random_runner(session, *shape, ANY_TOKENS) for session in sessions], seconds=arguments.seconds
        )
        for shape in SHAPES
    }
    rows = []
    for number, (name, file) in enumerate(files.items()):
        cost = made[name][1] if name in made else None
        rows.append(
            (
                name,
                f"{file.stat().st_size / 1e6:.1f} MB",
                *(f"{np.median(times[shape][0]) / np.median(times[shape][number]):.2f}x" for shape in SHAPES),
                "" if cost is None else f"{cost.seconds:.0f} s, {cost.megabytes:.0f} MB",
            )
        )
    shapes = [f"({batch}, {sequence})" for batch, sequence in SHAPES]
    result = table("BERT-base, random weights", ("file", "size", *shapes, "export"), rows)
    result.caption = f"{machine_name()}, one thread; medians of one interleaved run"
    out.print(result)


if __name__ == "__main__":
    run_app(main)
