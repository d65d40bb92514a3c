"""How long work tells what it is doing. The command line shows bars; the default shows nothing."""

from __future__ import annotations

__all__ = ["Progress"]


class Progress:
    """Receives stages and steps; override what should be shown."""

    def stage(self, title: str) -> None:
        """A new piece of work begins."""

    def step(self, done: int, total: int, note: str = "") -> None:
        """The current piece of work has come this far."""

    def message(self, text: str) -> None:
        """Something the user should know."""
