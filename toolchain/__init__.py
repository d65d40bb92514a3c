"""Finding the parts of a model that a task does not need. Knows nothing of ONNX.

The public names load on first use, so that its light modules (options, journal) come without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .optimize import optimize
    from .options import OptimizeOptions

__all__ = ["OptimizeOptions", "optimize"]


def __getattr__(name: str) -> Any:
    import importlib

    if name in __all__:
        module = importlib.import_module(".options" if name == "OptimizeOptions" else ".optimize", __name__)
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
