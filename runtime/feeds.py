"""Inputs to time a model on, made from what its session says of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import AxformError

__all__ = ["ANY_TOKENS", "input_types", "random_feeds"]

ANY_TOKENS = np.arange(32)
"""Ids that every vocabulary has, for models of which nothing else is known."""

_TYPES = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(bool)": np.bool_,
}


def input_types(session: Any) -> dict[str, str]:
    """Input name -> its type, such as tensor(int64)."""
    return {entry.name: entry.type for entry in session.get_inputs()}


def random_feeds(session: Any, batch: int, sequence: int, vocabulary: np.ndarray) -> dict[str, np.ndarray]:
    """One batch in which every position is real, by input name.

    A first dimension without a size is the batch, any other one the sequence. Token ids are drawn from
    ``vocabulary``, masks are ones, other whole numbers zeros, floating-point inputs from a normal distribution.

    Raises:
        AxformError: an input of a type that nothing is known of.
    """
    random = np.random.default_rng(0)
    feeds = {}
    for entry in session.get_inputs():
        if entry.type not in _TYPES:
            raise AxformError(f"input {entry.name} is a {entry.type}; only {', '.join(_TYPES)} can be made up.")
        shape = [
            size if isinstance(size, int) else batch if axis == 0 else sequence for axis, size in enumerate(entry.shape)
        ]
        kind = np.dtype(_TYPES[entry.type])
        if entry.name == "input_ids":
            values = random.choice(vocabulary, shape)
        elif "mask" in entry.name or kind.kind == "b":
            values = np.ones(shape)
        elif kind.kind == "f":
            values = random.standard_normal(shape)
        else:
            values = np.zeros(shape)
        feeds[entry.name] = values.astype(kind)
    return feeds
