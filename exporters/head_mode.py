"""The two forms of a removed attention head; apart from the rewrite, so that the command line needs no ONNX for it."""

from __future__ import annotations

from typing import Literal

__all__ = ["DEFAULT_HEADS", "HeadMode"]

HeadMode = Literal["fold", "pad"]
DEFAULT_HEADS: HeadMode = "fold"
"""Smaller and faster than the paper's ``pad``, with the same numbers."""
