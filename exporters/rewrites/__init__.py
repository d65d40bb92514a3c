"""One rewrite per approximation, in the order in which they run."""

from __future__ import annotations

from .prune_heads import prune_heads
from .report import Change, RewriteReport
from .shrink_groups import shrink_groups
from .sign_matching import sign_matching
from .skip_blocks import skip_blocks

__all__ = ["Change", "RewriteReport", "prune_heads", "shrink_groups", "sign_matching", "skip_blocks"]
