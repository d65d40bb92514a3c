"""What a plan leaves of a model: parameters, and floating-point operations of its encoder layers."""

from __future__ import annotations

from .families import ModelShape
from .plan import ApproximationPlan, LayerPlan, kept_positions

__all__ = ["encoder_flops", "encoder_parameters"]


def encoder_parameters(plan: ApproximationPlan) -> int:
    """Weights and biases of the projections in all ATTN and FFN blocks; norms and embeddings are not counted."""
    shape = plan.model.shape
    return sum(
        _attention_parameters(layer, plan, shape) + _feed_forward_parameters(layer, plan, shape)
        for layer in plan.layers
    )


def encoder_flops(plan: ApproximationPlan, sequence: int) -> int:
    """Of one sample of ``sequence`` tokens, a multiplication and an addition counted as two."""
    shape = plan.model.shape
    return sum(
        _attention_flops(layer, plan, shape, sequence) + _feed_forward_flops(layer, plan, shape, sequence)
        for layer in plan.layers
    )


def _attention_widths(layer: LayerPlan, plan: ApproximationPlan, shape: ModelShape) -> tuple[int, int]:
    """(input features of the projections, width of the context)."""
    attention = layer.attention
    inputs = len(kept_positions(attention.pruned_input_groups, shape.hidden_size, plan.group_size))
    return inputs, (shape.num_heads - len(attention.pruned_heads)) * shape.head_size


def _attention_parameters(layer: LayerPlan, plan: ApproximationPlan, shape: ModelShape) -> int:
    if layer.attention.skipped:
        return 0
    inputs, width = _attention_widths(layer, plan, shape)
    return 3 * (inputs + 1) * width + (width + 1) * shape.hidden_size


def _attention_flops(layer: LayerPlan, plan: ApproximationPlan, shape: ModelShape, sequence: int) -> int:
    if layer.attention.skipped:
        return 0
    inputs, width = _attention_widths(layer, plan, shape)
    keys = sequence if layer.attention.sign_matching is None else min(sequence, layer.attention.sign_matching.k)
    return 2 * sequence * (3 * inputs * width + width * shape.hidden_size) + 2 * 2 * sequence * keys * width


def _feed_forward_width(layer: LayerPlan, plan: ApproximationPlan, shape: ModelShape) -> int:
    if layer.feed_forward.skipped:
        return 0
    return len(kept_positions(layer.feed_forward.pruned_groups, shape.intermediate_size, plan.group_size))


def _feed_forward_parameters(layer: LayerPlan, plan: ApproximationPlan, shape: ModelShape) -> int:
    width = _feed_forward_width(layer, plan, shape)
    return (2 * shape.hidden_size + 1) * width + shape.hidden_size if width else 0


def _feed_forward_flops(layer: LayerPlan, plan: ApproximationPlan, shape: ModelShape, sequence: int) -> int:
    return 2 * sequence * 2 * shape.hidden_size * _feed_forward_width(layer, plan, shape)
