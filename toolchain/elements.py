"""TransElements and the ordered queue (AxFormer v1, Algorithm 1).

Elements are tried coarse to fine: blocks (granularity 0), then heads and FFN weight groups (1), then ATTN weight
groups (2). Within a granularity the costlier block type comes first, and within a type layers run from the last to the
first or the other way around.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..core.costs import block_flops, block_parameters
from ..core.families import ModelShape
from ..core.plan import Focus
from ..core.targets import BlockKind, Grid, Target
from ..core.techniques import Widths

__all__ = ["BlockCosts", "LayerOrder", "block_costs", "build_queue"]

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
    whole = Widths.whole(shape)
    return BlockCosts(*(block_parameters(whole) if focus == "size" else block_flops(whole, sequence)))


def build_queue(
    shape: ModelShape, group_size: int, costs: BlockCosts, layer_order: LayerOrder = "last-to-first"
) -> list[Target]:
    """All elements of a model, sorted by (granularity, type cost, layer order, index)."""

    def key(element: Target) -> tuple[int, float, str, int, int]:
        layer = element.layer if layer_order == "first-to-last" else -element.layer
        return (element.granularity, -costs.of(element.block), element.block, layer, element.index or 0)

    return sorted(Grid(shape, group_size).targets(), key=key)
