"""Texts as a model takes them: tokens by the bundle's own tokenizer, and labels by what the model answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from ..errors import AxformError
from ..files import read_json
from .bundle import Bundle

__all__ = ["Text", "Tokenization", "check_text", "probabilities"]

Text: TypeAlias = str | tuple[str, str]
"""One text, or a pair of them."""
_PARTS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
"""What a model may ask for, and what the tokenizers library calls it."""
_SHOWN = 40
"""Characters of a wrong input that an error repeats."""


class Tokenization:
    """Makes a model's inputs of texts.

    Args:
        inputs: names of the model's inputs.

    Raises:
        AxformError: a tokenizer that only transformers could read, or an input that is not made of texts.
    """

    def __init__(self, bundle: Bundle, inputs: Sequence[str]) -> None:
        self._inputs = tuple(inputs)
        config = _read_config(bundle)
        self._tokenizer = _read_tokenizer(bundle, is_cut_left=config.get("truncation_side") == "left")
        unknown = [name for name in inputs if name not in _PARTS]
        if unknown:
            raise AxformError(
                f"{bundle.model}: asks for {unknown[0]}, which is not made of texts; run its session yourself."
            )
        self.pad_values: dict[str, int] = dict.fromkeys(inputs, 0) | {"input_ids": _pad_token(config, self._tokenizer)}
        """Input name -> the value of padded positions."""

    def encode(self, texts: Sequence[Text]) -> dict[str, list[np.ndarray]]:
        """Input name -> one int64 array (tokens,) per text, unpadded and cut at the bundle's length."""
        encodings = self._tokenizer.encode_batch(list(texts))
        return {
            name: [np.array(getattr(encoding, _PARTS[name]), np.int64) for encoding in encodings]
            for name in self._inputs
        }


def probabilities(logits: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """The probability of each label, (texts, labels); without labels the values of a regression as they are."""
    if not labels:
        return logits
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def check_text(number: int, text: object) -> None:
    """Refuse what is neither a text nor a pair.

    Raises:
        AxformError: with the place and the beginning of it.
    """
    parts = text if isinstance(text, tuple) else (text,)
    if not all(isinstance(part, str) for part in parts) or len(parts) != (2 if isinstance(text, tuple) else 1):
        raise AxformError(f"text {number}: {repr(text)[:_SHOWN]} is neither a text nor a pair of texts; give strings.")


def _read_config(bundle: Bundle) -> dict[str, Any]:
    """What transformers knows of the tokenizer beside the tokenizer's own file."""
    path = bundle.path / "tokenizer_config.json"
    config: dict[str, Any] = read_json(path, "export again with axform-export") if path.is_file() else {}
    return config


def _read_tokenizer(bundle: Bundle, *, is_cut_left: bool) -> Any:
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
    tokenizer.enable_truncation(bundle.manifest.max_length, direction="left" if is_cut_left else "right")
    return tokenizer


def _pad_token(config: dict[str, Any], tokenizer: Any) -> int:
    token = config.get("pad_token")
    name = token.get("content") if isinstance(token, dict) else token
    found = None if name is None else tokenizer.token_to_id(name)
    return 0 if found is None else int(found)
