"""Inputs to time a model on, made from what its session says of them."""

from __future__ import annotations

from collections.abc import Sequence
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
        AxformError: an input of a type that nothing is known of, or a file that runs at other sizes whatever is asked for.
    """
    _check_sizes(session.get_inputs(), batch, sequence)
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


def _check_sizes(inputs: Sequence[Any], batch: int, sequence: int) -> None:
    """Refuse a shape that fixed sizes would silently replace by another one."""
    rows = [entry.shape[0] for entry in inputs if entry.shape]
    tokens = [entry.shape[1] for entry in inputs if entry.name == "input_ids" and len(entry.shape) == 2]
    for flag, asked, sizes in (("--batch", batch, rows), ("--seq", sequence, tokens)):
        if sizes and all(isinstance(size, int) for size in sizes) and asked not in sizes:
            raise AxformError(f"{flag} {asked}: the model takes {sizes[0]} and nothing else; give {flag} {sizes[0]}.")
