"""Types of the Open Inference Protocol, and tensors as it writes them: numbers in JSON, or raw bytes.

Raw bytes are little-endian and row-major without gaps (the protocol's binary tensor data extension).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeAlias

import numpy as np

from .refusals import Reason, Refused

__all__ = ["DataType", "Values", "array_of", "bytes_of", "checked_shape", "data_type", "json_of", "type_of"]

Values: TypeAlias = bytes | memoryview | list[Any]
"""Raw bytes, or the numbers of JSON, flat or nested like the shape."""
_MOST_DIMENSIONS = 8
_LARGEST_DIMENSION = 2**31 - 1


@dataclass(frozen=True)
class DataType:
    """A type that a graph may ask for."""

    name: str
    """In the protocol, such as INT64."""
    numpy: np.dtype[Any]
    """Little-endian, as raw bytes are."""

    @property
    def config_name(self) -> str:
        """In a model's configuration, such as TYPE_INT64."""
        return f"TYPE_{self.name}"


_ONNX = {
    "bool": ("BOOL", "?"),
    "int8": ("INT8", "i1"),
    "int16": ("INT16", "<i2"),
    "int32": ("INT32", "<i4"),
    "int64": ("INT64", "<i8"),
    "uint8": ("UINT8", "u1"),
    "uint16": ("UINT16", "<u2"),
    "uint32": ("UINT32", "<u4"),
    "uint64": ("UINT64", "<u8"),
    "float16": ("FP16", "<f2"),
    "float": ("FP32", "<f4"),
    "double": ("FP64", "<f8"),
}
_TYPES = {f"tensor({onnx})": DataType(name, np.dtype(kind)) for onnx, (name, kind) in _ONNX.items()}
_BY_NUMPY = {kind.numpy: kind for kind in _TYPES.values()}


def data_type(onnx: str) -> DataType | None:
    """The type that ONNX Runtime calls ``tensor(int64)`` and the like; None for one that the protocol does not have."""
    return _TYPES.get(onnx)


def type_of(array: np.ndarray) -> DataType:
    """The type of an output, which `data_type` knew when the model was loaded."""
    return _BY_NUMPY[array.dtype]


def checked_shape(name: str, shape: object) -> tuple[int, ...]:
    """A shape from outside.

    Raises:
        Refused: it is none.
    """
    if not isinstance(shape, list) or len(shape) > _MOST_DIMENSIONS:
        raise Refused(Reason.INVALID, f"input {name}: shape must be a list of at most {_MOST_DIMENSIONS} numbers.")
    for size in shape:
        if type(size) is not int or not 0 <= size <= _LARGEST_DIMENSION:
            raise Refused(Reason.INVALID, f"input {name}: shape holds something that is no size of a dimension.")
    return tuple(shape)


def array_of(name: str, values: Values, kind: DataType, shape: Sequence[int]) -> np.ndarray:
    """The tensor that a client sent.

    Raises:
        Refused: too few or too many bytes or numbers, or numbers that the type does not have.
    """
    if isinstance(values, list):
        return _of_numbers(name, values, kind, shape)
    size = math.prod(shape) * kind.numpy.itemsize
    if len(values) != size:
        raise Refused(
            Reason.INVALID,
            f"input {name}: {len(values)} bytes of data, but shape {list(shape)} of {kind.name} takes {size}.",
        )
    if kind.name == "BOOL" and np.frombuffer(values, np.uint8).max(initial=0) > 1:
        raise Refused(Reason.INVALID, f"input {name}: a BOOL is a byte of 0 or 1.")
    return np.frombuffer(values, kind.numpy).reshape(shape)


def bytes_of(array: np.ndarray) -> bytes:
    """A tensor as raw bytes."""
    return np.ascontiguousarray(array, type_of(array).numpy).tobytes()


def json_of(name: str, array: np.ndarray) -> list[Any]:
    """A tensor as flat numbers.

    Raises:
        Refused: some are not finite, for which JSON has no word.
    """
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Refused(Reason.FAILED, f"output {name} holds numbers that JSON cannot; ask for it with binary_data.")
    flat: list[Any] = array.ravel().tolist()
    return flat


def _of_numbers(name: str, values: list[Any], kind: DataType, shape: Sequence[int]) -> np.ndarray:
    flat = _flattened(name, values, shape)
    wanted = math.prod(shape)
    if len(flat) != wanted:
        raise Refused(
            Reason.INVALID, f"input {name}: {len(flat)} numbers of data, but shape {list(shape)} takes {wanted}."
        )
    by_kind: dict[str, set[type]] = {"b": {bool}, "f": {int, float}}
    allowed = by_kind.get(kind.numpy.kind, {int})
    if not {type(value) for value in flat} <= allowed:
        raise Refused(Reason.INVALID, f"input {name}: data holds something that is no {kind.name}.")
    try:
        with np.errstate(over="raise"):
            array = np.array(flat, kind.numpy)
    except (OverflowError, FloatingPointError, ValueError):
        raise Refused(Reason.INVALID, f"input {name}: data holds a number that no {kind.name} can be.") from None
    return array.reshape(shape)


def _flattened(name: str, values: list[Any], shape: Sequence[int]) -> list[Any]:
    """Nested lists, which must be of the shape, as one."""
    if not values or not isinstance(values[0], list):
        return values
    for depth, size in enumerate(shape):
        if depth and not all(isinstance(part, list) for part in values):
            break
        parts = [values] if depth == 0 else values
        if any(len(part) != size for part in parts):
            break
        values = parts[0] if depth == 0 else list(chain.from_iterable(parts))
    else:
        return values
    raise Refused(Reason.INVALID, f"input {name}: data is nested in another way than shape {list(shape)}.")
