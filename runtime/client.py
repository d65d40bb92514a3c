"""Texts in, labels and scores out: a bundle as an application calls it, without torch or transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np

from ..core.batches import EncodedSplit
from ..errors import AxformError
from .bundle import Bundle
from .limits import positive
from .session import DEFAULT_PROVIDER, Provider, create_session, run_session

__all__ = ["Client", "Prediction", "load"]

Text: TypeAlias = str | tuple[str, str]
"""One text, or a pair of them."""
_PARTS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
"""What a model may ask for, and what the tokenizers library calls it."""
_SHOWN = 40
"""Characters of a wrong input that an error repeats."""


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
        self._tokenizer = _read_tokenizer(bundle)
        self._session = create_session(bundle.model, provider, threads)
        self._inputs = [entry.name for entry in self._session.get_inputs()]
        unknown = [name for name in self._inputs if name not in _PARTS]
        if unknown:
            raise AxformError(
                f"{bundle.model}: asks for {unknown[0]}, which is not made of texts; run its session yourself."
            )
        self._output = self._session.get_outputs()[0].name
        self._pad_values = dict.fromkeys(self._inputs, 0) | {"input_ids": _pad_token(bundle, self._tokenizer)}
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
        logits = self.logits(texts)
        if not self.labels:
            return logits
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    def logits(self, texts: Sequence[Text]) -> np.ndarray:
        """What the model itself answers, (texts, outputs) float32, in the order of the texts."""
        if not len(texts):
            return np.zeros((0, max(1, len(self.labels))), np.float32)
        for number, text in enumerate(texts):
            _check(number, text)
        encodings = self._tokenizer.encode_batch(list(texts))
        features = {
            name: [np.array(getattr(encoding, _PARTS[name]), np.int64) for encoding in encodings]
            for name in self._inputs
        }
        rows = EncodedSplit(features, np.zeros(len(texts), np.int64), self._pad_values)
        return rows.run(self._batch_size, lambda batch: run_session(self._session, [self._output], batch)[0])

    def _predictions(self, texts: list[Text]) -> list[Prediction]:
        scores = self.scores(texts)
        if not self.labels:
            return [Prediction("", float(row[0])) for row in scores]
        best = scores.argmax(axis=1)
        return [Prediction(self.labels[index], float(row[index])) for index, row in zip(best, scores, strict=True)]


def _check(number: int, text: object) -> None:
    parts = text if isinstance(text, tuple) else (text,)
    if not all(isinstance(part, str) for part in parts) or len(parts) != (2 if isinstance(text, tuple) else 1):
        raise AxformError(f"text {number}: {repr(text)[:_SHOWN]} is neither a text nor a pair of texts; give strings.")


def _read_tokenizer(bundle: Bundle) -> Any:
    from tokenizers import Tokenizer

    path = bundle.path / "tokenizer.json"
    if not path.is_file():
        raise AxformError(
            f"{path}: is missing, so that only transformers can make tokens for this model; use load_session."
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain exceptions
        raise AxformError(f"{path}: cannot be read ({error}); export again with axform-export.") from None
    tokenizer.no_padding()
    tokenizer.enable_truncation(bundle.manifest.max_length)
    return tokenizer


def _pad_token(bundle: Bundle, tokenizer: Any) -> int:
    config = bundle.path / "tokenizer_config.json"
    token = json.loads(config.read_text(encoding="utf-8")).get("pad_token") if config.is_file() else None
    name = token.get("content") if isinstance(token, dict) else token
    found = None if name is None else tokenizer.token_to_id(name)
    return 0 if found is None else int(found)
