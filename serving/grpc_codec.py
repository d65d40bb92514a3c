"""The gRPC form of requests and answers. Answers are raw bytes, as Triton sends them."""

from __future__ import annotations

from typing import Any

from tritonclient.grpc import service_pb2

from .calls import InferAnswer, InferCall, TensorIn, seconds_of, unsupported_parameters
from .refusals import Reason, Refused, shown
from .tensors import Values, bytes_of, checked_shape, type_of

__all__ = ["read_call", "write_answer"]

_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
"""Which field holds numbers of a type; FP16 has none."""


def read_call(request: Any, remaining: float | None) -> InferCall:
    """A ``ModelInferRequest``.

    Args:
        remaining: seconds until the client's own deadline.

    Raises:
        Refused: it is not one that can be answered.
    """
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise Refused(
            Reason.INVALID,
            f"{len(raw)} raw_input_contents for {len(request.inputs)} inputs; send one for each, or none.",
        )
    if not request.inputs:
        raise Refused(Reason.INVALID, "the request has no inputs.")
    for entry in request.outputs:
        unsupported_parameters(_parameters(entry))
    parameters = _parameters(request)
    unsupported_parameters(parameters)
    limits = [limit for limit in (seconds_of(parameters.get("timeout")), remaining) if limit is not None]
    return InferCall(
        request.model_name,
        request.model_version,
        tuple(_tensor(entry, raw[index] if raw else None) for index, entry in enumerate(request.inputs)),
        outputs=tuple(output.name for output in request.outputs) or None,
        id=request.id,
        timeout=min(limits, default=None),
    )


def write_answer(answer: InferAnswer) -> Any:
    """A ``ModelInferResponse``."""
    call = answer.call
    response = service_pb2.ModelInferResponse(model_name=call.model, model_version=answer.version, id=call.id)
    for name, array in answer.outputs.items():
        response.outputs.add(name=name, datatype=type_of(array).name, shape=array.shape)
        response.raw_output_contents.append(bytes_of(array))
    return response


def _tensor(entry: Any, raw: bytes | None) -> TensorIn:
    unsupported_parameters(_parameters(entry))
    values = _numbers(entry) if raw is None else raw
    if raw is not None and entry.HasField("contents"):
        raise Refused(Reason.INVALID, f"input {shown(entry.name)}: has both contents and raw_input_contents.")
    return TensorIn(entry.name, entry.datatype, checked_shape(shown(entry.name), list(entry.shape)), values)


def _numbers(entry: Any) -> Values:
    """The numbers of the one field that the type has; any other field that is set is a mistake."""
    wanted = _CONTENTS.get(entry.datatype)
    filled = [field.name for field, _ in entry.contents.ListFields()]
    if wanted is None or any(name != wanted for name in filled):
        raise Refused(
            Reason.INVALID,
            f"input {shown(entry.name)}: {shown(entry.datatype)} goes into {wanted or 'raw_input_contents'}, "
            f"not into {', '.join(filled) or 'contents'}.",
        )
    return list(getattr(entry.contents, wanted))


def _parameters(entry: Any) -> dict[str, object]:
    return {
        name: getattr(value, value.WhichOneof("parameter_choice") or "", None)
        for name, value in entry.parameters.items()
    }
