"""Bodies as they come over HTTP: bounded in bytes, in seconds and in what they unpack to."""

from __future__ import annotations

import asyncio
import zlib
from typing import TYPE_CHECKING

from .refusals import Reason, Refused, shown

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["BodyReader", "accepted_encoding", "pack", "unpack"]

_FORMATS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""Window bits by which zlib tells its formats; HTTP's deflate is the one with zlib's own header (RFC 9110, 8.4.1.2)."""
_BODIES_AT_ONCE = 16
"""Bodies of the largest size that a worker holds while they come in; smaller ones share that room."""
_WORTH_PACKING = 1024
"""Bytes below which packing costs more than it saves."""
_FAST = 1


class BodyReader:
    """Reads bodies, and unpacks them.

    Args:
        limit: bytes of a body, packed and unpacked.
        seconds: in which it must have come.
    """

    def __init__(self, limit: int, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._room = limit * _BODIES_AT_ONCE

    async def read(self, request: Request) -> bytes:
        """The body of a request.

        Raises:
            Refused: it is too large or too slow, many others are on their way, or it is not what its header says.
        """
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", *_FORMATS):
            raise Refused(Reason.UNKNOWN_ENCODING, f"Content-Encoding {shown(encoding)}: send gzip, deflate or none.")
        told = request.headers.get("content-length", "0")
        if not told.isascii() or not told.isdigit() or len(told) > 15 or int(told) > self._limit:
            raise self._too_large()
        held = [0]
        try:
            content = await asyncio.wait_for(self._receive(request, held), self._seconds)
        except asyncio.TimeoutError:
            raise Refused(Reason.SLOW, f"the body did not come within {self._seconds:g} seconds.") from None
        finally:
            self._room += held[0]
        return content if encoding == "identity" else unpack(content, encoding, self._limit)

    async def _receive(self, request: Request, held: list[int]) -> bytes:
        parts = []
        async for part in request.stream():
            if held[0] + len(part) > self._limit:
                raise self._too_large()
            if len(part) > self._room:
                raise Refused(Reason.FULL, "many large requests are on their way; try again later.")
            self._room -= len(part)
            held[0] += len(part)
            parts.append(part)
        return b"".join(parts)

    def _too_large(self) -> Refused:
        return Refused(Reason.TOO_LARGE, f"the body has more than {self._limit} bytes (--max-body-mb); send less.")


def unpack(content: bytes, encoding: str, limit: int) -> bytes:
    """What a packed body holds. It never unpacks more than ``limit`` bytes, however few the packed ones are.

    Raises:
        Refused: it holds more, or is damaged or cut off.
    """
    unpacker = zlib.decompressobj(_FORMATS[encoding])
    try:
        unpacked = unpacker.decompress(content, limit)
        if unpacker.unconsumed_tail and not unpacker.eof:
            more = unpacker.decompress(unpacker.unconsumed_tail, 1)
            if more or not unpacker.eof:
                raise Refused(Reason.TOO_LARGE, f"the body unpacks to more than {limit} bytes (--max-body-mb).")
    except zlib.error:
        raise Refused(Reason.INVALID, f"the body is no {encoding}, as its Content-Encoding says.") from None
    if not unpacker.eof or unpacker.unused_data:
        raise Refused(Reason.INVALID, f"the body's {encoding} is cut off, or something follows it.")
    return unpacked


def accepted_encoding(header: str) -> str | None:
    """The packing that Accept-Encoding allows and that is known here; None for none."""
    for entry in header.lower().split(","):
        name, _, quality = entry.partition(";")
        if name.strip() in _FORMATS and quality.replace(" ", "").rstrip("0.") != "q=":
            return name.strip()
    return None


def pack(content: bytes, encoding: str) -> bytes | None:
    """A body packed; None where that is not worth it."""
    if len(content) < _WORTH_PACKING:
        return None
    packer = zlib.compressobj(_FAST, wbits=_FORMATS[encoding])
    return packer.compress(content) + packer.flush()
