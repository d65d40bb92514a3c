"""The operator sets that exported files import."""

from __future__ import annotations

__all__ = ["DOMAIN", "OLDEST_OPSET", "OPSET"]

OPSET = 23
"""Of ONNX: the first with Attention as one operator."""
OLDEST_OPSET = 18
"""That files can be written in: the first that function bodies run on."""
DOMAIN = "ai.axform"
"""Of axform's own operators, which the op library implements and function bodies stand in for."""
