"""Inputs with some tokens replaced, for which several teachers have an answer and labels have none.

On the rows that they were trained on, teachers agree with the labels and with each other. What they know beyond that
shows on inputs that none of them has seen.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from ..core.batches import EncodedSplit

__all__ = ["TokenNoise"]

_NOISY_ROWS = 0.7
"""Share of a batch's rows that are changed; the others stay what a task really asks."""
_REPLACED = 0.15
"""Share of their tokens that are replaced."""


class TokenNoise:
    """Puts tokens of other rows in place of some, each as often as the split has it; special tokens stay.

    Args:
        special: ids that are neither replaced nor put anywhere.
    """

    def __init__(self, split: EncodedSplit, special: Collection[int], seed: int) -> None:
        tokens = np.concatenate(list(split.features["input_ids"]))
        self._tokens = tokens[~np.isin(tokens, list(special))]
        self._special = list(special)
        self._seed = seed

    def __call__(self, inputs: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """The padded batch with other ``input_ids``, (batch, sequence); of a step always the same ones."""
        if not len(self._tokens):
            return inputs
        random = np.random.default_rng((self._seed, step))
        tokens = inputs["input_ids"].numpy(force=True).copy()
        rows = random.random((len(tokens), 1)) < _NOISY_ROWS
        replaced = rows & (random.random(tokens.shape) < _REPLACED) & ~np.isin(tokens, self._special)
        tokens[replaced] = random.choice(self._tokens, int(replaced.sum()))
        return {**inputs, "input_ids": torch.from_numpy(tokens).to(inputs["input_ids"].device)}
