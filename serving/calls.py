"""A request and its answer as both protocols mean them, before the graph and after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from .refusals import Reason, Refused, shown
from .tensors import Values

__all__ = ["InferAnswer", "InferCall", "TensorIn", "seconds_of", "unsupported_parameters"]

_UNSUPPORTED = {
    "sequence_id": "models here keep no state between requests",
    "priority": "requests are answered in the order of their arrival",
    "shared_memory_region": "send the tensor itself",
    "classification": "POST texts to /v1/models/NAME/classify for labels",
}
"""Parameters that would change the answer if they were followed, and what to do."""


@dataclass(frozen=True)
class TensorIn:
    """An input as it was sent, not yet compared with the graph."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Values


@dataclass(frozen=True)
class InferCall:
    """A request for one model."""

    model: str
    version: str
    """Empty for any."""
    inputs: tuple[TensorIn, ...]
    outputs: tuple[str, ...] | None = None
    """Names of the outputs that are asked for; None for all."""
    id: str = ""
    """Chosen by the client and sent back with the answer."""
    timeout: float | None = None
    """Seconds from its arrival after which nobody waits for the answer any more."""
    binary: Mapping[str, bool] = field(default_factory=dict)
    """Output name -> whether it is to be raw bytes."""
    all_binary: bool = False
    """The same for outputs that `binary` does not name."""


@dataclass(frozen=True)
class InferAnswer:
    """What the model says."""

    call: InferCall
    version: str
    outputs: Mapping[str, np.ndarray]


def seconds_of(timeout: object) -> float | None:
    """The protocol's ``timeout``, in microseconds; None or 0 is none.

    Raises:
        Refused: it is no such number.
    """
    if timeout is None:
        return None
    if type(timeout) is not int or not 0 <= timeout < 2**63:
        raise Refused(Reason.INVALID, "timeout must be a whole number of microseconds.")
    return timeout / 1e6 or None


def unsupported_parameters(parameters: Mapping[str, object]) -> None:
    """Refuse parameters that cannot be followed; what a client adds for its own use is ignored.

    Raises:
        Refused: with what to do.
    """
    for name, remedy in _UNSUPPORTED.items():
        if parameters.get(name):
            raise Refused(Reason.INVALID, f"parameter {name} {shown(parameters[name])} is not supported: {remedy}.")
