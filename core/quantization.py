"""Weights as codes of a few bits times a scale: which matrices of a layer, what codes, and how they are packed.

Uniform and symmetric (Q8BERT, AxFormer v1): scale = max |W| / (2^(bits - 1) - 1) over the inputs that share it, and
code = W / scale, rounded half to even. Everything is float32, so torch and numpy come to the same codes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from .families import Family
from .plan import LayerPlan, Segment

__all__ = [
    "Codes",
    "LayerMatrix",
    "codes_of",
    "fits_16_bits",
    "largest_code",
    "layer_matrices",
    "packed",
    "product_codes_of",
    "unpacked",
]

_LARGEST_PAIR = 128
"""Of two codes of one sign: 255 x 128 is the most that 16 bits hold."""


@dataclass(frozen=True)
class LayerMatrix:
    """One projection of a layer, whose weight is (outputs, inputs), and the bits along one of its dimensions."""

    path: str
    """Of its module, inside the layer."""
    axis: int
    """That the segments divide: 0 = outputs, 1 = inputs."""
    outputs: list[int]
    """Positions that are left of the model's own matrix; likewise ``inputs``."""
    inputs: list[int]
    segments: list[Segment]
    """In positions of what is left."""


def layer_matrices(family: Family, layer: LayerPlan) -> Iterator[LayerMatrix]:
    """The projections of a layer of which a plan says bits; those of a skipped block are not there."""
    hidden = [*range(layer.grid.dimension("attn"))]
    heads, neurons = layer.segments("attn.head"), layer.segments("ffn.group")
    if heads and not layer.skips("attn"):
        context, inputs = layer.kept("attn.head"), layer.kept("attn.in.group")
        for path in (family.query, family.key, family.value):
            yield LayerMatrix(path, 0, context, inputs, heads)
        yield LayerMatrix(family.attention_output, 1, hidden, context, heads)
    if neurons and not layer.skips("ffn"):
        kept = layer.kept("ffn.group")
        yield LayerMatrix(family.up, 0, kept, hidden, neurons)
        yield LayerMatrix(family.down, 1, hidden, kept, neurons)


def largest_code(bits: int) -> int:
    """The codes are those from minus this to this."""
    return (1 << bits - 1) - 1


@dataclass(frozen=True)
class Codes:
    """A matrix, (outputs, inputs), as codes and scales."""

    values: np.ndarray
    """(outputs, inputs) int8."""
    scales: np.ndarray
    """(outputs, groups) float32."""
    bits: int
    group: int
    """Inputs that share a scale; the last group may have fewer."""

    def decoded(self) -> np.ndarray:
        """Codes times scales, (outputs, inputs) float32."""
        repeated = np.repeat(self.scales, self.group, axis=1)[:, : self.values.shape[1]]
        return self.values.astype(np.float32) * repeated


def codes_of(weights: np.ndarray, bits: int, group: int | None = None) -> Codes:
    """Codes of a matrix, (outputs, inputs) float32; ``group`` inputs of an output share a scale, None = all of them."""
    inputs = weights.shape[1]
    size = min(group or inputs, inputs)
    starts = np.arange(0, inputs, size)
    largest = np.maximum.reduceat(np.abs(weights), starts, axis=1)
    scales = _scales(largest, largest_code(bits))
    repeated = np.repeat(scales, size, axis=1)[:, :inputs]
    limit = largest_code(bits)
    return Codes(np.clip(np.rint(weights / repeated), -limit, limit).astype(np.int8), scales, bits, size)


def product_codes_of(weights: np.ndarray) -> Codes:
    """8-bit codes of a matrix, (outputs, inputs) float32, one scale for each output, for products with uint8.

    Processors without VNNI or the like (x86 of before 2019, AMD of before Zen 4) add the products of two neighbouring
    inputs in 16 bits, and cut off what does not fit: two weights of 127 on inputs of 255 lose half of their sum. So a
    scale is taken over the sums of such pairs, not over single weights; on a MiniLM that is 1.3 times as coarse, where
    7-bit codes, the usual remedy, are twice as coarse.
    """
    pairs = _pairs(weights)
    largest = np.maximum(np.maximum(pairs, 0).sum(-1), np.maximum(-pairs, 0).sum(-1)).max(1, initial=0, keepdims=True)
    scales = _scales(largest, _LARGEST_PAIR - 1)
    return Codes(np.rint(weights / scales).astype(np.int8), scales, 8, weights.shape[1])


def _scales(largest: np.ndarray, limit: int) -> np.ndarray:
    """float32; 1 where all is zero, or so near to it that a scale would not have all of its bits."""
    scales = (largest / np.float32(limit)).astype(np.float32)
    return np.where(scales >= np.finfo(np.float32).smallest_normal, scales, np.float32(1))


def fits_16_bits(codes: np.ndarray) -> bool:
    """Whether no processor cuts off what these codes, (outputs, inputs), make of any uint8: see `product_codes_of`."""
    pairs = _pairs(codes.astype(np.int32))
    return bool(
        (np.maximum(pairs, 0).sum(-1) <= _LARGEST_PAIR).all() and (np.minimum(pairs, 0).sum(-1) >= -_LARGEST_PAIR).all()
    )


def _pairs(rows: np.ndarray) -> np.ndarray:
    """Neighbours in each row, (rows, pairs, 2); a last one without is beside 0."""
    even = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2)))
    return even.reshape(len(even), -1, 2)


def packed(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes in their order as a stream of bits, (bytes,) uint8: two's complement, the lowest bit of a byte first."""
    ones = np.unpackbits(codes.astype(np.int8).reshape(-1, 1).view(np.uint8), axis=1, bitorder="little")
    return np.packbits(ones[:, :bits], bitorder="little")


def unpacked(stream: np.ndarray, bits: int, shape: Sequence[int]) -> np.ndarray:
    """What was `packed`, int8 of that shape."""
    count = prod(shape)
    ones = np.unpackbits(stream, bitorder="little")[: count * bits].reshape(count, bits)
    sign = np.repeat(ones[:, -1:], 8 - bits, axis=1)
    return np.packbits(np.concatenate([ones, sign], axis=1), axis=1, bitorder="little").view(np.int8).reshape(shape)
