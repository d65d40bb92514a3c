"""From a run folder to a bundle: export, one rewrite per approximation, and the files beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .export import export

__all__ = ["export"]


def __getattr__(name: str) -> Any:
    if name == "export":
        from .export import export

        return export
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
