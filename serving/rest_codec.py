"""The REST form of requests and answers: a JSON object, after which raw bytes of tensors may follow.

As the Open Inference Protocol and its binary tensor data extension define them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..files import parse_json
from ..runtime.texts import Text
from .calls import InferAnswer, InferCall, TensorIn, seconds_of, unsupported_parameters
from .refusals import Reason, Refused, shown
from .service import Classified
from .tensors import Values, bytes_of, checked_shape, json_of, type_of

__all__ = ["read_call", "read_object", "read_texts", "write_answer", "write_classified"]

_MOST_DIGITS = 12
_MOST_TENSORS = 64


def read_object(content: bytes | memoryview) -> dict[str, Any]:
    """A body, or its beginning, as a JSON object.

    Raises:
        Refused: it is none.
    """
    try:
        value = parse_json(bytes(content).decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else "not readable as JSON in UTF-8"
        raise Refused(Reason.INVALID, f"the request is {reason}.") from None
    return _object(value, "the request")


def read_call(model: str, version: str, body: bytes, header_length: str | None) -> InferCall:
    """A tensor request.

    Args:
        header_length: Inference-Header-Content-Length, the bytes of JSON, where raw bytes follow.

    Raises:
        Refused: it is not one.
    """
    end = _header_end(header_length, len(body))
    request = read_object(memoryview(body)[:end])
    raw = _Raw(memoryview(body)[end:])
    inputs = tuple(_tensor(entry, raw) for entry in _list(request, "inputs"))
    if not inputs:
        raise Refused(Reason.INVALID, "the request has no inputs.")
    raw.check_used()
    parameters = _parameters(request)
    names, binary = _outputs(request)
    identifier = request.get("id", "")
    if not isinstance(identifier, str):
        raise Refused(Reason.INVALID, "id must be a text.")
    return InferCall(
        model,
        version,
        inputs,
        outputs=names,
        id=identifier,
        timeout=seconds_of(parameters.get("timeout")),
        binary=binary,
        all_binary=_flag(parameters, "binary_data_output"),
    )


def read_texts(body: bytes) -> tuple[list[Text], float | None]:
    """The texts of a request to classify, and its timeout in seconds.

    Raises:
        Refused: it is not one.
    """
    request = read_object(body)
    texts: list[Text] = []
    for number, entry in enumerate(_list(request, "texts", most=None)):
        is_pair = isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)
        if not is_pair and not isinstance(entry, str):
            raise Refused(Reason.INVALID, f"texts: number {number} is neither a text nor a list of two.")
        texts.append((entry[0], entry[1]) if is_pair else entry)
    if not texts:
        raise Refused(Reason.INVALID, "texts is empty; give a list of texts, or of pairs of them.")
    return texts, seconds_of(request.get("timeout"))


def write_answer(answer: InferAnswer) -> tuple[bytes, int | None]:
    """The body of an answer, and the bytes of JSON in it where raw bytes follow."""
    call = answer.call
    outputs, raw = [], []
    for name, array in answer.outputs.items():
        entry: dict[str, Any] = {"name": name, "datatype": type_of(array).name, "shape": list(array.shape)}
        if call.binary.get(name, call.all_binary):
            raw.append(bytes_of(array))
            entry["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            entry["data"] = json_of(name, array)
        outputs.append(entry)
    head: dict[str, Any] = {"model_name": call.model, "model_version": answer.version, "outputs": outputs}
    if call.id:
        head["id"] = call.id
    written = json.dumps(head).encode()
    return (written, None) if not raw else (b"".join([written, *raw]), len(written))


def write_classified(classified: Classified) -> bytes:
    """The body of an answer to texts."""
    labels = classified.model.labels
    rows = classified.scores.tolist()
    if not labels:
        predictions: list[dict[str, Any]] = [{"score": row[0]} for row in rows]
    else:
        best = classified.scores.argmax(axis=1).tolist()
        predictions = [
            {"label": labels[index], "score": row[index], "scores": dict(zip(labels, row, strict=True))}
            for index, row in zip(best, rows, strict=True)
        ]
    return json.dumps({"model": classified.model.name, "predictions": predictions}).encode()


class _Raw:
    """The bytes after the JSON, of which each binary input takes its own in turn."""

    def __init__(self, content: memoryview) -> None:
        self._content = content
        self._used = 0

    def take(self, name: str, size: object) -> memoryview:
        if type(size) is not int or not 0 <= size <= len(self._content) - self._used:
            raise Refused(
                Reason.INVALID,
                f"input {name}: binary_data_size {shown(size)}, but {len(self._content) - self._used} bytes are left.",
            )
        self._used += size
        return self._content[self._used - size : self._used]

    def check_used(self) -> None:
        if self._used != len(self._content):
            raise Refused(Reason.INVALID, f"{len(self._content) - self._used} bytes follow that no input names.")


def _tensor(entry: object, raw: _Raw) -> TensorIn:
    given = _object(entry, "an input")
    name, datatype = given.get("name"), given.get("datatype")
    if not isinstance(name, str) or not isinstance(datatype, str):
        raise Refused(Reason.INVALID, "an input has no name or no datatype, which are texts.")
    parameters = _parameters(given)
    size, data = parameters.get("binary_data_size"), given.get("data")
    if (size is None) == (data is None):
        raise Refused(Reason.INVALID, f"input {shown(name)}: give either data or parameters.binary_data_size.")
    values: Values = raw.take(shown(name), size) if data is None else _list(given, "data", most=None)
    return TensorIn(name, datatype, checked_shape(shown(name), given.get("shape")), values)


def _outputs(request: Mapping[str, Any]) -> tuple[tuple[str, ...] | None, dict[str, bool]]:
    if not request.get("outputs"):
        return None, {}
    names, binary = [], {}
    for entry in _list(request, "outputs"):
        output = _object(entry, "an output")
        name = output.get("name")
        if not isinstance(name, str):
            raise Refused(Reason.INVALID, "an output has no name, which is a text.")
        names.append(name)
        parameters = _parameters(output)
        if "binary_data" in parameters:
            binary[name] = _flag(parameters, "binary_data")
    return tuple(names), binary


def _parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    parameters = _object(given.get("parameters", {}), "parameters")
    unsupported_parameters(parameters)
    return parameters


def _flag(parameters: Mapping[str, Any], name: str) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise Refused(Reason.INVALID, f"parameter {name} must be true or false.")
    return value


def _list(given: Mapping[str, Any], name: str, most: int | None = _MOST_TENSORS) -> list[Any]:
    value = given.get(name)
    if not isinstance(value, list) or (most is not None and len(value) > most):
        raise Refused(Reason.INVALID, f"{name} must be a list" + ("." if most is None else f" of at most {most}."))
    return value


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Refused(Reason.INVALID, f"{what} must be a JSON object.")
    return value


def _header_end(header_length: str | None, size: int) -> int:
    if header_length is None:
        return size
    if not (header_length.isascii() and header_length.isdigit() and len(header_length) <= _MOST_DIGITS):
        raise Refused(Reason.INVALID, "Inference-Header-Content-Length must be a number of bytes.")
    if int(header_length) > size:
        raise Refused(
            Reason.INVALID, f"Inference-Header-Content-Length is {header_length}, but the body has {size} bytes."
        )
    return int(header_length)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"JSON has no {name}")
