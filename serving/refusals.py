"""Why a request is not answered: one exception, and what each protocol calls its reason."""

from __future__ import annotations

from enum import Enum

__all__ = ["Reason", "Refused", "shown"]

_SHOWN = 60
"""Characters of what a client sent that an answer repeats."""


class Reason(Enum):
    """(HTTP status, name of the gRPC status)."""

    INVALID = (400, "INVALID_ARGUMENT")
    UNAUTHENTICATED = (401, "UNAUTHENTICATED")
    NOT_FOUND = (404, "NOT_FOUND")
    WRONG_METHOD = (405, "UNIMPLEMENTED")
    SLOW = (408, "CANCELLED")
    TOO_LARGE = (413, "INVALID_ARGUMENT")
    UNKNOWN_ENCODING = (415, "INVALID_ARGUMENT")
    FULL = (429, "RESOURCE_EXHAUSTED")
    FAILED = (500, "INTERNAL")
    NOT_OFFERED = (501, "UNIMPLEMENTED")
    UNAVAILABLE = (503, "UNAVAILABLE")
    LATE = (504, "DEADLINE_EXCEEDED")

    @property
    def status(self) -> int:
        """Of HTTP."""
        return self.value[0]

    @property
    def code(self) -> str:
        """Of gRPC."""
        return self.value[1]


class Refused(Exception):
    """A request that gets no answer but its reason. The message is for the client; it says what to do."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def shown(value: object) -> str:
    """What a client sent, for a message: printable ASCII of bounded length, whatever it was."""
    text = value if isinstance(value, str) else repr(value)
    return ascii(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
