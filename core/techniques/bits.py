"""Weights in fewer bits: uniform, symmetric, one scale for each output or each group of inputs (Q8BERT, AxFormer v1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from ..problems import problem
from ..targets import Grid
from .base import LARGEST, Part, Technique, Widths
from .removal import Remove

if TYPE_CHECKING:
    from ..plan import ApproximationPlan

__all__ = ["FEWEST_BITS", "MOST_BITS", "QUANTIZE", "Bits"]

FEWEST_BITS, MOST_BITS = 2, 8
"""Of a code: with one bit there is no symmetric code but zero, with more than eight no type on disk."""
_SMALLEST_GROUP = 8
"""Inputs that share a scale: with fewer the scales are more bytes than the codes."""


def said(bits: int, group: int | None) -> str:
    """In a few words."""
    return f"{bits} bits" + ("" if group is None else f" by {group}")


class Bits(Part):
    """The weights of the target are codes of ``bits`` bits times a scale, and computed with as floats.

    Of a matrix that lies in several targets each one has its own codes: a head those of its features of queries, keys and
    values and of W_O's inputs, an FFN weight group those of its neurons. What lies inside a target and is named itself
    counts itself; ``rest`` is every matrix and embedding that nothing else names.
    """

    action: Literal["bits"] = "bits"
    bits: Annotated[int, Field(ge=FEWEST_BITS, le=MOST_BITS)]
    group: Annotated[int, Field(ge=_SMALLEST_GROUP, le=LARGEST)] | None = None
    """Inputs of an output that share a scale; None = all of them. Of an embedding a row's values take the inputs' place."""

    @property
    def said(self) -> str:
        return said(self.bits, self.group)


def _check(parts: Sequence[Bits], plan: ApproximationPlan) -> None:
    removed = {part.target: part for part in plan.parts if isinstance(part, Remove)}
    for part in parts:
        if part.target in removed:
            raise problem(f"{removed[part.target]} and {part} contradict each other; keep one of them")


def _narrow(widths: Widths, part: Bits, _: Grid) -> Widths:
    return widths


def _describe(parts: Sequence[Bits], grid: Grid) -> str:
    whole = [part.said for part in parts if part.target.is_block]
    fine = Counter((part.said, part.target.kind) for part in parts if not part.target.is_block)
    nouns = {"attn.head": "heads", "ffn.group": "groups"}
    return ", ".join(
        whole + [f"{count} of {grid.count(kind)} {nouns[kind]} in {said}" for (said, kind), count in fine.items()]
    )


QUANTIZE = Technique(
    "quantize", Bits, ("attn", "attn.head", "ffn", "ffn.group", "embeddings.word", "rest"), _check, _narrow, _describe
)
