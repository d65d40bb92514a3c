"""Running and judging bundles: sessions, parity, latency. Needs neither torch nor transformers."""

from __future__ import annotations

from .session import load_session

__all__ = ["load_session"]
