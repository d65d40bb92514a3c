"""What makes a step of a distillation cheap on a CPU, each by itself and together, in turn.

    plain        with dropout, every weight learns
    no noise     without dropout
    embeddings   the word embeddings stay as they are
    both         together: this is how a student learns from its teacher
    flash        the same with torch's flash attention, where axform computes short attention as plain products

Steps of random tokens on the packaged MiniLM, in bf16 where that is fast (elsewhere the last two are the same).

    OMP_NUM_THREADS=1 python samples/benchmarks/training_step.py --shapes 32x10,32x54
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from axform.console import out, run_app, table
from axform.core.tasks import task_named
from axform.errors import AxformError
from axform.runtime.latency import machine_name
from axform.toolchain.models import load_for_task
from axform.toolchain.precision import has_fast_bf16, in_fast_precision
from axform.toolchain.student import learning_from_teacher
from torch import nn
from transformers import PreTrainedModel

WAYS = ("plain", "no noise", "embeddings", "both", "flash")


@contextmanager
def learning(model: nn.Module, way: str) -> Iterator[None]:
    """In one of `WAYS`."""
    with learning_from_teacher(model):
        if way in ("plain", "no noise"):
            model.get_input_embeddings().weight.requires_grad_(True)
        for module in model.modules():
            if isinstance(module, nn.Dropout) and way in ("plain", "embeddings"):
                module.p = 0.1
        yield


def step(model: PreTrainedModel, optimizer: torch.optim.Optimizer, tokens: torch.Tensor, way: str) -> None:
    flash = torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bf16())
    with flash if way == "flash" else in_fast_precision(model, tokens.shape[1]):
        output = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), output_hidden_states=True)
    loss = output.logits.float().sum() + sum(states.float().square().mean() for states in output.hidden_states)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="32x10,32x54", help="batch x tokens (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=15, help="steps of each (default: %(default)s)")
    arguments = parser.parse_args()
    shapes = [tuple(map(int, shape.split("x"))) for shape in arguments.shapes.split(",")]
    if any(len(shape) != 2 for shape in shapes):
        raise AxformError(f"--shapes {arguments.shapes}: give batch x tokens, e.g. 32x10,32x54.")
    model = load_for_task("minilm", task_named("glue/sst2"), 2).model.train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    taken: dict[tuple[str, tuple[int, ...]], list[float]] = {(way, shape): [] for way in WAYS for shape in shapes}
    for turn in range(arguments.runs + 1):  # the first warms up
        for (way, shape), times in taken.items():
            with learning(model, way):
                started = time.process_time()
                step(model, optimizer, torch.randint(1000, 30000, shape), way)
                if turn:
                    times.append(time.process_time() - started)
            model.get_input_embeddings().weight.grad = None
    medians = {key: statistics.median(times) for key, times in taken.items()}
    rows = []
    for way in WAYS:
        shares = [(medians[way, shape], medians[way, shape] / medians["plain", shape]) for shape in shapes]
        rows.append((way, *(f"{1000 * seconds:.0f} ms, {share:.0%}" for seconds, share in shares)))
    result = table("One training step", ("way", *(f"{batch} x {tokens}" for batch, tokens in shapes)), rows)
    result.caption = f"CPU time; {torch.get_num_threads()} threads of {machine_name()}, torch {torch.__version__}"
    out.print(result)


if __name__ == "__main__":
    run_app(main)
