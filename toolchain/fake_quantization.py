"""Weights as they are in fewer bits, on a live model: computed with as codes times scales, learnt as floats.

The gradient passes the rounding as if it were not there (straight-through, Q8BERT). What the exporter writes is
`core.quantization`; the numbers here are the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..core.plan import Bits
from ..core.quantization import LayerMatrix, largest_code

__all__ = ["embeddings_in_bits", "in_bits", "linear_in_bits", "whole_linear_in_bits"]


def in_bits(weights: Tensor, bits: int, group: int | None = None) -> Tensor:
    """The nearest values that codes of ``bits`` bits have, of (outputs, inputs); ``group`` as in `codes_of`."""
    inputs = weights.shape[1]
    size = min(group or inputs, inputs)
    even = inputs // size * size
    parts = [_rounded(weights[:, :even].unflatten(1, (-1, size)), bits).flatten(1)]
    if even < inputs:
        parts.append(_rounded(weights[:, even:], bits))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _rounded(weights: Tensor, bits: int) -> Tensor:
    """One scale for each row of the last dimension."""
    limit = largest_code(bits)
    scales = weights.abs().amax(-1, keepdim=True) / limit
    scales = torch.where(scales >= torch.finfo(scales.dtype).smallest_normal, scales, torch.ones_like(scales))
    return (weights / scales).round().clamp(-limit, limit) * scales


def linear_in_bits(module: nn.Linear, matrix: LayerMatrix) -> Callable[[Tensor], Tensor]:
    """The forward of a linear whose weights have those bits in what a plan leaves of them."""
    device = module.weight.device
    outputs, inputs = (torch.tensor(kept, device=device) for kept in (matrix.outputs, matrix.inputs))
    is_whole = (len(outputs), len(inputs)) == tuple(module.weight.shape)

    def coded(weight: Tensor) -> Tensor:
        left = weight.clone() if is_whole else weight[outputs[:, None], inputs]
        for segment in matrix.segments:
            stretch = left.narrow(matrix.axis, segment.start, segment.stop - segment.start)
            stretch.copy_(in_bits(stretch, segment.bits, segment.group))
        return left if is_whole else weight.index_put((outputs[:, None], inputs), left)

    return _forward(module, coded)


def whole_linear_in_bits(module: nn.Linear, part: Bits) -> Callable[[Tensor], Tensor]:
    """The forward of a linear with all of its weights in bits."""
    return _forward(module, lambda weight: in_bits(weight, part.bits, part.group))


def embeddings_in_bits(module: nn.Embedding, part: Bits) -> Callable[[Tensor], Tensor]:
    """The forward of a table whose rows are in bits; each is decoded when it is looked up."""

    def forward(ids: Tensor) -> Tensor:
        rows = nn.Embedding.forward(module, ids)
        with torch.no_grad():
            codes = in_bits(rows.detach().flatten(0, -2), part.bits, part.group).view_as(rows)
        return _straight_through(rows, codes)

    return forward


def _forward(module: nn.Linear, coded: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """With weights that are coded in every forward that learns, and kept between others as long as they are the same.

    A weight's version alone does not tell: a fused optimizer changes weights without counting it up.
    """
    kept: tuple[int, Tensor] | None = None

    def forward(hidden: Tensor) -> Tensor:
        nonlocal kept
        weight = module.weight
        learns = torch.is_grad_enabled() and weight.requires_grad
        if learns or kept is None or kept[0] != weight._version or kept[1].device != weight.device:
            with torch.inference_mode(False), torch.no_grad():
                kept = weight._version, coded(weight.detach())
        codes = kept[1]
        if learns:
            kept = None
        return nn.functional.linear(hidden, _straight_through(weight, codes), module.bias)

    return forward


def _straight_through(weights: Tensor, codes: Tensor) -> Tensor:
    """The values of the codes, with the gradient of the weights."""
    if torch.is_grad_enabled() and weights.requires_grad:
        return weights + (codes - weights).detach()
    return codes
