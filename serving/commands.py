"""What all who serve were told, for one that was not there or has not looked yet."""

from __future__ import annotations

__all__ = ["Commands"]


class Commands:
    """The last command for each model, since it undoes those before; how many there were stays known."""

    def __init__(self) -> None:
        self.count = 0
        self._last: dict[str, tuple[int, int | None, str]] = {}
        """(how many came before it, who told, what) of each model."""

    def add(self, command: str, model: str, teller: int | None = None) -> None:
        self._last[model] = self.count, teller, command
        self.count += 1

    def since(self, count: int, reader: int | None = None) -> list[tuple[str, str]]:
        """(command, model) that were told after the first ``count`` by others than ``reader``, if it may tell, too."""
        return [
            (command, model)
            for model, (before, teller, command) in self._last.items()
            if before >= count and (reader is None or teller != reader)
        ]
