"""The ops of the domain ai.axform in float64 NumPy, written from their definition alone.

One row, one key, one bit at a time: nothing here is fast, and nothing is shared with the kernels.
Definitions: sign matching, arXiv 2010.03688v1, Algorithm 4; hard attention, arXiv 2010.03688v2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def split_heads(x: NDArray, num_heads: int) -> NDArray:
    """(batch, rows, heads * size) to (batch, heads, rows, size)."""
    batch, rows, width = x.shape
    return x.reshape(batch, rows, num_heads, width // num_heads).transpose(0, 2, 1, 3)


def join_heads(x: NDArray) -> NDArray:
    """(batch, heads, rows, size) to (batch, rows, heads * size)."""
    batch, heads, rows, size = x.shape
    return x.transpose(0, 2, 1, 3).reshape(batch, rows, heads * size)


def key_scores(q: NDArray, k: NDArray, selection: str) -> NDArray[np.int64]:
    """How well each key of a head matches the valid queries; larger is better. q: (n, d), k: (m, d)."""
    positive = (q > 0).sum(axis=0)
    key_signs = np.where(k > 0, 1, -1)
    if selection == "majority":
        majority = np.where(2 * positive >= len(q), 1, -1)
        return -(key_signs != majority).sum(axis=1)
    return key_signs @ (2 * positive - len(q))


def best(scores: NDArray[np.int64], candidates: list[int], count: int) -> list[int]:
    """The `count` best candidates; ties go to the lower index."""
    return sorted(candidates, key=lambda j: (-scores[j], j))[:count]


def select_keys(
    q: NDArray, k: NDArray, mask: NDArray[np.bool_], count: int, selection: str, causal: bool, prefix: float
) -> list[int]:
    """The real keys that a head keeps, in rising order. q: (nq, d), k: (nk, d), mask: (nk,)."""
    valid = [j for j in range(len(k)) if mask[j]]
    if len(k) <= count:
        return valid
    queries = q[mask] if len(q) == len(k) else q
    with np.errstate(invalid="ignore"):
        scores = key_scores(queries, k, selection)
    taken: list[int] = []
    if causal:
        share = float(np.float32(prefix))
        taken = best(scores, valid[: math.floor(share * len(valid))], math.floor(share * count))
    rest = [j for j in valid if j not in set(taken)]
    return sorted(taken + best(scores, rest, count - len(taken)))


def attend(q: NDArray, k: NDArray, v: NDArray, keys: list[int], scale: float) -> tuple[Array, Array]:
    """Probabilities of one query row over `keys`, and the values weighted by them."""
    if not keys:
        return np.zeros(0), np.zeros(v.shape[1])
    scores = (k[keys].astype(np.float64) @ q.astype(np.float64)) * scale
    weights = np.exp(scores - scores.max())
    probabilities = weights / weights.sum()
    return probabilities, probabilities @ v[keys].astype(np.float64)


def each_head(k: NDArray, key_mask: NDArray[np.bool_] | None) -> Iterator[tuple[int, int, NDArray[np.bool_]]]:
    """(batch, head, which keys are real) for every head. k: (b, h, nk, d), key_mask: (b, nk)."""
    for b, h in np.ndindex(k.shape[:2]):
        yield b, h, np.ones(k.shape[2], bool) if key_mask is None else key_mask[b]


def sign_matching_attention(
    q: NDArray,
    k: NDArray,
    v: NDArray,
    key_mask: NDArray[np.bool_] | None = None,
    *,
    kept: int,
    scale: float = 0.0,
    causal: bool = False,
    selection: str = "majority",
    prefix: float = 0.25,
) -> Array:
    """q (b, h, nq, d), k (b, h, nk, d), v (b, h, nk, dv), key_mask (b, nk) to (b, h, nq, dv)."""
    queries, size = q.shape[2:]
    scale = scale or 1.0 / math.sqrt(size)
    y = np.zeros((*q.shape[:3], v.shape[3]))
    for b, h, mask in each_head(k, key_mask):
        chosen = select_keys(q[b, h], k[b, h], mask, kept, selection, causal, prefix)
        for i in range(queries):
            keys = chosen
            if causal:
                own = [i] if mask[i] else []
                keys = sorted({j for j in chosen if j <= i} | set(own))
            y[b, h, i] = attend(q[b, h, i], k[b, h], v[b, h], keys, scale)[1]
    return y


def hard_attention(
    q: NDArray,
    k: NDArray,
    v: NDArray,
    key_mask: NDArray[np.bool_] | None = None,
    *,
    kept: int = 30,
    scale: float = 0.0,
    causal: bool = False,
) -> Array:
    """Shapes as in `sign_matching_attention`."""
    queries, size = q.shape[2:]
    scale = scale or 1.0 / math.sqrt(size)
    y = np.zeros((*q.shape[:3], v.shape[3]))
    for b, h, mask in each_head(k, key_mask):
        for i in range(queries):
            keys = [j for j in range(k.shape[2]) if mask[j] and (not causal or j <= i)]
            probabilities, _ = attend(q[b, h, i], k[b, h], v[b, h], keys, scale)
            order = sorted(range(len(keys)), key=lambda n: (-probabilities[n], n))
            for n in order if k.shape[2] <= kept else order[:kept]:
                y[b, h, i] += probabilities[n] * v[b, h, keys[n]].astype(np.float64)
    return y


def pack_bits(codes: NDArray[np.int8], bits: int) -> NDArray[np.uint8]:
    """Two's complement codes as a dense stream, the lowest bit first, padded to a whole byte."""
    stream = [(int(code) >> bit) & 1 for code in codes.reshape(-1) for bit in range(bits)]
    stream += [0] * (-len(stream) % 8)
    octets = [sum(bit << i for i, bit in enumerate(stream[n : n + 8])) for n in range(0, len(stream), 8)]
    return np.array(octets, np.uint8)
