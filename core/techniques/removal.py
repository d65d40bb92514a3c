"""Removing what the task does not need: whole blocks, attention heads, weight groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from ..problems import problem
from ..targets import Grid, TargetKind
from .base import Part, Technique, Widths

if TYPE_CHECKING:
    from ..plan import ApproximationPlan

__all__ = ["PRUNE_HEADS", "SHRINK_GROUPS", "SKIP_BLOCKS", "Remove"]

_WIDTH: dict[TargetKind, str] = {
    "attn": "context",
    "attn.head": "context",
    "attn.in.group": "inputs",
    "ffn": "neurons",
    "ffn.group": "neurons",
}
"""Which of `Widths` shrinks with a target."""
_NOUN: dict[TargetKind, str] = {"attn.head": "heads", "attn.in.group": "input groups", "ffn.group": "groups"}


class Remove(Part):
    """The target is gone. A removed block is bypassed, and its LayerNorm stays."""

    action: Literal["remove"] = "remove"


def _narrow(widths: Widths, part: Remove, grid: Grid) -> Widths:
    name = _WIDTH[part.target.kind]
    return replace(widths, **{name: getattr(widths, name) - grid.width(part.target)})


def _check_nothing_inside(blocks: Sequence[Remove], plan: ApproximationPlan) -> None:
    removed = {block.target: block for block in blocks}
    for part in plan.parts:
        block = removed.get(part.target.parent, part)
        if block is not part:
            raise problem(f"{block} and {part} contradict each other, for nothing is left to change; keep one of them")


def _check_something_left(removals: Sequence[Remove], plan: ApproximationPlan) -> None:
    for (block, kind), parts in groupby(removals, key=lambda part: (part.target.parent, part.target.kind)):
        gone = [part.target for part in parts]
        if len(gone) == plan.grid.count(kind):
            raise problem(
                f"all {len(gone)} {_NOUN[kind]} of {block} are removed, from {gone[0]} to {gone[-1]}; remove {block} "
                "itself instead"
            )


def _describe_some(removals: Sequence[Remove], grid: Grid) -> str:
    kind = removals[0].target.kind
    return f"{len(removals)} of {grid.count(kind)} {_NOUN[kind]} pruned"


SKIP_BLOCKS = Technique(
    "skip_blocks", Remove, ("attn", "ffn"), _check_nothing_inside, _narrow, describe=lambda *_: "skipped"
)
PRUNE_HEADS = Technique("prune_heads", Remove, ("attn.head",), _check_something_left, _narrow, _describe_some)
SHRINK_GROUPS = Technique(
    "shrink_groups", Remove, ("attn.in.group", "ffn.group"), _check_something_left, _narrow, _describe_some
)
