"""What every technique consists of: the part that stands in a plan, and what core must know of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator

from ..families import ModelShape
from ..problems import problem
from ..targets import Grid, Target, TargetKind

if TYPE_CHECKING:
    from ..plan import ApproximationPlan

__all__ = ["Count", "Part", "Technique", "Widths"]

LARGEST = 2**31 - 1
"""No model is larger; a file may hold numbers of any length, but messages and ONNX attributes cannot."""
Count = Annotated[int, Field(ge=1, le=LARGEST)]


def _read_address(value: object) -> Target:
    if isinstance(value, Target):
        return value
    try:
        return Target.parse(value if isinstance(value, str) else repr(value))
    except ValueError as error:
        raise problem(str(error)) from None


class Part(BaseModel):
    """One line of a plan: an action on a target. The subclasses are the actions, each with its own settings."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    target: Annotated[Target, PlainValidator(_read_address), PlainSerializer(str)]
    action: str

    def __str__(self) -> str:
        settings = self.model_dump(exclude={"target", "action"})
        said = ", ".join(f"{name} {value}" for name, value in settings.items())
        return f"{self.target}: {self.action}" + (f" ({said})" if said else "")


@dataclass(frozen=True)
class Widths:
    """How wide the projections of a layer are; a block of width 0 is not there."""

    hidden: int
    """The residual stream."""
    inputs: int
    """Input features of W_Q, W_K and W_V."""
    context: int
    """Output features of W_Q, W_K and W_V, which W_O reads."""
    neurons: int
    keys: int | None = None
    """Keys that a query attends to, at most; None = all."""

    @classmethod
    def whole(cls, shape: ModelShape) -> Widths:
        """Of a layer from which nothing is removed."""
        return cls(shape.hidden_size, shape.hidden_size, shape.hidden_size, shape.intermediate_size)


@dataclass(frozen=True)
class Technique:
    """One way to make a model cheaper."""

    name: str
    """Its key in the tables of ``toolchain/apply.py`` and ``exporters/rewrites``."""
    part: type[Part]
    kinds: tuple[TargetKind, ...]
    """Kinds of targets that it is for."""
    check: Callable[[Sequence[Any], ApproximationPlan], None]
    """Raises `problem` where its parts contradict each other or the rest of a plan, which is complete otherwise."""
    narrow: Callable[[Widths, Any, Grid], Widths]
    """What a part leaves of a layer; costs follow from it."""
    describe: Callable[[Sequence[Any], Grid], str]
    """Its parts on one block, in a few words."""
