"""What a graph asks for and answers, by its session, and whether requests fit it and each other.

Requests may share a run of the model if no answer can depend on its neighbours:

- Requests of different lengths, padded: where all inputs are the token ids, types and mask of texts, (batch, sequence),
  and every other free dimension of an output is that same sequence, at which answers are cut off again.
- Requests of one shape: where first dimensions are the batch, and nothing is known of the others.
- None: in a graph that quantizes its activations while it runs, one scale is taken over the whole batch
  (DynamicQuantizeLinear, ONNX opset 11), so every request runs by itself.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..core.families import FAMILIES
from ..errors import AxformError
from ..runtime.bundle import Bundle
from .calls import InferCall, TensorIn
from .refusals import Reason, Refused, shown
from .tensors import DataType, array_of, data_type

__all__ = ["Limits", "Mixing", "Port", "Signature", "quantizes_while_running", "read_limits", "signature_of"]

Mixing = Literal["lengths", "shapes", "none"]
_TEXT_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
_SMALLEST_BUCKET = 16
_BUCKET_RATIO = 1.25
"""Between the lengths of neighbouring buckets: at most a fifth of a batch is padding, on average far less."""
_QUANTIZES = b"\x22\x15DynamicQuantizeLinear"
"""How a NodeProto writes its ``op_type``: field 4, 21 bytes."""


@dataclass(frozen=True)
class Limits:
    """What inputs may hold beyond their type."""

    rows: int
    """In one request; --max-batch."""
    length: int
    """Tokens of a row."""
    vocabulary: int | None = None
    """Of token ids; None where it is not known."""
    segments: int | None = None
    """Of token type ids."""


@dataclass(frozen=True)
class Port:
    """An input or output."""

    name: str
    kind: DataType
    shape: tuple[int | str, ...]
    """A name for each free dimension."""

    @property
    def free_shape(self) -> list[int]:
        """The shape with -1 for free dimensions, as metadata tell it."""
        return [size if isinstance(size, int) else -1 for size in self.shape]


class Signature:
    """The inputs and outputs of a model."""

    def __init__(
        self,
        inputs: Sequence[Port],
        outputs: Sequence[Port],
        limits: Limits,
        pad_values: Mapping[str, int],
        quantized: bool,
    ) -> None:
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.limits = limits
        self.pad_values = pad_values
        self.mixing = _mixing(self.inputs, self.outputs, quantized)
        self.sequence = self.inputs[0].shape[1] if self.mixing == "lengths" else None
        """The name of the dimension that is padded."""

    def feeds(self, call: InferCall) -> dict[str, np.ndarray]:
        """The inputs of a request as the graph takes them.

        Raises:
            Refused: it does not fit the graph.
        """
        given = _by_name(call.inputs)
        names = [port.name for port in self.inputs]
        for name in given:
            if name not in names:
                raise Refused(Reason.INVALID, f"input {shown(name)} is not known; inputs are {', '.join(names)}.")
        sizes: dict[str, int] = {}
        feeds = {}
        for port in self.inputs:
            if port.name not in given:
                raise Refused(Reason.INVALID, f"input {port.name} is missing; inputs are {', '.join(names)}.")
            _check_form(port, given[port.name], sizes, self.limits)
        for port in self.inputs:
            tensor = given[port.name]
            feeds[port.name] = array_of(port.name, tensor.values, port.kind, tensor.shape)
            _check_values(port, feeds[port.name], self.limits)
        return feeds

    def wanted(self, call: InferCall) -> list[str]:
        """Names of the outputs that a request asks for.

        Raises:
            Refused: there is no such output, or it is asked for twice.
        """
        known = [port.name for port in self.outputs]
        asked = known if call.outputs is None else list(call.outputs)
        for name in asked:
            if name not in known:
                raise Refused(Reason.INVALID, f"output {shown(name)} is not known; outputs are {', '.join(known)}.")
        if len(set(asked)) < len(asked):
            raise Refused(Reason.INVALID, "an output is asked for twice.")
        return asked

    def bucket(self, feeds: Mapping[str, np.ndarray]) -> object:
        """What requests that may run together share; where none may, all are in one, to be taken one by one."""
        if self.mixing == "none":
            return "alone"
        if self.mixing == "shapes":
            return tuple(array.shape[1:] for array in feeds.values())
        ratio = max(1.0, feeds[self.inputs[0].name].shape[1] / _SMALLEST_BUCKET)
        return math.ceil(math.log(ratio, _BUCKET_RATIO))

    def example(self, rows: int = 1, length: int = 8) -> dict[str, np.ndarray]:
        """Inputs that any such graph can run."""
        length = min(length, self.limits.length)
        feeds = {}
        for port in self.inputs:
            shape = [
                size if isinstance(size, int) else rows if axis == 0 else length for axis, size in enumerate(port.shape)
            ]
            feeds[port.name] = np.full(shape, int("mask" in port.name), port.kind.numpy)
        return feeds


def signature_of(session: Any, bundle: Bundle, rows: int, pad_values: Mapping[str, int]) -> Signature:
    """Read the signature of a session on a bundle's model.

    Args:
        rows: the most that a request may have.

    Raises:
        AxformError: a type or a shape that the protocol cannot carry.
    """
    inputs, outputs = (
        [_port(entry, bundle) for entry in entries] for entries in (session.get_inputs(), session.get_outputs())
    )
    for port in inputs + outputs:
        if not port.shape or isinstance(port.shape[0], int):
            raise AxformError(
                f"{bundle.model}: the first dimension of {port.name} is no free batch; export it again with axform-export."
            )
    return Signature(inputs, outputs, read_limits(bundle, rows), pad_values, quantizes_while_running(bundle.model))


def read_limits(bundle: Bundle, rows: int) -> Limits:
    """What the config of the model, where the bundle has one, says of its inputs."""
    path = bundle.path / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}

    def number(name: str) -> int | None:
        value = config.get(name) if isinstance(config, dict) else None
        return value if type(value) is int and value > 0 else None

    positions = number("max_position_embeddings") or bundle.manifest.max_length
    family = FAMILIES.get(str(config.get("model_type"))) if isinstance(config, dict) else None
    if family is not None and family.positions_follow_padding:
        positions -= (number("pad_token_id") or 0) + 1
    return Limits(rows, max(positions, 1), number("vocab_size"), number("type_vocab_size"))


def quantizes_while_running(model: Path) -> bool:
    """Whether the graph takes scales of activations while it runs. The bytes tell, so that nothing has to parse them."""
    with model.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(_QUANTIZES) >= 0


def _port(entry: Any, bundle: Bundle) -> Port:
    kind = data_type(entry.type)
    if kind is None:
        raise AxformError(f"{bundle.model}: {entry.name} is a {entry.type}, which the protocol cannot carry.")
    shape = (
        size if isinstance(size, int) else str(size or f"{entry.name}.{axis}") for axis, size in enumerate(entry.shape)
    )
    return Port(entry.name, kind, tuple(shape))


def _mixing(inputs: Sequence[Port], outputs: Sequence[Port], quantized: bool) -> Mixing:
    if quantized:
        return "none"
    batch = inputs[0].shape[0]
    if any(port.shape[0] != batch for port in (*inputs, *outputs)):
        return "none"
    names = {port.name for port in inputs}
    is_text = names <= _TEXT_INPUTS and {"input_ids", "attention_mask"} <= names
    rectangle = inputs[0].shape
    free = {size for port in outputs for size in port.shape[1:] if isinstance(size, str)}
    if is_text and len(rectangle) == 2 and all(port.shape == rectangle for port in inputs) and free <= {rectangle[1]}:
        return "lengths" if isinstance(rectangle[1], str) else "shapes"
    return "shapes"


def _by_name(tensors: Sequence[TensorIn]) -> dict[str, TensorIn]:
    given: dict[str, TensorIn] = {}
    for tensor in tensors:
        if tensor.name in given:
            raise Refused(Reason.INVALID, f"input {shown(tensor.name)} is given twice.")
        given[tensor.name] = tensor
    return given


def _check_form(port: Port, tensor: TensorIn, sizes: dict[str, int], limits: Limits) -> None:
    """Compare type and shape with the graph, and free dimensions with those of the inputs before."""
    if tensor.datatype != port.kind.name:
        raise Refused(
            Reason.INVALID, f"input {port.name} is {port.kind.name} here, not {shown(tensor.datatype)}; convert it."
        )
    fits = len(tensor.shape) == len(port.shape) and all(
        size == (known if isinstance(known, int) else sizes.setdefault(known, size))
        for size, known in zip(tensor.shape, port.shape, strict=True)
    )
    if not fits:
        raise Refused(
            Reason.INVALID,
            f"input {port.name}: shape {list(tensor.shape)} does not fit {port.free_shape} and the other inputs.",
        )
    if 0 in tensor.shape:
        raise Refused(Reason.INVALID, f"input {port.name}: shape {list(tensor.shape)} holds nothing.")
    if tensor.shape[0] > limits.rows:
        raise Refused(
            Reason.INVALID,
            f"input {port.name}: {tensor.shape[0]} rows, but one request has at most {limits.rows}; send several.",
        )
    free = [size for size, known in zip(tensor.shape[1:], port.shape[1:], strict=True) if isinstance(known, str)]
    if max(free, default=0) > limits.length:
        raise Refused(
            Reason.INVALID,
            f"input {port.name}: shape {list(tensor.shape)}, but the model knows {limits.length} positions; cut it.",
        )


def _check_values(port: Port, array: np.ndarray, limits: Limits) -> None:
    below = {"input_ids": limits.vocabulary, "token_type_ids": limits.segments, "attention_mask": 2}.get(port.name)
    if array.dtype.kind not in "iu" or port.name not in _TEXT_INPUTS:
        return
    if array.min() < 0 or (below is not None and array.max() >= below):
        most = "" if below is None else f" to {below - 1}"
        raise Refused(Reason.INVALID, f"input {port.name} holds numbers other than 0{most}.")
    if port.name == "attention_mask" and not array.any(axis=1).all():
        raise Refused(Reason.INVALID, "input attention_mask has a row without any token; leave that row out.")
