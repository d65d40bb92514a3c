"""What a bundle carries to check itself: the tokenized validation split, and PyTorch's outputs for some of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.batches import EncodedSplit
from ..errors import AxformError

__all__ = ["CheckData", "ReferenceBatch", "reference_batches"]


@dataclass(frozen=True)
class ReferenceBatch:
    """Samples that PyTorch ran as one padded batch, with the plan applied."""

    indices: np.ndarray
    """Positions in the split, (batch,)."""
    outputs: dict[str, np.ndarray]


@dataclass(frozen=True)
class CheckData:
    split: EncodedSplit
    references: list[ReferenceBatch]

    def save(self, path: Path) -> None:
        arrays = self.split.to_arrays()
        for number, reference in enumerate(self.references):
            arrays[f"reference/{number}/indices"] = reference.indices
            for name, value in reference.outputs.items():
                arrays[f"reference/{number}/output/{name}"] = value
        with path.open("wb") as handle:
            np.savez_compressed(handle, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> CheckData:
        """Read the file.

        Raises:
            AxformError: damaged.
        """
        try:
            with np.load(path) as arrays:
                return cls._from_arrays(dict(arrays))
        except Exception as error:  # numpy, zipfile and zlib raise a dozen kinds, as the damage happens to be
            reason = str(error) or type(error).__name__
            raise AxformError(f"{path}: damaged ({reason}); export again with axform-export.") from None

    @classmethod
    def _from_arrays(cls, arrays: dict[str, np.ndarray]) -> CheckData:
        split = EncodedSplit.from_arrays(arrays)
        if "input_ids" not in split.features:
            raise ValueError("it holds no input_ids")
        references: list[ReferenceBatch] = []
        while f"reference/{len(references)}/indices" in arrays:
            references.append(_reference(arrays, f"reference/{len(references)}", len(split)))
        if not references:
            raise ValueError("it holds no outputs of PyTorch")
        return cls(split, references)


def _reference(arrays: dict[str, np.ndarray], name: str, samples: int) -> ReferenceBatch:
    indices, prefix = arrays[f"{name}/indices"], f"{name}/output/"
    outputs = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
    if indices.ndim != 1 or indices.dtype.kind not in "iu" or not set(indices.tolist()) <= set(range(samples)):
        raise ValueError(f"{name}/indices are not rows of the split")
    if not outputs or not len(indices):
        raise ValueError(f"{name} is empty")
    for key, value in outputs.items():
        if value.dtype.kind not in "iuf" or value.shape[:1] != indices.shape or not value.size:
            raise ValueError(f"{prefix}{key} does not hold one row for each of {len(indices)} samples")
    return ReferenceBatch(indices, outputs)


def reference_batches(lengths: Sequence[int] | np.ndarray, seed: int = 0) -> list[np.ndarray]:
    """Indices of samples for the parity check: batches of 1 to 32, mixed lengths, shortest and longest included."""
    by_length = np.argsort(lengths, kind="stable")
    shuffled = np.random.default_rng(seed).permutation(by_length[1:-1])
    order = np.concatenate([by_length[:1], by_length[-1:], shuffled]) if len(by_length) > 1 else by_length
    batches, start = [], 0
    for size in (1, 1, 2, 3, 8, 17, 32):
        if start < len(order):
            batches.append(order[start : start + size])
            start += size
    return batches
