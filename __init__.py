"""axform: finds the parts of a Transformer that a task does not need, and emits a smaller, faster ONNX model."""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["__version__"]
