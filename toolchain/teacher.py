"""What a distillation learns from: one model or several, asked in every step, or recorded once for all epochs and rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..core.batches import EncodedSplit
from .evaluation import to_device
from .models import LoadedModel
from .precision import in_fast_precision
from .threads import timed_step

__all__ = ["Answers", "Committee", "Teacher", "recorded"]

_MOST_BYTES = 4 << 30
"""Of recorded hidden states; a larger split is asked for again in every step."""


@dataclass(frozen=True)
class Answers:
    """What the teacher says of a batch."""

    logits: Tensor
    """(batch, labels), float32."""
    hidden_states: Sequence[Tensor]
    """After each layer, of the real tokens of one sample after the other, (tokens, hidden size)."""


class Teacher(Protocol):
    def answer(self, rows: Tensor, inputs: dict[str, Tensor]) -> Answers:
        """Of the samples with these row numbers, (batch,), padded on the right to these inputs."""
        ...


class Committee:
    """Several models of one task and one tokenizer, or one, asked in every step about whatever the inputs are.

    The first is the one whose hidden states count. Logits are averaged, which is to average the logarithms of their
    probabilities.
    """

    def __init__(self, first: LoadedModel, others: Sequence[LoadedModel] = ()) -> None:
        self.first = first
        self._others = [other.model.eval() for other in others]
        first.model.eval()

    @torch.no_grad()
    def answer(self, rows: Tensor, inputs: dict[str, Tensor]) -> Answers:
        outputs = _run(self.first.model, inputs, output_hidden_states=True)
        real = inputs[self.first.family.attention_mask].bool()
        logits = [outputs.logits, *(_run(other, inputs).logits for other in self._others)]
        states = [states[real] for states in outputs.hidden_states[1:]]
        return Answers(torch.stack([one.float() for one in logits]).mean(0), states)


def _run(model: PreTrainedModel, inputs: dict[str, Tensor], **options: bool) -> Any:
    with in_fast_precision(model, inputs["input_ids"].shape[1]):
        return model(**inputs, **options)


def recorded(
    committee: Committee,
    split: EncodedSplit,
    batch_size: int,
    on_step: Callable[[int, int], None] = lambda done, total: None,
    most_bytes: int = _MOST_BYTES,
) -> Teacher:
    """The committee's answers to a split, or itself where the hidden states need more than ``most_bytes``.

    The answers depend on the split and ``batch_size`` alone, in whatever order they are asked for.
    """
    shape = committee.first.shape
    if 2 * shape.num_layers * shape.hidden_size * int(split.lengths.sum()) > most_bytes:
        return committee
    return _RecordedTeacher(committee, split, batch_size, on_step)


class _RecordedTeacher:
    """Logits in float32, hidden states in bf16, all tokens of the split in one tensor for each layer."""

    def __init__(
        self, committee: Committee, split: EncodedSplit, batch_size: int, on_step: Callable[[int, int], None]
    ) -> None:
        loaded, lengths = committee.first, split.lengths
        self._device = next(loaded.model.parameters()).device
        self._ends = np.cumsum(lengths)
        self._starts = self._ends - lengths
        size = (int(self._ends[-1]), loaded.shape.hidden_size)
        self._states = [torch.empty(size, dtype=torch.bfloat16) for _ in range(loaded.shape.num_layers)]
        self._logits = torch.empty(len(split), loaded.model.config.num_labels)
        done = 0
        for rows, batch in split.batches(batch_size):
            inputs = to_device(batch, self._device)
            with timed_step("teacher", next(iter(batch.values())).size):
                answers = committee.answer(torch.from_numpy(rows), inputs)
            tokens = self._tokens(rows)
            for kept, states in zip(self._states, answers.hidden_states, strict=True):
                kept[tokens] = states.to("cpu", torch.bfloat16)
            self._logits[rows] = answers.logits.cpu()
            done += len(rows)
            on_step(done, len(split))

    def answer(self, rows: Tensor, inputs: dict[str, Tensor]) -> Answers:
        tokens = self._tokens(rows.numpy(force=True))
        states = [kept[tokens].to(self._device).float() for kept in self._states]
        return Answers(self._logits[rows.cpu()].to(self._device), states)

    def _tokens(self, rows: np.ndarray) -> Tensor:
        spans = [np.arange(self._starts[row], self._ends[row]) for row in rows]
        return torch.from_numpy(np.concatenate(spans))
