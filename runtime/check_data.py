"""What a bundle carries to check itself: the tokenized validation split, and PyTorch's outputs for some of it."""

from __future__ import annotations

import json
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
        arrays: dict[str, np.ndarray] = {
            "pad_values": np.array(json.dumps(dict(self.split.pad_values))),
            "labels": self.split.labels,
            "lengths": self.split.lengths,
        }
        for name, samples in self.split.features.items():
            arrays[f"features/{name}"] = np.concatenate(list(samples)).astype(np.int32)
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
                return cls._from_arrays({name: arrays[name] for name in arrays.files})
        except (OSError, ValueError, KeyError) as error:
            raise AxformError(f"{path}: damaged ({error}); export again with axform-export.") from None

    @classmethod
    def _from_arrays(cls, arrays: dict[str, np.ndarray]) -> CheckData:
        ends = np.cumsum(arrays["lengths"])[:-1]
        features = {
            name.removeprefix("features/"): np.split(value.astype(np.int64), ends)
            for name, value in arrays.items()
            if name.startswith("features/")
        }
        references: list[ReferenceBatch] = []
        while f"reference/{len(references)}/indices" in arrays:
            prefix = f"reference/{len(references)}/output/"
            outputs = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
            references.append(ReferenceBatch(arrays[f"reference/{len(references)}/indices"], outputs))
        return cls(EncodedSplit(features, arrays["labels"], json.loads(str(arrays["pad_values"]))), references)


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
