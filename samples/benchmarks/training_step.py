"""What makes a step of a distillation cheap on a CPU, each by itself and together, in turn.

    plain        dropout, every weight learns, memory as the C library manages it
    no noise     without dropout
    embeddings   the word embeddings stay as they are
    both         together
    memory       and what tensors free stays with the process: this is what axform does

Steps of random tokens on the packaged MiniLM. The memory setting cannot be taken back, so each way of it runs in a
process of its own, block by block in turn.

    OMP_NUM_THREADS=1 python samples/benchmarks/training_step.py --shapes 32x10,32x54
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from axform.console import out, table
from axform.core.tasks import task_named
from axform.runtime.latency import machine_name
from axform.toolchain.memory import keep_freed_memory
from axform.toolchain.models import load_for_task
from axform.toolchain.student import learning_from_teacher
from torch import nn

WAYS = ("plain", "no noise", "embeddings", "both", "memory")
BLOCKS = 3


@contextmanager
def learning(model: nn.Module, way: str) -> Iterator[None]:
    """In one of `WAYS`, the memory aside."""
    with learning_from_teacher(model):
        if way in ("plain", "no noise"):
            model.get_input_embeddings().weight.requires_grad_(True)
        for module in model.modules():
            if isinstance(module, nn.Dropout) and way in ("plain", "embeddings"):
                module.p = 0.1
        yield


def steps(ways: list[str], shapes: list[tuple[int, int]], runs: int) -> dict[tuple[str, tuple[int, int]], list[float]]:
    """Seconds of CPU time of training steps, in turn; the first of each is not counted."""
    if "memory" in ways:
        keep_freed_memory()
    model = load_for_task("minilm", task_named("glue/sst2"), 2, seed=0).model.train()
    taken: dict[tuple[str, tuple[int, int]], list[float]] = {(way, shape): [] for way in ways for shape in shapes}
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for turn in range(runs + 1):
        for (way, shape), times in taken.items():
            tokens = torch.randint(1000, 30000, shape)
            with learning(model, way):
                started = time.process_time()
                step(model, optimizer, tokens)
                if turn:
                    times.append(time.process_time() - started)
            model.get_input_embeddings().weight.grad = None
    return taken


def step(model: nn.Module, optimizer: torch.optim.Optimizer, tokens: torch.Tensor) -> None:
    output = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), output_hidden_states=True)
    (output.logits.sum() + sum(states.square().mean() for states in output.hidden_states)).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="32x10,32x54", help="batch x tokens (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="steps of each in a block (default: %(default)s)")
    arguments = parser.parse_args()
    shapes = [tuple(map(int, shape.split("x"))) for shape in arguments.shapes.split(",")]
    if any(len(shape) != 2 for shape in shapes):
        sys.exit("--shapes: give batch x tokens, e.g. 32x10,32x54")
    taken: dict[tuple[str, tuple[int, int]], list[float]] = {}
    for _ in range(BLOCKS):
        for ways in (list(WAYS[:-1]), [WAYS[-1]]):
            with get_context("spawn").Pool(1) as alone:
                for key, times in alone.apply(steps, (ways, shapes, arguments.runs)).items():
                    taken.setdefault(key, []).extend(times)
    medians = {key: statistics.median(times) for key, times in taken.items()}
    rows = [
        (
            way,
            *(
                f"{1000 * medians[way, shape]:.0f} ms, {medians[way, shape] / medians['plain', shape]:.0%}"
                for shape in shapes
            ),
        )
        for way in WAYS
    ]
    result = table("One training step", ("way", *(f"{batch} x {tokens}" for batch, tokens in shapes)), rows)
    result.caption = f"CPU time; {torch.get_num_threads()} threads of {machine_name()}, torch {torch.__version__}"
    out.print(result)


if __name__ == "__main__":
    main()
