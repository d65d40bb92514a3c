"""The one exception that a user's mistake raises; the command line prints its text and nothing else."""

from __future__ import annotations

__all__ = ["AxformError"]


class AxformError(Exception):
    """Something the user can put right. The message says what is wrong, where, and what to do."""
