"""What a plan leaves of a model: parameters, and floating-point operations of its encoder layers."""

from __future__ import annotations

from collections.abc import Iterator

from .plan import ApproximationPlan
from .techniques import Widths, technique_of

__all__ = [
    "block_flops",
    "block_parameters",
    "encoder_flops",
    "encoder_parameters",
    "file_flops",
    "layer_flops",
    "layer_widths",
]


def encoder_parameters(plan: ApproximationPlan) -> int:
    """Weights and biases of the projections in all ATTN and FFN blocks; norms and embeddings are not counted."""
    return sum(sum(block_parameters(widths)) for widths in layer_widths(plan))


def encoder_flops(plan: ApproximationPlan, sequence: int) -> int:
    """Of one sample of ``sequence`` tokens, a multiplication and an addition counted as two."""
    return sum(sum(block_flops(widths, sequence)) for widths in layer_widths(plan))


def file_flops(plan: ApproximationPlan, sequence: int) -> int:
    """What an exported file computes of `encoder_flops`: behind the last attention only the first token is read."""
    return sum(map(sum, layer_flops(plan, sequence)))


def layer_flops(plan: ApproximationPlan, sequence: int) -> list[tuple[int, int]]:
    """Of each layer in an exported file, for one sample: (ATTN block, FFN block)."""
    layers = list(layer_widths(plan))
    last = max((index for index, widths in enumerate(layers) if widths.context), default=-1)
    return [block_flops(widths, sequence, sequence if index < last else 1) for index, widths in enumerate(layers)]


def block_parameters(widths: Widths) -> tuple[int, int]:
    """Of the projections of one layer: (ATTN block, FFN block)."""
    inputs, context, neurons = widths.inputs, widths.context, widths.neurons
    attention = 3 * (inputs + 1) * context + (context + 1) * widths.hidden if context else 0
    feed_forward = (2 * widths.hidden + 1) * neurons + widths.hidden if neurons else 0
    return attention, feed_forward


def block_flops(widths: Widths, sequence: int, read: int | None = None) -> tuple[int, int]:
    """Of one layer, for one sample: (ATTN block, FFN block).

    Args:
        read: tokens of the layer's output that are read; None = all.
    """
    context, read = widths.context, sequence if read is None else read
    keys = sequence if widths.keys is None else min(sequence, widths.keys)
    queries = read if widths.keys is None else sequence  # an approximated attention answers all of its queries
    projections = 2 * (sequence * 2 * widths.inputs + queries * widths.inputs + read * widths.hidden) * context
    scores_and_values = 2 * 2 * queries * keys * context
    return projections + scores_and_values, 2 * read * 2 * widths.hidden * widths.neurons


def layer_widths(plan: ApproximationPlan) -> Iterator[Widths]:
    """Of each layer, after all that the plan does to it."""
    for layer in plan.layers:
        widths = Widths.whole(plan.model.shape)
        for part in layer.parts:
            widths = technique_of(part).narrow(widths, part, plan.grid)
        yield widths
