"""Texts in, labels and scores out: a bundle as an application calls it, without torch or transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

from ..core.batches import EncodedSplit
from .bundle import Bundle
from .limits import positive
from .session import DEFAULT_PROVIDER, Provider, create_session, run_session
from .texts import Text, Tokenization, check_text, probabilities

__all__ = ["Client", "Prediction", "load"]


@dataclass(frozen=True)
class Prediction:
    """The answer to one text."""

    label: str
    """The likeliest one; empty for a regression."""
    score: float
    """Its probability; for a regression the value."""


def load(
    bundle: str | Path, provider: Provider = DEFAULT_PROVIDER, threads: int | None = None, batch_size: int = 32
) -> Client:
    """Open a bundle for texts.

    Args:
        bundle: the folder made by axform-export.
        provider, threads: as for `load_session`.
        batch_size: texts that are run together, of similar lengths.

    Raises:
        AxformError: no such bundle or provider, or a tokenizer that only transformers could read.
    """
    return Client(Bundle(Path(bundle)), provider, threads, batch_size)


class Client:
    """A model with its tokenizer and its labels."""

    def __init__(self, bundle: Bundle, provider: Provider, threads: int | None, batch_size: int) -> None:
        self._batch_size = positive("batch_size", batch_size)
        self._session = create_session(bundle.model, provider, threads)
        self._tokenization = Tokenization(bundle, [entry.name for entry in self._session.get_inputs()])
        self._output = self._session.get_outputs()[0].name
        self.labels: tuple[str, ...] = tuple(bundle.manifest.labels)
        """What the columns of `scores` stand for; empty for a regression."""

    @overload
    def __call__(self, texts: Text) -> Prediction: ...
    @overload
    def __call__(self, texts: list[str] | list[tuple[str, str]]) -> list[Prediction]: ...
    def __call__(self, texts: Text | Sequence[Text]) -> Prediction | list[Prediction]:
        """The answer to a text or a pair, or to each of several.

        Raises:
            AxformError: something is neither.
        """
        if isinstance(texts, str | tuple):
            return self._predictions([texts])[0]
        return self._predictions(list(texts))

    def scores(self, texts: Sequence[Text]) -> np.ndarray:
        """The probability of each label, (texts, labels) float32; for a regression the values, (texts, 1)."""
        return probabilities(self.logits(texts), self.labels)

    def logits(self, texts: Sequence[Text]) -> np.ndarray:
        """What the model itself answers, (texts, outputs) float32, in the order of the texts."""
        if not len(texts):
            return np.zeros((0, max(1, len(self.labels))), np.float32)
        for number, text in enumerate(texts):
            check_text(number, text)
        features = self._tokenization.encode(texts)
        rows = EncodedSplit(features, np.zeros(len(texts), np.int64), self._tokenization.pad_values)
        return rows.run(self._batch_size, lambda batch: run_session(self._session, [self._output], batch)[0])

    def _predictions(self, texts: list[Text]) -> list[Prediction]:
        scores = self.scores(texts)
        if not self.labels:
            return [Prediction("", float(row[0])) for row in scores]
        best = scores.argmax(axis=1)
        return [Prediction(self.labels[index], float(row[index])) for index, row in zip(best, scores, strict=True)]
