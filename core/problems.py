"""What is wrong with what was read, in one clause: found by a check of ours or by pydantic."""

from __future__ import annotations

import reprlib

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

__all__ = ["first_problem", "problem"]

_OURS = "axform"


def problem(text: str) -> PydanticCustomError:
    """What a validator raises so that ``text`` reaches the user as it is."""
    return PydanticCustomError(_OURS, "{text}", {"text": text})


def first_problem(error: ValidationError) -> str:
    """Where it is and what, and what was found there unless the text says it."""
    first = error.errors()[0]
    where = "".join(f"{part}." for part in first["loc"])[:-1]
    found = "" if first["type"] == _OURS else f" (found {reprlib.repr(first['input'])})"
    return (f"{where}: " if where else "") + first["msg"] + found
