"""The operator sets that exported files import, and what torch.onnx.export calls the modules in them."""

from __future__ import annotations

__all__ = ["DOMAIN", "OLDEST_OPSET", "OPSET", "SCOPES"]

OPSET = 23
"""Of ONNX: the first with Attention as one operator."""
OLDEST_OPSET = 18
"""That files can be written in: the first that function bodies run on."""
DOMAIN = "ai.axform"
"""Of axform's own operators, which the op library implements and function bodies stand in for."""
SCOPES = "pkg.torch.onnx.name_scopes"
"""Metadata key under which torch.onnx.export keeps the path of modules, outermost first, and the node's own name."""
