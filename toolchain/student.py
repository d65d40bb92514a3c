"""How a model learns from a teacher: without dropout, and with the word embeddings as they are.

What the student is to give is known to the last hidden state, so noise only blurs it; and the embeddings, half of a
small model and a dense gradient in every step, are the teacher's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers import PreTrainedModel

__all__ = ["learning_from_teacher"]


@contextmanager
def learning_from_teacher(model: PreTrainedModel) -> Iterator[None]:
    """Train like that inside the block; afterwards the model is as before, but for what it learnt."""
    dropouts = {module: module.p for module in model.modules() if isinstance(module, nn.Dropout)}
    embeddings = model.get_input_embeddings().weight
    learns = embeddings.requires_grad
    try:
        embeddings.requires_grad_(False)
        for module in dropouts:
            module.p = 0.0
        yield
    finally:
        embeddings.requires_grad_(learns)
        for module, share in dropouts.items():
            module.p = share
