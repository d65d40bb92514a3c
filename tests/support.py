"""Tiny models, a tiny tokenizer and random plans for the tests."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from axform import cli
from axform.core.families import family_of, shape_of
from axform.core.plan import ApproximationPlan, Bits, ModelIdentity, Remove, Selection, SignMatching
from axform.core.targets import Grid, Target, TargetKind
from axform.toolchain.models import LoadedModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

FAMILIES = ("bert", "roberta", "electra", "distilbert")
GOOD, BAD = ["great", "lovely", "superb", "warm", "bright", "fine"], ["awful", "dull", "bleak", "poor", "cold", "stale"]
FILLER = [
    "the",
    "film",
    "a",
    "story",
    "was",
    "with",
    "and",
    "its",
    "cast",
    "plot",
    "scene",
    "music",
    "ending",
    "very",
    "quite",
    "rather",
    "so",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def tiny_tokenizer(with_segments: bool = True) -> Any:
    words = [*SPECIAL, *GOOD, *BAD, *FILLER]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    inputs = ["input_ids", "token_type_ids", "attention_mask"] if with_segments else ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=inputs,
        model_max_length=64,
    )


def tiny_config(family: str, layers: int = 2, num_labels: int = 2) -> Any:
    sizes: dict[str, Any] = {
        "vocab_size": 64,
        "max_position_embeddings": 66,
        "num_labels": num_labels,
        "pad_token_id": 0,
    }
    if family == "distilbert":
        sizes |= {"dim": 32, "n_layers": layers, "n_heads": 4, "hidden_dim": 64}
    else:
        sizes |= {
            "hidden_size": 32,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "embedding_size": 16,
        }
    return AutoConfig.for_model(family, **sizes)


def tiny_model(family: str, layers: int = 2, num_labels: int = 2, seed: int = 0, std: float = 0.25) -> LoadedModel:
    """A random model; by default with weights large enough for every part to matter to the logits."""
    torch.manual_seed(seed)
    config = tiny_config(family, layers, num_labels)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="sdpa").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name.lower():
                parameter.normal_(std=std)
    described = family_of(config)
    return LoadedModel(
        model, tiny_tokenizer(family in ("bert", "electra")), described, shape_of(config, described), True
    )


def save_tiny(
    folder: Path, family: str = "bert", layers: int = 2, num_labels: int = 2, architecture: str | None = None
) -> Path:
    """Save a tiny checkpoint; ``architecture`` overwrites the one in its config."""
    loaded = tiny_model(family, layers, num_labels)
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    if architecture is not None:
        config = AutoConfig.from_pretrained(folder)
        config.architectures = [architecture]
        config.save_pretrained(folder)
    return folder


def save_pretrained_only(folder: Path, family: str = "bert", layers: int = 2) -> Path:
    """Save a checkpoint without a task head, with weights from which training starts well."""
    loaded = tiny_model(family, layers, std=0.05)
    getattr(loaded.model, loaded.family.base_model).save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder


def sentiment_rows(count: int, seed: int = 0) -> pd.DataFrame:
    """Sentences whose label is the majority of good or bad words, of 3 to 30 words."""
    generator = random.Random(seed)
    rows = []
    for _ in range(count):
        label = generator.randrange(2)
        marked = generator.choices(GOOD if label else BAD, k=generator.randint(1, 3))
        words = marked + generator.choices(FILLER, k=generator.randint(2, 27))
        generator.shuffle(words)
        rows.append((" ".join(words), label))
    return pd.DataFrame(rows, columns=["sentence", "label"])


def save_sentiment(folder: Path, train: int = 400, validation: int = 80) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    sentiment_rows(train, 1).to_parquet(folder / "train.parquet")
    sentiment_rows(validation, 2).to_parquet(folder / "validation.parquet")
    return folder


def plan_of(model: ModelIdentity, group_size: int, *lines: str, **settings: Any) -> ApproximationPlan:
    """A plan whose lines are addresses to remove, or ``layer.0.attn k selection`` for sign matching."""
    parts: list[Any] = []
    for line in lines:
        address, *rest = line.split()
        parts.append(
            SignMatching(target=address, k=int(rest[0]), selection=rest[1]) if rest else Remove(target=address)
        )
    return ApproximationPlan(model=model, group_size=group_size, parts=tuple(parts), **settings)


def random_plan(
    loaded: LoadedModel, generator: random.Random, selections: tuple[Selection, ...] = ("majority", "count")
) -> ApproximationPlan:
    """Random skips, heads, groups and sign matching in every layer."""
    grid = Grid(loaded.shape, 8)
    selection = generator.choice(selections)
    lines: list[str] = []

    def some(layer: int, kind: TargetKind) -> None:
        count = grid.count(kind)
        chosen = generator.sample(range(count), generator.randrange(count)) if generator.random() < 0.6 else []
        lines.extend(str(Target(layer, kind, index)) for index in chosen)

    for layer in range(loaded.shape.num_layers):
        skipped = [block for block in ("attn", "ffn") if generator.random() < 0.25]
        lines.extend(f"layer.{layer}.{block}" for block in skipped)
        if "attn" not in skipped:
            some(layer, "attn.head")
            some(layer, "attn.in.group")
            if generator.random() < 0.5:
                lines.append(f"layer.{layer}.attn {generator.randint(1, 12)} {selection}")
        if "ffn" not in skipped:
            some(layer, "ffn.group")
    return plan_of(loaded.identity(), grid.group_size, *lines)


def random_bits(plan: ApproximationPlan, generator: random.Random, share: float = 0.4) -> ApproximationPlan:
    """The plan with bits for so many of the parts that it leaves, in groups that need not divide a dimension."""
    left = [target for target in plan.grid.targets() if target.kind != "attn.in.group" and not plan.removes(target)] + [
        Target.outside("embeddings.word"),
        Target.outside("rest"),
    ]
    for target in left:
        if generator.random() < share:
            group = generator.choice([None, None, 8, 12, 16])
            plan = plan.with_part(Bits(target=target, bits=generator.randint(2, 8), group=group))
    return plan


def random_batch(
    loaded: LoadedModel, generator: random.Random, sizes: tuple[int, int] | None = None
) -> dict[str, torch.Tensor]:
    """Padded token batches, (batch, sequence), the first row unpadded."""
    batch, sequence = sizes or (generator.randint(1, 5), generator.randint(1, 40))
    seed = torch.Generator().manual_seed(generator.randrange(1 << 30))
    inputs = {}
    lengths = torch.randint(1, sequence + 1, (batch,), generator=seed)
    lengths[0] = sequence
    mask = (torch.arange(sequence)[None] < lengths[:, None]).long()
    for name in loaded.inputs:
        if name == "input_ids":
            inputs[name] = torch.randint(4, 60, (batch, sequence), generator=seed) * mask
        elif name == "attention_mask":
            inputs[name] = mask
        else:
            inputs[name] = torch.randint(0, 2, (batch, sequence), generator=seed) * mask
    return inputs


def cpu_session(proto: Any, with_library: bool = False, **options: Any) -> Any:
    """A session on a valid model: plain, which runs function bodies, or with the op library where it was built.

    Args:
        options: attributes of onnxruntime's SessionOptions.
    """
    import onnx
    import onnxruntime
    from axform import custom_ops

    onnx.checker.check_model(proto, full_check=True)
    chosen = onnxruntime.SessionOptions()
    for name, value in options.items():
        setattr(chosen, name, value)
    if with_library and custom_ops.is_available():
        custom_ops.register(chosen)
    return onnxruntime.InferenceSession(proto.SerializeToString(), chosen, providers=["CPUExecutionProvider"])


def run_command(capsys: pytest.CaptureFixture[str], *arguments: Any, app: Any = cli) -> tuple[Any, Any]:
    """Run a command in this process: (exit code, what it printed)."""
    old, sys.argv = sys.argv, ["axform", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as stop:
            app.main()
    finally:
        sys.argv = old
    return stop.value.code, capsys.readouterr()
