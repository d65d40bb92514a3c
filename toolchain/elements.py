"""TransElements and the ordered queue (AxFormer v1, Algorithm 1).

Elements are tried coarse to fine: blocks (granularity 0), then heads and FFN weight groups (1), then ATTN weight
groups (2). Within a granularity the costlier block type comes first, and within a type layers run from the last to the
first or the other way around.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..core.families import ModelShape
from ..core.plan import ApproximationPlan, Focus
from ..core.targets import BlockKind, Grid, Target

__all__ = ["BlockCosts", "LayerOrder", "block_costs", "build_queue", "is_removed", "with_element"]

LayerOrder = Literal["last-to-first", "first-to-last"]


@dataclass(frozen=True)
class BlockCosts:
    """Cost of one block of each type, in any unit that both share (FLOPs, milliseconds, parameters)."""

    attention: float
    feed_forward: float

    def of(self, block: BlockKind) -> float:
        return self.attention if block == "attn" else self.feed_forward


def block_costs(shape: ModelShape, focus: Focus, sequence: int) -> BlockCosts:
    """Parameters per block for the size focus, else FLOPs per sample at ``sequence`` tokens."""
    hidden, intermediate = shape.hidden_size, shape.intermediate_size
    if focus == "size":
        return BlockCosts(attention=4 * (hidden + 1) * hidden, feed_forward=(2 * hidden + 1) * intermediate + hidden)
    projections = 2 * sequence * 4 * hidden * hidden
    scores_and_values = 2 * 2 * sequence * sequence * hidden
    return BlockCosts(
        attention=projections + scores_and_values,
        feed_forward=2 * sequence * 2 * hidden * intermediate,
    )


def build_queue(
    shape: ModelShape, group_size: int, costs: BlockCosts, layer_order: LayerOrder = "last-to-first"
) -> list[Target]:
    """All elements of a model, sorted by (granularity, type cost, layer order, index)."""

    def key(element: Target) -> tuple[int, float, str, int, int]:
        layer = element.layer if layer_order == "first-to-last" else -element.layer
        return (element.granularity, -costs.of(element.block), element.block, layer, element.index or 0)

    return sorted(Grid(shape, group_size).targets(), key=key)


def is_removed(plan: ApproximationPlan, element: Target) -> bool:
    """Whether ``plan`` prunes the element or the block that it lies in."""
    layer = plan.layers[element.layer]
    block = layer.attention if element.block == "attn" else layer.feed_forward
    return block.skipped or (not element.is_block and element.index in _pruned(plan, element))


def with_element(plan: ApproximationPlan, element: Target) -> ApproximationPlan | None:
    """``plan`` with one more element pruned, or None where that would empty its block (the block element decides that).

    Pruning a block drops what was pruned inside it.
    """
    result = plan.model_copy(deep=True)
    if element.index is None:
        layer = result.layers[element.layer]
        if element.block == "attn":
            layer.attention = type(layer.attention)(skipped=True)
        else:
            layer.feed_forward = type(layer.feed_forward)(skipped=True)
        return result
    pruned = _pruned(result, element)
    pruned.append(element.index)
    pruned.sort()
    return None if len(pruned) == Grid(plan.model.shape, plan.group_size).count(element.kind) else result


def _pruned(plan: ApproximationPlan, element: Target) -> list[int]:
    layer = plan.layers[element.layer]
    if element.kind == "ffn.group":
        return layer.feed_forward.pruned_groups
    return layer.attention.pruned_heads if element.kind == "attn.head" else layer.attention.pruned_input_groups
