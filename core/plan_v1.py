"""Plans of schema 1, as runs and bundles of earlier versions hold them: layer by layer, one field per technique."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from .problems import first_problem, problem
from .targets import Target
from .techniques import Part, Remove, SignMatching
from .techniques.base import LARGEST, Count
from .techniques.sign_matching import Selection

__all__ = ["upgraded"]

_Indices = Annotated[list[Annotated[int, Field(le=LARGEST)]], AfterValidator(lambda indices: sorted(set(indices)))]


class _Old(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _SignMatching(_Old):
    k: Count
    selection: Selection = "majority"


class _Attention(_Old):
    skipped: bool = False
    pruned_heads: _Indices = []
    pruned_input_groups: _Indices = []
    sign_matching: _SignMatching | None = None


class _FeedForward(_Old):
    skipped: bool = False
    pruned_groups: _Indices = []


class _Layer(_Old):
    attention: _Attention = _Attention()
    feed_forward: _FeedForward = _FeedForward()

    def parts(self, index: int) -> Iterator[Part]:
        attention, feed_forward = self.attention, self.feed_forward
        if attention.skipped:
            yield Remove(target=Target(index, "attn"))
        if feed_forward.skipped:
            yield Remove(target=Target(index, "ffn"))
        yield from (Remove(target=Target(index, "attn.head", head)) for head in attention.pruned_heads)
        yield from (Remove(target=Target(index, "attn.in.group", group)) for group in attention.pruned_input_groups)
        yield from (Remove(target=Target(index, "ffn.group", group)) for group in feed_forward.pruned_groups)
        if attention.sign_matching is not None:
            chosen = attention.sign_matching
            yield SignMatching(target=Target(index, "attn"), k=chosen.k, selection=chosen.selection)


class _Plan(_Old):
    """What is no matter of layers is as in today's schema, which checks it."""

    schema_version: int
    model: Any
    group_size: Any
    focus: Any = None
    task: Any = None
    layers: list[_Layer]


def upgraded(raw: dict[str, Any]) -> dict[str, Any]:
    """A plan of schema 1, as parsed, in schema 2.

    Raises:
        PydanticCustomError: not as schema 1 has it. Whether the model has the parts, schema 2 asks.
    """
    try:
        plan = _Plan.model_validate(raw)
    except ValidationError as error:
        raise problem(first_problem(error)) from None
    wanted = plan.model.get("num_layers") if isinstance(plan.model, dict) else None
    if isinstance(wanted, int) and len(plan.layers) != wanted:
        raise problem(f"has {len(plan.layers)} layers, but the model has {wanted}")
    parts = [part for index, layer in enumerate(plan.layers) for part in layer.parts(index)]
    return {**{name: raw[name] for name in raw if name != "layers"}, "schema_version": 2, "parts": parts}
