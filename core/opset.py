"""The operator sets that exported files import."""

from __future__ import annotations

__all__ = ["DOMAIN", "OPSET"]

OPSET = 23
"""Of ONNX: the first with Attention as one operator."""
DOMAIN = "ai.axform"
"""Of axform's own operators, which the op library implements and function bodies stand in for."""
