"""Running and judging bundles: clients, sessions, parity, latency. Needs neither torch nor transformers."""

from __future__ import annotations

from .client import Client, Prediction, load
from .session import load_session

__all__ = ["Client", "Prediction", "load", "load_session"]
