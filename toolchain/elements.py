"""TransElements and the ordered queue (AxFormer v1, Algorithm 1).

Elements are tried coarse to fine: blocks (granularity 0), then heads and FFN weight groups (1), then ATTN weight
groups (2). Within a granularity the costlier block type comes first, and within a type layers run from the last to the
first or the other way around.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ..core.families import ModelShape
from ..core.plan import ApproximationPlan, Focus, group_count

__all__ = [
    "BlockCosts",
    "BlockKind",
    "Element",
    "LayerOrder",
    "block_costs",
    "build_queue",
    "is_removed",
    "with_element",
]

BlockKind = Literal["ATTN", "FFN"]
PartKind = Literal["block", "head", "group"]
LayerOrder = Literal["last-to-first", "first-to-last"]


@dataclass(frozen=True)
class Element:
    """A block, an attention head or a weight group."""

    block: BlockKind
    layer: int
    part: PartKind = "block"
    index: int = 0

    @property
    def granularity(self) -> int:
        """0 = blocks, 1 = heads and FFN weight groups, 2 = ATTN weight groups."""
        if self.part == "block":
            return 0
        return 2 if (self.block, self.part) == ("ATTN", "group") else 1

    @property
    def parent(self) -> Element:
        """The block that the element lies in (a block's parent is itself)."""
        return Element(self.block, self.layer)

    def __str__(self) -> str:
        inside = "" if self.part == "block" else f" {self.part} {self.index}"
        return f"{self.block} {self.layer}{inside}"


@dataclass(frozen=True)
class BlockCosts:
    """Cost of one block of each type, in any unit that both share (FLOPs, milliseconds, parameters)."""

    attention: float
    feed_forward: float

    def of(self, block: BlockKind) -> float:
        return self.attention if block == "ATTN" else self.feed_forward


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
) -> list[Element]:
    """All elements of a model, sorted by (granularity, type cost, layer order, index)."""

    def key(element: Element) -> tuple[int, float, str, int, int]:
        layer = element.layer if layer_order == "first-to-last" else -element.layer
        return (element.granularity, -costs.of(element.block), element.block, layer, element.index)

    return sorted(_all_elements(shape, group_size), key=key)


def _all_elements(shape: ModelShape, group_size: int) -> Iterator[Element]:
    for layer in range(shape.num_layers):
        yield Element("ATTN", layer)
        yield Element("FFN", layer)
        for index in range(shape.num_heads):
            yield Element("ATTN", layer, "head", index)
        for index in range(group_count(shape.intermediate_size, group_size)):
            yield Element("FFN", layer, "group", index)
        for index in range(group_count(shape.hidden_size, group_size)):
            yield Element("ATTN", layer, "group", index)


def is_removed(plan: ApproximationPlan, element: Element) -> bool:
    """Whether ``plan`` prunes the element or the block that it lies in."""
    layer = plan.layers[element.layer]
    if element.block == "ATTN":
        pruned = {"head": layer.attention.pruned_heads, "group": layer.attention.pruned_input_groups}
        return layer.attention.skipped or element.index in pruned.get(element.part, ())
    return layer.feed_forward.skipped or (element.part == "group" and element.index in layer.feed_forward.pruned_groups)


def with_element(plan: ApproximationPlan, element: Element) -> ApproximationPlan | None:
    """``plan`` with one more element pruned, or None where that would empty its block (the block element decides that).

    Pruning a block drops what was pruned inside it.
    """
    result = plan.model_copy(deep=True)
    layer = result.layers[element.layer]
    part = layer.attention if element.block == "ATTN" else layer.feed_forward
    if element.part == "block":
        fresh = type(part)(skipped=True)
        if element.block == "ATTN":
            layer.attention = fresh  # type: ignore[assignment]
        else:
            layer.feed_forward = fresh  # type: ignore[assignment]
        return result
    shape = plan.model.shape
    if element.part == "head":
        pruned, count = layer.attention.pruned_heads, shape.num_heads
    elif element.block == "ATTN":
        pruned, count = layer.attention.pruned_input_groups, group_count(shape.hidden_size, plan.group_size)
    else:
        pruned, count = layer.feed_forward.pruned_groups, group_count(shape.intermediate_size, plan.group_size)
    pruned.append(element.index)
    pruned.sort()
    return None if len(pruned) == count else result
