"""The approximation plan: what happens to which part of a model, as versioned JSON.

The plan is the only thing that the exporter needs from the search. It is a list of parts, each an action on a target
(`core/targets.py`); the actions are those of `core/techniques`. A plan never changes; others are derived from it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ..errors import AxformError
from ..files import read_json, write_text
from .families import FAMILIES, ModelShape
from .plan_v1 import upgraded
from .problems import first_problem, problem
from .targets import BlockKind, Grid, Target, TargetKind
from .techniques import AnyPart, Bits, Count, Part, Remove, Selection, SignMatching, by_technique, technique_of
from .techniques.bits import said

__all__ = [
    "SCHEMA_VERSION",
    "ApproximationPlan",
    "Bits",
    "Focus",
    "LayerPlan",
    "ModelIdentity",
    "Remove",
    "Segment",
    "Selection",
    "SignMatching",
    "default_group_size",
]

SCHEMA_VERSION = 2

Focus = Literal["accuracy", "speed", "size"]
_Part = TypeVar("_Part", bound=Part)


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ModelIdentity(_Frozen):
    """The model a plan belongs to."""

    family: str
    num_layers: Count
    num_heads: Count
    hidden_size: Count
    intermediate_size: Count
    fingerprint: Annotated[str, BeforeValidator(lambda value: "" if value is None else value)] = ""
    """SHA-256 over the names, shapes and values of all weights; empty where a plan written by hand leaves it out."""

    @property
    def shape(self) -> ModelShape:
        return ModelShape(self.num_layers, self.num_heads, self.hidden_size, self.intermediate_size)

    @model_validator(mode="after")
    def _check(self) -> ModelIdentity:
        if self.family not in FAMILIES:
            raise problem(f"family {self.family!r} is unknown; known: {', '.join(sorted(FAMILIES))}")
        if self.hidden_size % self.num_heads:
            raise problem(f"num_heads {self.num_heads} does not divide hidden_size {self.hidden_size}")
        return self


@dataclass(frozen=True)
class Segment:
    """A stretch of a dimension, in positions of what is left of it, whose weights have the same bits."""

    start: int
    stop: int
    bits: int
    group: int | None
    """As in `Bits`."""

    @property
    def said(self) -> str:
        return said(self.bits, self.group)


@dataclass(frozen=True)
class LayerPlan:
    """What happens to one layer; equal where the same happens."""

    parts: tuple[Part, ...]
    grid: Grid
    rest: Bits | None = None
    """Of the weights that no part names; None = they stay as they are."""

    def every(self, kind: type[_Part]) -> list[_Part]:
        """The parts with this action."""
        return [part for part in self.parts if isinstance(part, kind)]

    def removed(self, kind: TargetKind) -> list[int]:
        """Indices of the heads or groups of this kind that are removed, ascending."""
        indices = (part.target.index for part in self.every(Remove) if part.target.kind == kind)
        return [index for index in indices if index is not None]

    def kept(self, kind: TargetKind) -> list[int]:
        """The positions that remain of the dimension that heads or groups of this kind divide."""
        return self.grid.kept(kind, self.removed(kind))

    def skips(self, block: BlockKind) -> bool:
        """Whether the whole block is removed."""
        return any(part.target.kind == block for part in self.every(Remove))

    def segments(self, kind: Literal["attn.head", "ffn.group"]) -> list[Segment]:
        """The bits along what is left of the dimension that heads or groups of this kind divide.

        Neighbours with the same bits are one segment and share their scales; what stays as it is, is in none.
        """
        named = {(part.target.kind, part.target.index): part for part in self.every(Bits)}
        block: BlockKind = "attn" if kind == "attn.head" else "ffn"
        gone, position = {*self.removed(kind)}, 0
        found: list[Segment] = []
        for index in range(self.grid.count(kind)):
            if index in gone:
                continue
            part = named.get((kind, index)) or named.get((block, None)) or self.rest
            stop = position + self.grid.width(Target(0, kind, index))
            if part is not None:
                last = found[-1] if found else None
                if last is not None and (last.stop, last.bits, last.group) == (position, part.bits, part.group):
                    found[-1] = replace(last, stop=stop)
                else:
                    found.append(Segment(position, stop, part.bits, part.group))
            position = stop
        return found

    def describe(self, block: BlockKind) -> str:
        """What happens to one block, in a few words; empty where nothing does."""
        parts = [part for part in self.parts if part.target.block == block]
        return ", ".join(technique.describe(mine, self.grid) for technique, mine in by_technique(parts).items())


class ApproximationPlan(_Frozen):
    """The whole plan. `load` and `save` read and write ``plan.json``.

    Raises:
        pydantic.ValidationError: a part that the model does not have, or one that contradicts another.
    """

    schema_version: Count = SCHEMA_VERSION
    model: ModelIdentity
    group_size: Count
    focus: Focus | None = None
    task: str | None = None
    parts: Annotated[
        tuple[AnyPart, ...],
        Field(strict=False),  # JSON has lists, no tuples
        AfterValidator(lambda parts: tuple(sorted(parts, key=lambda part: (part.target.place, part.action)))),
    ]
    """In the order of their targets."""

    @classmethod
    def empty(
        cls, model: ModelIdentity, group_size: int, focus: Focus | None = None, task: str | None = None
    ) -> ApproximationPlan:
        """A plan that changes nothing."""
        return cls(model=model, group_size=group_size, focus=focus, task=task, parts=())

    @classmethod
    def load(cls, path: Path) -> ApproximationPlan:
        """Read and validate a plan.

        Raises:
            AxformError: unreadable, not a plan, of a newer schema, naming a part that the model does not have, or with
                parts that contradict each other.
        """
        return cls.from_json(read_json(path, "restore it, or make it with `axform optimize`"), str(path))

    @classmethod
    def from_json(cls, raw: object, source: str) -> ApproximationPlan:
        """Validate parsed JSON; ``source`` names the file in error messages."""
        if not isinstance(raw, dict) or type(raw.get("schema_version")) is not int:
            raise AxformError(f"{source}: not an axform plan (no schema_version).")
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            raise AxformError(f"{source}: {first_problem(error)}.") from None

    def save(self, path: Path) -> None:
        """Write the plan in one step."""
        write_text(path, self.model_dump_json(indent=2) + "\n")

    @property
    def grid(self) -> Grid:
        """The targets that the model has."""
        return Grid(self.model.shape, self.group_size)

    @property
    def layers(self) -> tuple[LayerPlan, ...]:
        """The plan layer by layer."""
        parts: list[list[Part]] = [[] for _ in range(self.model.num_layers)]
        for part in self.parts:
            if part.target.in_layer:
                parts[part.target.layer].append(part)
        return tuple(LayerPlan(tuple(mine), self.grid, self.rest) for mine in parts)

    @property
    def rest(self) -> Bits | None:
        """Of all weight matrices and embeddings that no other part names; None = they stay as they are."""
        return self.bits_of(Target.outside("rest"))

    @property
    def word_embeddings(self) -> Bits | None:
        """None = they stay as they are."""
        return self.bits_of(Target.outside("embeddings.word"))

    def bits_of(self, target: Target) -> Bits | None:
        """Those that are said of the target, or else of the block that it lies in, or else of the rest."""
        said = {part.target: part for part in self.parts if isinstance(part, Bits)}
        return said.get(target) or said.get(target.parent) or said.get(Target.outside("rest"))

    def changes(self) -> int:
        """How many parts the plan removes or approximates."""
        return len(self.parts)

    def removes(self, target: Target) -> bool:
        """Whether the target is removed, or the block that it lies in."""
        return any(isinstance(part, Remove) and part.target in (target, target.parent) for part in self.parts)

    def with_part(self, part: AnyPart) -> ApproximationPlan:
        """This plan with one more part, in the place of one with the same target and action."""
        others = [one for one in self.parts if (one.target, one.action) != (part.target, part.action)]
        return self._derived(parts=(*others, part))

    def without(self, target: Target) -> ApproximationPlan | None:
        """This plan with the target removed and all that it said of what lies inside dropped.

        Returns:
            None where that would empty the block that the target lies in, which is the block's to decide.
        """
        if not target.is_block:
            removed = {*self.layers[target.layer].removed(target.kind), target.index}
            if len(removed) == self.grid.count(target.kind):
                return None
        outside = [part for part in self.parts if target not in (part.target, part.target.parent)]
        return self._derived(parts=(*outside, Remove(target=target)))

    def for_model(self, model: ModelIdentity) -> ApproximationPlan:
        """The same plan for other weights."""
        return self._derived(model=model)

    def _derived(self, **changes: Any) -> ApproximationPlan:
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields} | changes)

    @model_validator(mode="before")
    @classmethod
    def _of_this_schema(cls, raw: Any) -> Any:
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if type(version) is not int:
            return raw
        if version > SCHEMA_VERSION:
            raise problem(f"schema {version} is newer than this axform understands ({SCHEMA_VERSION}); update axform")
        return upgraded(raw) if version == 1 else raw

    @model_validator(mode="after")
    def _check(self) -> ApproximationPlan:
        for part in self.parts:
            self._check_exists(part.target)
            technique_of(part)
        for one, other in pairwise(self.parts):
            if (one.target, one.action) == (other.target, other.action):
                raise problem(f"{one} and {other} say the same or contradict each other; keep one of them")
        for technique, mine in by_technique(self.parts).items():
            technique.check(mine, self)
        return self

    def _check_exists(self, target: Target) -> None:
        if self.grid.has(target):
            return
        if not 0 <= target.layer < self.model.num_layers:
            raise problem(f"there is no {target}: the model has {self.model.num_layers} layers, counted from 0")
        first, last = (replace(target, index=index) for index in (0, self.grid.count(target.kind) - 1))
        raise problem(f"there is no {target}: the model has {first} to {last}")


def default_group_size(shape: ModelShape) -> int:
    """Weight-group size W: 256 as in the paper, smaller for small models, so that an FFN block has about 12 groups.

    The result is a multiple of 64 where the model is wide enough, which keeps vector units and tensor cores busy.
    """
    twelfth = shape.intermediate_size // 12
    if twelfth >= 64:
        return min(256, twelfth // 64 * 64)
    return max(1, twelfth)
