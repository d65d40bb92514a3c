"""API keys: who may ask anything but whether the server is there."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from ..errors import AxformError

__all__ = ["ApiKeys", "read_keys"]

_SHORTEST = 16
"""Characters; shorter ones can be tried out."""


class ApiKeys:
    """Keys, kept as digests of one length, so that comparing them tells nothing of what they are."""

    def __init__(self, keys: list[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def allow(self, authorization: str | None) -> bool:
        """Whether an ``Authorization`` header, ``Bearer KEY``, holds one of them."""
        scheme, _, key = (authorization or "").partition(" ")
        digest = _digest(key.strip())
        found = [hmac.compare_digest(digest, known) for known in self._digests]  # all of them, wherever it is found
        return any(found) and scheme.lower() == "bearer"


def read_keys(file: str) -> ApiKeys:
    """Keys of a file, one a line; empty lines and those with # are skipped.

    Raises:
        AxformError: it cannot be read, holds none, or one that is too short or has blanks in it.
    """
    path = Path(file)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise AxformError(f"--api-key-file {path}: cannot be read ({error}); name a file with a key a line.") from None
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise AxformError(f"--api-key-file {path}: holds no key; write one a line.")
    for number, key in enumerate(keys, 1):
        if len(key) < _SHORTEST or not key.isascii() or len(key.split()) > 1:
            raise AxformError(
                f"--api-key-file {path}: key {number} is shorter than {_SHORTEST} characters, or is not plain ASCII without "
                "blanks; `openssl rand -hex 24` makes a good one."
            )
    return ApiKeys(keys)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
