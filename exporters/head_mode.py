"""The two forms of a removed attention head; apart from the rewrite, so that the command line needs no ONNX for it."""

from __future__ import annotations

from typing import Literal

__all__ = ["HeadMode"]

HeadMode = Literal["fold", "pad"]
