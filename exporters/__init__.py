"""From a run, or a model and a plan, to a bundle: export, one rewrite per technique, and the files beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .export import export
    from .given_plan import export_plan

__all__ = ["export", "export_plan"]


def __getattr__(name: str) -> Any:
    import importlib

    if name in __all__:
        module = importlib.import_module(".export" if name == "export" else ".given_plan", __name__)
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
