"""The approximation plan: what happens to which part of a model, as versioned JSON.

The plan is the only thing that the exporter needs from the search. Indices count from 0. A weight group ``g`` of
size W covers the positions ``g*W .. min((g+1)*W, dimension) - 1``, so the last group of a dimension may be shorter.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

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

_LARGEST = 2**31 - 1
"""No model is larger; a file may hold numbers of any length, but messages and ONNX attributes cannot."""
_Count = Annotated[int, Field(ge=1, le=_LARGEST)]
_Indices = Annotated[list[Annotated[int, Field(le=_LARGEST)]], AfterValidator(lambda indices: sorted(set(indices)))]
"""Sorted, each index once. Whether the model has them is asked in `ApproximationPlan.validate_parts`."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class SignMatching(_Part):
    """Sign-matching attention (AxFormer v1, Algorithm 4) in place of an ATTN block's full attention."""

    k: _Count
    """Keys kept per head."""
    selection: Selection = "majority"


class AttentionPlan(_Part):
    """What happens to one ATTN block."""

    skipped: bool = False
    """The block is bypassed; its LayerNorm stays."""
    pruned_heads: _Indices = []
    pruned_input_groups: _Indices = []
    """Weight groups of the input features of W_Q, W_K and W_V."""
    sign_matching: SignMatching | None = None


class FeedForwardPlan(_Part):
    """What happens to one FFN block."""

    skipped: bool = False
    pruned_groups: _Indices = []
    """Weight groups of the intermediate neurons."""


class LayerPlan(_Part):
    attention: AttentionPlan = AttentionPlan()
    feed_forward: FeedForwardPlan = FeedForwardPlan()


class ModelIdentity(_Part):
    """The model a plan belongs to."""

    family: str
    num_layers: _Count
    num_heads: _Count
    hidden_size: _Count
    intermediate_size: _Count
    fingerprint: str
    """SHA-256 over the names, shapes and values of all weights."""

    @property
    def shape(self) -> ModelShape:
        return ModelShape(self.num_layers, self.num_heads, self.hidden_size, self.intermediate_size)


class ApproximationPlan(_Part):
    """The whole plan. `load` and `save` read and write ``plan.json``."""

    schema_version: _Count = SCHEMA_VERSION
    model: ModelIdentity
    group_size: _Count
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
            raise AxformError(f"{source}: {where}: {first['msg']} (found {reprlib.repr(first['input'])}).") from None
        plan.validate_parts(source)
        return plan

    def save(self, path: Path) -> None:
        """Write the plan in one step."""
        write_text(path, self.model_dump_json(indent=2) + "\n")

    def validate_parts(self, source: str = "plan") -> None:
        """Check every index against the model's dimensions, and the parts against each other.

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
        input_groups = group_count(model.hidden_size, self.group_size)
        groups = group_count(model.intermediate_size, self.group_size)
        for index, layer in enumerate(self.layers):
            where, attention, feed_forward = f"{source}: layers[{index}]", layer.attention, layer.feed_forward
            _check_indices(f"{where}.attention.pruned_heads", attention.pruned_heads, model.num_heads, "head")
            _check_indices(
                f"{where}.attention.pruned_input_groups", attention.pruned_input_groups, input_groups, "weight group"
            )
            _check_indices(f"{where}.feed_forward.pruned_groups", feed_forward.pruned_groups, groups, "weight group")
            _check_not_skipped(f"{where}.attention", attention)
            _check_not_skipped(f"{where}.feed_forward", feed_forward)
        self._check_selections(source)

    def _check_selections(self, source: str) -> None:
        """A file holds one function body of the operator, which is written for one selection."""
        first: dict[Selection, int] = {}
        for index, layer in enumerate(self.layers):
            if layer.attention.sign_matching is not None:
                first.setdefault(layer.attention.sign_matching.selection, index)
        if len(first) > 1:
            found = " and ".join(f"{selection} (layers[{index}])" for selection, index in first.items())
            raise AxformError(f"{source}: sign_matching selects by {found}, but one file can hold only one selection.")

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


def _check_not_skipped(where: str, block: AttentionPlan | FeedForwardPlan) -> None:
    only_skipped = type(block)(skipped=True)
    inside = [name for name in type(block).model_fields if getattr(block, name) != getattr(only_skipped, name)]
    if block.skipped and inside:
        raise AxformError(f"{where} is skipped, so {' and '.join(inside)} cannot be set; keep one or the other.")


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
