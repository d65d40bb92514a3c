"""Does a closed-form repair help, before a distillation and after it?

Two repairs of a fine-tuned baseline, both least squares on activations of train rows, tokens weighted as the LayerNorm
after the block weights them:

    blocks    a skipped block's LayerNorm gets the weight and bias that bring its output nearest to what it was
    inside    of a block that loses half of its heads or groups, the output projection is solved anew for those that stay

The second is taken only where it lowers the loss, layer by layer, and is followed by the same distillation with and
without it.

    python samples/benchmarks/repair.py runs/sst2 --rows 4000 --epochs 2
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
import torch
from axform.console import note, out, table
from axform.core.batches import EncodedSplit
from axform.core.metrics import compute_metric
from axform.core.plan import ApproximationPlan
from axform.core.targets import BlockKind, Target
from axform.core.tasks import Task
from axform.toolchain.apply import apply_plan, layers_of
from axform.toolchain.data import encode, settle_task_data
from axform.toolchain.evaluation import predict
from axform.toolchain.finetune import fine_tune
from axform.toolchain.losses import task_loss
from axform.toolchain.models import LoadedModel, load_fine_tuned
from axform.toolchain.options import FineTuneOptions
from axform.toolchain.run_folder import RunFolder
from axform.toolchain.teacher import Committee, recorded
from torch import Tensor, nn

_BATCH = 32
_RIDGE = 0.1
"""Times the mean square of the features, towards the weights as they are."""


@dataclass
class Block:
    """The modules of one block of a BERT-like layer."""

    reads: nn.Module
    projection: nn.Linear
    norm: nn.LayerNorm


def block_of(loaded: LoadedModel, target: Target) -> Block:
    layer, family = layers_of(loaded.model, loaded.family)[target.layer], loaded.family
    if target.kind == "attn":
        norm = layer.get_submodule(family.attention_output.rsplit(".", 1)[0]).LayerNorm
        return Block(layer.get_submodule(family.query), layer.get_submodule(family.attention_output), norm)
    norm = layer.get_submodule(family.down.rsplit(".", 1)[0]).LayerNorm
    return Block(layer.get_submodule(family.up), layer.get_submodule(family.down), norm)


def seen(loaded: LoadedModel, split: EncodedSplit, module: nn.Module, what: Callable[..., Tensor]) -> Tensor:
    """What a module reads or gives for every real token, (tokens, features)."""
    found: list[Tensor] = []
    real: list[Tensor] = []
    hook = module.register_forward_hook(lambda _, inputs, output: found.append(what(inputs, output)[real[-1]]))
    with torch.inference_mode():
        for _, batch in split.batches(_BATCH):
            inputs = {name: torch.from_numpy(value) for name, value in batch.items()}
            real.append(inputs[loaded.family.attention_mask].bool())
            loaded.model(**inputs)
    hook.remove()
    return torch.cat(found).double()


def read(inputs: tuple[Tensor, ...], _: Tensor) -> Tensor:
    return inputs[0]


def given(_: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output


def refit_norm(loaded: LoadedModel, split: EncodedSplit, block: Block) -> None:
    """Weight and bias of the LayerNorm for the block input alone, each feature by itself."""
    stream = seen(loaded, split, block.reads, read)
    norm, shape = block.norm, stream.shape[-1:]
    both = stream + seen(loaded, split, block.projection, given)
    wanted = nn.functional.layer_norm(both, shape, norm.weight.data.double(), norm.bias.data.double(), norm.eps)
    normal = nn.functional.layer_norm(stream, shape, eps=norm.eps)
    spread = normal - normal.mean(0)
    weight = (spread * (wanted - wanted.mean(0))).mean(0) / spread.square().mean(0)
    norm.weight.data = weight.float()
    norm.bias.data = (wanted.mean(0) - weight * normal.mean(0)).float()


def refit_projection(loaded: LoadedModel, teacher: LoadedModel, split: EncodedSplit, target: Target, kept: list[int]):
    """Weights and bias of the output projection that give, of the features that stay, what the teacher's block gives."""
    ours, theirs = block_of(loaded, target), block_of(teacher, target)
    features = seen(loaded, split, ours.projection, read)[:, kept]
    wanted = seen(teacher, split, theirs.projection, given)
    share = 1 / (seen(teacher, split, theirs.reads, read) + wanted).var(-1)
    features = torch.cat([features, torch.ones(len(features), 1, dtype=features.dtype)], 1)
    weighted = features * share[:, None]
    gram, right = weighted.T @ features, weighted.T @ wanted
    ridge = _RIDGE * gram.diagonal()[:-1].mean()
    gram.diagonal()[:-1] += ridge
    right[:-1] += ridge * ours.projection.weight.data[:, kept].T
    solved = torch.linalg.solve(gram, right).float()
    weight = torch.zeros_like(ours.projection.weight.data)
    weight[:, kept] = solved[:-1].T
    return weight, solved[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder of a BERT; its fine-tuned baseline is repaired")
    parser.add_argument("--rows", type=int, default=4000, help="train rows of the distillation (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=2, help="of the distillation (default: %(default)s)")
    parser.add_argument("--fit-rows", type=int, default=300, help="train rows to fit on (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    arguments = parser.parse_args()
    run = RunFolder(arguments.run)
    options = run.read_options()
    torch.set_num_threads(options.threads or torch.get_num_threads())
    data = settle_task_data(options)
    task, teacher = data.task, load_fine_tuned(run.baseline)
    length = teacher.max_length(options.max_length or task.max_length)
    selection, fitting, training, unseen = (
        encode(task, rows, teacher.tokenizer, teacher.inputs, length)
        for rows in (data.selection, data.train[: arguments.fit_rows], data.train[: arguments.rows], data.acceptance)
    )
    empty = ApproximationPlan.empty(teacher.identity(), run.round(0).read_plan().group_size)
    whole = loss_of(teacher, empty, task, selection)

    rows = []
    for layer in range(teacher.shape.num_layers):
        kinds: tuple[BlockKind, ...] = ("attn", "ffn")
        for kind in kinds:
            target, repaired = Target(layer, kind), load_fine_tuned(run.baseline)
            plan = empty.without(target)
            refit_norm(repaired, fitting, block_of(repaired, target))
            losses = (loss_of(model, plan, task, selection) / whole for model in (teacher, repaired))
            rows.append([str(target), *(f"x{loss:.3f}" for loss in losses)])
            note(" ".join(rows[-1]))
    out.print(table(f"loss without one block, {len(selection)} rows", ["block", "skipped", "LayerNorm refitted"], rows))

    plan = empty
    for target in empty.grid.targets():
        if target.granularity == 1 and 2 * (target.index or 0) >= empty.grid.count(target.kind):
            plan = plan.without(target)
    rows = []
    for name in ("plain", "repaired"):
        student = load_fine_tuned(run.baseline)
        if name == "repaired":
            repair_inside(student, teacher, plan, task, selection, fitting)
        rows.append([f"{name}, before", *told(student, teacher, plan, task, unseen)])
        with tempfile.TemporaryDirectory() as folder, apply_plan(student.model, plan):
            asked = recorded(Committee(teacher), training, _BATCH)
            how = FineTuneOptions(epochs=arguments.epochs, learning_rate=arguments.learning_rate)
            fine_tune(student, task, training, selection, how, Path(folder), teacher=asked)
        rows.append([f"{name}, distilled", *told(student, teacher, plan, task, unseen)])
        note(" ".join(rows[-1]))
    columns = ["half of all heads and groups gone", "loss", task.metric, "distance to the teacher's logits"]
    out.print(table(f"{len(unseen)} unseen rows, {arguments.epochs} x {len(training)} rows distilled", columns, rows))


def repair_inside(
    student: LoadedModel,
    teacher: LoadedModel,
    plan: ApproximationPlan,
    task: Task,
    selection: EncodedSplit,
    fitting: EncodedSplit,
) -> None:
    for layer, mine in enumerate(plan.layers):
        for block, kind in (("attn", "attn.head"), ("ffn", "ffn.group")):
            target, projection = Target(layer, block), block_of(student, Target(layer, block)).projection
            before = loss_of(student, plan, task, selection)
            was = projection.weight.data, projection.bias.data
            with apply_plan(student.model, plan):
                weight, bias = refit_projection(student, teacher, fitting, target, mine.kept(kind))
            projection.weight.data, projection.bias.data = weight, bias
            after = loss_of(student, plan, task, selection)
            if after > before:
                projection.weight.data, projection.bias.data = was
            note(f"{target}: loss {before:.4f} -> {after:.4f}")


def loss_of(loaded: LoadedModel, plan: ApproximationPlan, task: Task, split: EncodedSplit) -> float:
    with apply_plan(loaded.model, plan):
        logits = predict(loaded, split, _BATCH)
    return task_loss(task, torch.from_numpy(logits), torch.from_numpy(split.labels)).item()


def told(student: LoadedModel, teacher: LoadedModel, plan: ApproximationPlan, task: Task, split: EncodedSplit):
    with apply_plan(student.model, plan):
        logits = predict(student, split, _BATCH)
    loss = task_loss(task, torch.from_numpy(logits), torch.from_numpy(split.labels)).item()
    distance = np.sqrt(np.square(logits - predict(teacher, split, _BATCH)).mean())
    return [f"{loss:.4f}", f"{compute_metric(task.metric, logits, split.labels):.4f}", f"{distance:.4f}"]


if __name__ == "__main__":
    main()
