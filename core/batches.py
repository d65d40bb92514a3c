"""Tokenized samples and the padded batches made of them. NumPy only: used for trials, parity and latency alike."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["EncodedSplit", "pad_batch"]


@dataclass(frozen=True)
class EncodedSplit:
    """Tokenized samples of one split, unpadded, with their labels."""

    features: Mapping[str, Sequence[np.ndarray]]
    """Input name -> one int64 array (tokens,) per sample."""
    labels: np.ndarray
    """(samples,), int64 class ids or float32 targets."""
    pad_values: Mapping[str, int]
    """Input name -> the value of padded positions."""
    groups: np.ndarray | None = None
    """(samples,), int64, equal for samples that are related and so answered alike; None = no two are."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per sample, (samples,)."""
        first = next(iter(self.features.values()))
        return np.array([len(sample) for sample in first])

    def digest(self) -> str:
        """SHA-256 over every token and label, in order."""
        digest = hashlib.sha256(self.labels.tobytes())
        for name in sorted(self.features):
            digest.update(name.encode())
            for sample in self.features[name]:
                digest.update(len(sample).to_bytes(8, "little"))
                digest.update(np.ascontiguousarray(sample, dtype=np.int64).tobytes())
        return digest.hexdigest()

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The split as arrays that ``numpy.savez`` stores and `from_arrays` reads."""
        arrays: dict[str, np.ndarray] = {
            "pad_values": np.array(json.dumps(dict(self.pad_values))),
            "labels": self.labels,
            "lengths": self.lengths,
        }
        for name, samples in self.features.items():
            arrays[f"features/{name}"] = np.concatenate(list(samples)).astype(np.int32)
        if self.groups is not None:
            arrays["groups"] = self.groups
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> EncodedSplit:
        """Read what `to_arrays` made.

        Raises:
            KeyError, ValueError: it is not that.
        """
        lengths, labels = arrays["lengths"], arrays["labels"]
        tokens = {
            name.removeprefix("features/"): value for name, value in arrays.items() if name.startswith("features/")
        }
        pad_values = json.loads(str(arrays["pad_values"]))
        if not _is_list(lengths, "iu") or lengths.min(initial=1) < 1:
            raise ValueError("lengths are not positive whole numbers")
        if not _is_list(labels, "iuf") or len(labels) != len(lengths) or not len(labels):
            raise ValueError(f"labels are not one number for each of {len(lengths)} samples")
        for name, value in tokens.items():
            if not _is_list(value, "iu") or len(value) != lengths.sum():
                raise ValueError(f"{name} does not hold {lengths.sum()} tokens")
        if not tokens or not isinstance(pad_values, dict) or pad_values.keys() != tokens.keys():
            raise ValueError("features and the values of padding do not fit together")
        if not all(isinstance(value, int) for value in pad_values.values()):
            raise ValueError("the values of padding are not whole numbers")
        groups = arrays.get("groups")
        if groups is not None and (not _is_list(groups, "iu") or len(groups) != len(labels)):
            raise ValueError(f"groups are not one number for each of {len(labels)} samples")
        ends = np.cumsum(lengths)[:-1]
        features = {name: np.split(value.astype(np.int64), ends) for name, value in tokens.items()}
        return cls(features, labels, pad_values, groups)

    def select(self, indices: Sequence[int] | np.ndarray) -> EncodedSplit:
        """The samples at ``indices``, in that order."""
        chosen = np.asarray(indices, dtype=np.int64)
        return EncodedSplit(
            {name: [samples[i] for i in indices] for name, samples in self.features.items()},
            self.labels[chosen],
            self.pad_values,
            None if self.groups is None else self.groups[chosen],
        )

    def followed_by(self, other: EncodedSplit) -> EncodedSplit:
        """These samples and then the other's, of the same inputs; which of them are related is not kept."""
        return EncodedSplit(
            {name: [*samples, *other.features[name]] for name, samples in self.features.items()},
            np.concatenate([self.labels, other.labels]),
            self.pad_values,
        )

    def batches(self, batch_size: int) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Batches of similar length: (indices of the samples, inputs padded to the longest of the batch)."""
        order = np.argsort(self.lengths, kind="stable")
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            yield indices, self.batch(indices)

    def run(self, batch_size: int, model: Callable[[dict[str, np.ndarray]], np.ndarray]) -> np.ndarray:
        """What ``model`` returns for the batches, (batch, ...), joined in the split's order, (samples, ...)."""
        rows: list[Any] = [None] * len(self)
        for indices, batch in self.batches(batch_size):
            for index, row in zip(indices, model(batch), strict=True):
                rows[index] = row
        return np.stack(rows)

    def batch(self, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """The samples at ``indices``, padded to the longest, (batch, sequence) int64 per input."""
        return pad_batch(
            {name: [samples[i] for i in indices] for name, samples in self.features.items()}, self.pad_values
        )


def _is_list(array: np.ndarray, kinds: str) -> bool:
    return array.ndim == 1 and array.dtype.kind in kinds


def pad_batch(features: Mapping[str, Sequence[np.ndarray]], pad_values: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Pad on the right to the longest sample, (batch, sequence) int64 per input."""
    padded = {}
    for name, samples in features.items():
        longest = max(len(sample) for sample in samples)
        result = np.full((len(samples), longest), pad_values[name], dtype=np.int64)
        for row, sample in zip(result, samples, strict=True):
            row[: len(sample)] = sample
        padded[name] = result
    return padded
