"""The approximation plan: what happens to which part of a model, as versioned JSON.

The plan is the only thing that the exporter needs from the search. Indices count from 0. A weight group ``g`` of
size W covers the positions ``g*W .. min((g+1)*W, dimension) - 1``, so the last group of a dimension may be shorter.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ..errors import AxformError
from ..files import read_json, write_text
from .families import FAMILIES, ModelShape

__all__ = [
    "SCHEMA_VERSION",
    "ApproximationPlan",
    "AttentionPlan",
    "FeedForwardPlan",
    "Focus",
    "LayerPlan",
    "ModelIdentity",
    "Selection",
    "SignMatching",
    "default_group_size",
    "group_count",
    "kept_positions",
]

SCHEMA_VERSION = 1

Focus = Literal["accuracy", "speed", "size"]
Selection = Literal["majority", "count"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SignMatching(_Part):
    """Sign-matching attention (AxFormer v1, Algorithm 4) in place of an ATTN block's full attention."""

    k: int = Field(ge=1)
    """Keys kept per head."""
    selection: Selection = "majority"


class AttentionPlan(_Part):
    """What happens to one ATTN block."""

    skipped: bool = False
    """The block is bypassed; its LayerNorm stays."""
    pruned_heads: list[int] = []
    pruned_input_groups: list[int] = []
    """Weight groups of the input features of W_Q, W_K and W_V."""
    sign_matching: SignMatching | None = None

    @field_validator("pruned_heads", "pruned_input_groups")
    @classmethod
    def _sorted(cls, value: list[int]) -> list[int]:
        return sorted(set(value))


class FeedForwardPlan(_Part):
    """What happens to one FFN block."""

    skipped: bool = False
    pruned_groups: list[int] = []
    """Weight groups of the intermediate neurons."""

    @field_validator("pruned_groups")
    @classmethod
    def _sorted(cls, value: list[int]) -> list[int]:
        return sorted(set(value))


class LayerPlan(_Part):
    attention: AttentionPlan = AttentionPlan()
    feed_forward: FeedForwardPlan = FeedForwardPlan()


class ModelIdentity(_Part):
    """The model a plan belongs to."""

    family: str
    num_layers: int = Field(ge=1)
    num_heads: int = Field(ge=1)
    hidden_size: int = Field(ge=1)
    intermediate_size: int = Field(ge=1)
    fingerprint: str
    """SHA-256 over the names, shapes and values of all weights."""

    @property
    def shape(self) -> ModelShape:
        return ModelShape(self.num_layers, self.num_heads, self.hidden_size, self.intermediate_size)


class ApproximationPlan(_Part):
    """The whole plan. `load` and `save` read and write ``plan.json``."""

    schema_version: int = SCHEMA_VERSION
    model: ModelIdentity
    group_size: int = Field(ge=1)
    focus: Focus | None = None
    task: str | None = None
    layers: list[LayerPlan]

    @classmethod
    def empty(cls, model: ModelIdentity, group_size: int) -> ApproximationPlan:
        """A plan that changes nothing."""
        return cls(model=model, group_size=group_size, layers=[LayerPlan() for _ in range(model.num_layers)])

    @classmethod
    def load(cls, path: Path) -> ApproximationPlan:
        """Read and validate a plan.

        Raises:
            AxformError: unreadable, not a plan, of a newer schema, or naming a part that the model does not have.
        """
        return cls.from_json(read_json(path, "restore it, or make it with `axform optimize`"), str(path))

    @classmethod
    def from_json(cls, raw: object, source: str) -> ApproximationPlan:
        """Validate parsed JSON; ``source`` names the file in error messages."""
        if not isinstance(raw, dict) or not isinstance(raw.get("schema_version"), int):
            raise AxformError(f"{source}: not an axform plan (no schema_version).")
        if raw["schema_version"] > SCHEMA_VERSION:
            raise AxformError(
                f"{source}: schema {raw['schema_version']} is newer than this axform understands ({SCHEMA_VERSION}); "
                "update axform."
            )
        try:
            plan = cls.model_validate(raw)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise AxformError(f"{source}: {where}: {first['msg']} (found {first['input']!r}).") from None
        plan.validate_parts(source)
        return plan

    def save(self, path: Path) -> None:
        """Write the plan in one step."""
        write_text(path, self.model_dump_json(indent=2) + "\n")

    def validate_parts(self, source: str = "plan") -> None:
        """Check every index against the model's dimensions.

        Raises:
            AxformError: the first part that does not exist or contradicts another.
        """
        model = self.model
        if model.family not in FAMILIES:
            raise AxformError(
                f"{source}: model.family {model.family!r} is unknown; known: {', '.join(sorted(FAMILIES))}."
            )
        if len(self.layers) != model.num_layers:
            raise AxformError(f"{source}: has {len(self.layers)} layers, but the model has {model.num_layers}.")
        for index, layer in enumerate(self.layers):
            attention = f"{source}: layers[{index}].attention"
            _check_indices(f"{attention}.pruned_heads", layer.attention.pruned_heads, model.num_heads, "head")
            _check_indices(
                f"{attention}.pruned_input_groups",
                layer.attention.pruned_input_groups,
                group_count(model.hidden_size, self.group_size),
                "weight group",
            )
            _check_indices(
                f"{source}: layers[{index}].feed_forward.pruned_groups",
                layer.feed_forward.pruned_groups,
                group_count(model.intermediate_size, self.group_size),
                "weight group",
            )

    def changes(self) -> int:
        """How many parts the plan removes or approximates."""
        return sum(
            layer.attention.skipped
            + len(layer.attention.pruned_heads)
            + len(layer.attention.pruned_input_groups)
            + (layer.attention.sign_matching is not None)
            + layer.feed_forward.skipped
            + len(layer.feed_forward.pruned_groups)
            for layer in self.layers
        )


def _check_indices(where: str, indices: Sequence[int], count: int, noun: str) -> None:
    for index in indices:
        if not 0 <= index < count:
            raise AxformError(f"{where} names {noun} {index}, but the model has {count} {noun}s (0-{count - 1}).")
    if len(indices) == count:
        raise AxformError(f"{where} names all {count} {noun}s; set `skipped` to remove the whole block instead.")


def default_group_size(shape: ModelShape) -> int:
    """Weight-group size W: 256 as in the paper, smaller for small models, so that an FFN block has about 12 groups.

    The result is a multiple of 64 where the model is wide enough, which keeps vector units and tensor cores busy.
    """
    twelfth = shape.intermediate_size // 12
    if twelfth >= 64:
        return min(256, twelfth // 64 * 64)
    return max(1, twelfth)


def group_count(dimension: int, group_size: int) -> int:
    """Number of weight groups along a dimension."""
    return -(-dimension // group_size)


def kept_positions(pruned: Sequence[int], dimension: int, group_size: int) -> list[int]:
    """The positions along ``dimension`` that remain when the groups (or heads) in ``pruned`` are removed."""
    gone = set(pruned)
    return [position for position in range(dimension) if position // group_size not in gone]
