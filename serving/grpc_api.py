"""The gRPC service: the Open Inference Protocol with Triton's extensions, by tritonclient's generated base."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2, service_pb2_grpc

from .grpc_codec import read_call, write_answer
from .keys import ApiKeys
from .logs import log
from .refusals import Reason, Refused
from .service import Service

__all__ = ["make_grpc_server"]

_Method = TypeVar("_Method", bound=Callable[..., Awaitable[Any]])
_HEALTH = {"/inference.GRPCInferenceService/ServerLive", "/inference.GRPCInferenceService/ServerReady"}
"""What needs no key."""
_CALLS_PER_ROW = 4
"""Calls that may be open for each row of the queue: more are refused before they are read."""


def _answering(method: _Method) -> _Method:
    """Let what goes wrong be a status of gRPC."""

    @functools.wraps(method)
    async def call(self: Any, request: Any, context: Any) -> Any:
        try:
            if request is None:
                raise Refused(Reason.INVALID, "the bytes are no message of this method; see the protocol's definition.")
            return await method(self, request, context)
        except Refused as error:
            await context.abort(grpc.StatusCode[error.reason.code], str(error))
        except Exception as error:
            log("failed", "error", method=method.__name__, error=f"{type(error).__name__}: {error}")
            await context.abort(grpc.StatusCode.INTERNAL, "the server failed; its log says why.")

    return call  # type: ignore[return-value]


class _Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Names of methods are the protocol's."""

    def __init__(self, service: Service) -> None:
        self._service = service

    @_answering
    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerLiveResponse(live=True)

    @_answering
    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=self._service.is_ready())

    @_answering
    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        try:
            self._service.model(request.name, request.version)
        except Refused:
            return service_pb2.ModelReadyResponse(ready=False)
        return service_pb2.ModelReadyResponse(ready=True)

    @_answering
    async def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerMetadataResponse(**self._service.server_metadata())

    @_answering
    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        metadata = self._service.model(request.name, request.version).metadata()
        return ParseDict(metadata, service_pb2.ModelMetadataResponse())

    @_answering
    async def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        config = self._service.model(request.name, request.version).config()
        return ParseDict({"config": config}, service_pb2.ModelConfigResponse())

    @_answering
    async def ModelStatistics(self, request: Any, context: Any) -> Any:  # noqa: N802
        statistics = await self._service.statistics(request.name, request.version)
        return ParseDict({"model_stats": statistics}, service_pb2.ModelStatisticsResponse())

    @_answering
    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        return write_answer(await self._service.infer(read_call(request, context.time_remaining())))

    @_answering
    async def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        return ParseDict({"models": self._service.index(request.ready)}, service_pb2.RepositoryIndexResponse())

    @_answering
    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.parameters:
            raise Refused(Reason.INVALID, "a load takes no parameters: a bundle says all of itself.")
        await self._service.load(request.model_name)
        return service_pb2.RepositoryModelLoadResponse()

    @_answering
    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._service.unload(request.model_name)
        return service_pb2.RepositoryModelUnloadResponse()


async def _not_offered(self: Any, request: Any, context: Any) -> None:
    """Of a method of the protocol that is left out here. Where the base answers it, each call is an error in the log."""
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "is not offered here: no streams, no shared memory, no tracing.")


for _name in vars(service_pb2_grpc.GRPCInferenceServiceServicer):
    if not _name.startswith("_") and _name not in vars(_Servicer):
        setattr(_Servicer, _name, _not_offered)


class _Parsing(grpc.aio.ServerInterceptor):
    """Lets bytes that are no message reach the method as None: grpc itself would call them a fault of the server."""

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = await continuation(details)
        if handler is None or handler.request_deserializer is None:
            return handler
        return handler._replace(request_deserializer=functools.partial(_parsed, handler.request_deserializer))


def _parsed(parse: Callable[[bytes], Any], content: bytes) -> Any:
    try:
        return parse(content)
    except DecodeError:
        return None


class _KeyCheck(grpc.aio.ServerInterceptor):
    def __init__(self, keys: ApiKeys) -> None:
        self._keys = keys
        self._refuse = grpc.unary_unary_rpc_method_handler(self._abort)

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        sent = [value for name, value in details.invocation_metadata if name == "authorization"]
        if details.method in _HEALTH or (len(sent) == 1 and self._keys.allow(sent[0])):
            return await continuation(details)
        return self._refuse

    @staticmethod
    async def _abort(request: Any, context: Any) -> None:
        await context.abort(
            grpc.StatusCode.UNAUTHENTICATED, "send a valid key in the metadata: authorization: Bearer KEY."
        )


def make_grpc_server(service: Service, keys: ApiKeys | None) -> Any:
    """A ``grpc.aio.Server`` over a service, without a port yet."""
    settings = service.settings
    server = grpc.aio.server(
        interceptors=[_Parsing()] if keys is None else [_KeyCheck(keys), _Parsing()],
        options=[
            ("grpc.so_reuseport", 1),  # how its workers share a port
            ("grpc.max_receive_message_length", settings.max_body),
            ("grpc.server_handshake_timeout_ms", int(settings.read_timeout * 1000)),
        ],
        maximum_concurrent_rpcs=settings.max_queue * _CALLS_PER_ROW,
    )
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Servicer(service), server)
    return server
