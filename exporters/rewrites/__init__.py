"""One rewrite per technique."""

from __future__ import annotations

from collections.abc import Callable

from .prune_heads import prune_heads
from .quantize import quantize
from .report import Change, RewriteReport
from .shrink_groups import shrink_groups
from .sign_matching import sign_matching
from .skip_blocks import skip_blocks

__all__ = [
    "REWRITES",
    "Change",
    "RewriteReport",
    "prune_heads",
    "quantize",
    "shrink_groups",
    "sign_matching",
    "skip_blocks",
]

REWRITES: dict[str, Callable[..., RewriteReport]] = {
    "skip_blocks": skip_blocks,
    "sign_matching": sign_matching,
    "prune_heads": prune_heads,
    "shrink_groups": shrink_groups,
    "quantize": quantize,
}
"""How a graph (with the plan and the family) does each of `core.techniques`, in the order in which they run."""
