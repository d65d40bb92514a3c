"""Rows that are as long as those that a task is reported on, so that what judges is what will be met.

Removing parts costs long inputs more than short ones, and a train split may be much shorter than what a model is for:
SST-2's is phrases, and its validation split whole sentences.
"""

from __future__ import annotations

import numpy as np

__all__ = ["as_long_as"]

_DIFFERENT = 1e-4
"""Probability of the Kolmogorov-Smirnov statistic below which two lists of lengths are of different kinds."""
_BINS = 10
_SHARE_MET = 0.9
"""Of the wanted rows that must be there; asking for all would let the rarest length decide how many are used."""
_FEWEST = 200
"""Rows that judge in any case, where there are as many; if need be those that come nearest."""


def as_long_as(lengths: np.ndarray, wanted: np.ndarray, seed: int) -> np.ndarray:
    """Indices of rows whose lengths are spread like ``wanted``, as many as there are; all where they already are.

    Args:
        lengths: tokens of the rows to choose from, (rows,).
        wanted: tokens of the rows to be like, (other rows,).
    """
    from scipy.stats import ks_2samp

    everything = np.arange(len(lengths))
    if ks_2samp(lengths, wanted).pvalue >= _DIFFERENT:
        return everything
    edges = np.unique(np.quantile(wanted, np.linspace(0, 1, _BINS + 1)[1:-1]))
    bins = np.digitize(lengths, edges)
    there = np.bincount(bins, minlength=len(edges) + 1)
    shares = np.bincount(np.digitize(wanted, edges), minlength=len(edges) + 1) / len(wanted)

    def drawn(rows: int) -> np.ndarray:
        return np.minimum(there, np.round(rows * shares).astype(int))

    rows = next((n for n in range(len(lengths), _FEWEST, -1) if drawn(n).sum() >= _SHARE_MET * n), _FEWEST)
    random = np.random.default_rng(seed)
    parts = [
        random.choice(everything[bins == number], count, replace=False) for number, count in enumerate(drawn(rows))
    ]
    chosen = np.sort(np.concatenate(parts))
    if len(chosen) >= min(_FEWEST, len(lengths)):
        return chosen
    return np.sort(np.argsort(np.abs(lengths - np.median(wanted)), kind="stable")[:_FEWEST])
