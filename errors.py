"""The one exception that a user's mistake raises; the command line prints its text and nothing else."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["AxformError", "listed"]

_MOST_LISTED = 12
_LONGEST = 100
"""Characters, enough for the names of files."""


class AxformError(Exception):
    """Something the user can put right. The message says what is wrong, where, and what to do."""


def listed(values: Iterable[object]) -> str:
    """Values for a message, separated by commas; of many only the first, of long ones only the beginning."""
    words = [word if len(word) <= _LONGEST else f"{word[:_LONGEST]}..." for word in map(str, values)]
    rest = len(words) - _MOST_LISTED
    return ", ".join(words[:_MOST_LISTED]) + (f" and {rest} more" if rest > 0 else "")
