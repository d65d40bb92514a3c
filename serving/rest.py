"""The REST application: the Open Inference Protocol, texts to classify, and metrics."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from .bodies import BodyReader, accepted_encoding, pack
from .keys import ApiKeys
from .logs import log
from .metrics import CONTENT_TYPE, rendered
from .refusals import Reason, Refused, shown
from .rest_codec import read_call, read_object, read_texts, write_answer, write_classified
from .service import Service

__all__ = ["RestApplication"]

_Answer = TypeVar("_Answer")
_HEADER_LENGTH = "Inference-Header-Content-Length"
_JSON = "application/json"
_LARGE = 1 << 16
"""Bytes of a body from which it is parsed in a thread, so that the event loop goes on meanwhile."""
_CLOSE = (b"connection", b"close")
_OPEN = "/v2/health/"
"""What needs no key."""


class RestApplication:
    """An ASGI application over a `Service`."""

    def __init__(self, service: Service, keys: ApiKeys | None) -> None:
        self._service = service
        self._keys = keys
        self._log_requests = service.settings.log_requests
        self._bodies = BodyReader(service.settings.max_body, service.settings.read_timeout)
        version = "/v2/models/{name}/versions/{version}"
        model = "/v2/models/{name}"
        routes: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
            ("GET", "/v2", self._server),
            ("GET", "/v2/health/live", self._live),
            ("GET", "/v2/health/ready", self._ready),
            ("GET", "/v2/models/stats", self._statistics),
            ("POST", "/v2/repository/index", self._index),
            ("POST", "/v2/repository/models/{name}/load", self._load),
            ("POST", "/v2/repository/models/{name}/unload", self._unload),
            ("POST", "/v1/models/{name}/classify", self._classify),
            ("GET", "/metrics", self._metrics),
        ]
        for prefix in (model, version):
            routes += [
                ("GET", prefix, self._metadata),
                ("GET", f"{prefix}/ready", self._model_ready),
                ("GET", f"{prefix}/config", self._config),
                ("GET", f"{prefix}/stats", self._statistics),
                ("POST", f"{prefix}/infer", self._infer),
            ]
        self._router = Router(
            [Route(path, endpoint, methods=[method]) for method, path, endpoint in routes], redirect_slashes=False
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. Whatever goes wrong is an answer, too: a JSON object with ``error``."""
        if scope["type"] != "http":
            return
        started = time.perf_counter()
        request = Request(scope, receive)
        state = {"status": 0, "ended": False}

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                state["status"] = message["status"]
                if self._service.stopping and _CLOSE not in message["headers"]:
                    message["headers"] = [*message["headers"], _CLOSE]
            await send(message)

        async def hear() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                state["ended"] = not message.get("more_body", False)
            return message

        try:
            await self._route(scope, hear, tell)
        except ClientDisconnect:
            state["status"] = 499
        except Exception as error:
            response = self._refusal(error, request, closes=not state["ended"])
            if not state["status"]:
                await response(scope, hear, tell)
        if self._log_requests:
            milliseconds = round((time.perf_counter() - started) * 1000, 3)
            log("request", method=scope["method"], path=scope["path"], status=state["status"], ms=milliseconds)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._keys is not None and not scope["path"].startswith(_OPEN):
            headers = Request(scope).headers
            if not self._keys.allow(headers.get("authorization")):
                raise Refused(Reason.UNAUTHENTICATED, "send a valid key: Authorization: Bearer KEY.")
        scope["app"] = self  # so that the router raises where it knows no route
        await self._router(scope, receive, send)

    def _refusal(self, error: Exception, request: Request, *, closes: bool) -> Response:
        """The answer to what went wrong. A connection whose request was not read to its end is closed."""
        headers = {"Connection": "close"} if closes and request.method == "POST" else {}
        if isinstance(error, Refused):
            status, message = error.reason.status, str(error)
            if error.reason is Reason.UNAUTHENTICATED:
                headers["WWW-Authenticate"] = "Bearer"
            elif error.reason in (Reason.FULL, Reason.UNAVAILABLE):
                headers["Retry-After"] = "1"
        elif isinstance(error, HTTPException):
            status = error.status_code
            message = f"{shown(request.url.path)} is not known; see the README for what is."
            if status == Reason.WRONG_METHOD.status:
                message = f"{shown(request.method)} is not the method of {shown(request.url.path)}."
            headers |= error.headers or {}
        else:
            status, message = Reason.FAILED.status, "the server failed; its log says why."
            log("failed", "error", path=request.url.path, error=f"{type(error).__name__}: {error}")
        return _json({"error": message}, status, headers)

    async def _infer(self, request: Request) -> Response:
        body = await self._bodies.read(request)
        given = (_name(request), _version(request), body, request.headers.get(_HEADER_LENGTH))
        call = read_call(*given) if len(body) < _LARGE else await asyncio.to_thread(read_call, *given)
        content, header_length = write_answer(await _unless_gone(request, self._service.infer(call)))
        headers = {} if header_length is None else {_HEADER_LENGTH: str(header_length)}
        return _packed(request, content, _JSON if header_length is None else "application/octet-stream", headers)

    async def _classify(self, request: Request) -> Response:
        body = await self._bodies.read(request)
        texts, timeout = read_texts(body) if len(body) < _LARGE else await asyncio.to_thread(read_texts, body)
        classified = await _unless_gone(request, self._service.classify(_name(request), texts, timeout))
        return _packed(request, write_classified(classified), _JSON, {})

    async def _server(self, _: Request) -> Response:
        return _json(self._service.server_metadata())

    async def _live(self, _: Request) -> Response:
        return _json({"live": True})

    async def _ready(self, _: Request) -> Response:
        ready = self._service.is_ready()
        return _json({"ready": ready}, 200 if ready else Reason.UNAVAILABLE.status)

    async def _model_ready(self, request: Request) -> Response:
        model = self._service.model(_name(request), _version(request))
        return _json({"name": model.name, "ready": True})

    async def _metadata(self, request: Request) -> Response:
        return _json(self._service.model(_name(request), _version(request)).metadata())

    async def _config(self, request: Request) -> Response:
        return _json(self._service.model(_name(request), _version(request)).config())

    async def _statistics(self, request: Request) -> Response:
        name = request.path_params.get("name", "")
        return _json({"model_stats": await self._service.statistics(name, _version(request))})

    async def _index(self, request: Request) -> Response:
        only_ready = (await self._options(request)).get("ready", False)
        if not isinstance(only_ready, bool):
            raise Refused(Reason.INVALID, "ready must be true or false.")
        return _json(self._service.index(only_ready))

    async def _load(self, request: Request) -> Response:
        if (await self._options(request)).get("parameters"):
            raise Refused(Reason.INVALID, "a load takes no parameters: a bundle says all of itself.")
        await self._service.load(_name(request))
        return _json({})

    async def _unload(self, request: Request) -> Response:
        await self._options(request)
        await self._service.unload(_name(request))
        return _json({})

    async def _metrics(self, _: Request) -> Response:
        return Response(rendered(await self._service.counts()), headers={"Content-Type": CONTENT_TYPE})

    async def _options(self, request: Request) -> dict[str, Any]:
        body = await self._bodies.read(request)
        return read_object(body) if body else {}


async def _unless_gone(request: Request, work: Coroutine[Any, Any, _Answer]) -> _Answer:
    """What ``work`` returns; it is cancelled when the client goes away before that.

    Raises:
        ClientDisconnect: it did.
    """
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        gone.cancel()
        task.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _name(request: Request) -> str:
    return str(request.path_params["name"])


def _version(request: Request) -> str:
    return str(request.path_params.get("version", ""))


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(value).encode(), status, headers, _JSON)


def _packed(request: Request, content: bytes, media_type: str, headers: dict[str, str]) -> Response:
    encoding = accepted_encoding(request.headers.get("accept-encoding", ""))
    packed = None if encoding is None else pack(content, encoding)
    if packed is not None and encoding is not None:
        return Response(packed, headers=headers | {"Content-Encoding": encoding}, media_type=media_type)
    return Response(content, headers=headers, media_type=media_type)
