"""The op library for ONNX Runtime (not built yet)."""

from __future__ import annotations

__all__ = ["is_available", "register"]


def is_available() -> bool:
    return False


def register(session_options: object) -> None:
    del session_options
