"""What a distillation learns from: one model or several, asked in every step, or recorded once for all epochs and rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..core.batches import EncodedSplit
from .evaluation import to_device
from .models import LoadedModel
from .precision import in_fast_precision
from .threads import timed_step

__all__ = ["Answers", "Committee", "Teacher", "teacher_of"]

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
    answers_anything: bool
    """Also about inputs that are not rows of the split, which then make a better lesson (`TokenNoise`)."""

    def answer(self, rows: Tensor, inputs: dict[str, Tensor]) -> Answers:
        """Of the samples with these row numbers, (batch,), padded on the right to these inputs."""
        ...


def teacher_of(
    loaded: LoadedModel,
    split: EncodedSplit,
    batch_size: int,
    on_step: Callable[[int, int], None] = lambda done, total: None,
    most_bytes: int = _MOST_BYTES,
) -> Teacher:
    """A teacher for the split: recorded where its hidden states fit into ``most_bytes``.

    Its answers depend on the split and ``batch_size`` alone, in whatever order they are asked for.
    """
    layers, width = loaded.shape.num_layers, loaded.shape.hidden_size
    if 2 * layers * width * int(split.lengths.sum()) > most_bytes:
        return _AskedTeacher(loaded)
    return _RecordedTeacher(loaded, split, batch_size, on_step)


class Committee:
    """Several models of one task and one tokenizer; the first is the one whose hidden states count.

    Their logits are averaged, which is to average the logarithms of their probabilities.
    """

    answers_anything = True

    def __init__(self, first: LoadedModel, others: Sequence[LoadedModel]) -> None:
        self._first = _AskedTeacher(first)
        self._others = [_AskedTeacher(other) for other in others]

    def answer(self, rows: Tensor, inputs: dict[str, Tensor]) -> Answers:
        first = self._first.answer(rows, inputs)
        logits = [first.logits, *(other.logits(inputs) for other in self._others)]
        return Answers(torch.stack(logits).mean(0), first.hidden_states)


class _AskedTeacher:
    answers_anything = False
    """It could, but the student learns the same from recorded answers, which cost nothing."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._model = loaded.model.eval()
        self._key_mask = loaded.family.attention_mask

    def logits(self, inputs: dict[str, Tensor]) -> Tensor:
        """Without hidden states, (batch, labels) float32."""
        return self._run(inputs).logits.float()

    @torch.no_grad()
    def _run(self, inputs: dict[str, Tensor], **options: bool) -> Any:
        with in_fast_precision(self._model, inputs["input_ids"].shape[1]):
            return self._model(**inputs, **options)

    def answer(self, rows: Tensor, inputs: dict[str, Tensor]) -> Answers:
        outputs = self._run(inputs, output_hidden_states=True)
        real = inputs[self._key_mask].bool()
        return Answers(outputs.logits.float(), [states[real] for states in outputs.hidden_states[1:]])


class _RecordedTeacher:
    """Logits in float32, hidden states in bf16, all tokens of the split in one tensor for each layer."""

    answers_anything = False

    def __init__(
        self, loaded: LoadedModel, split: EncodedSplit, batch_size: int, on_step: Callable[[int, int], None]
    ) -> None:
        asked, lengths = _AskedTeacher(loaded), split.lengths
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
                answers = asked.answer(torch.from_numpy(rows), inputs)
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
