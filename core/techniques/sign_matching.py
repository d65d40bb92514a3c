"""Sign-matching attention (AxFormer v1, Algorithm 4) in place of an ATTN block's full attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from ..problems import problem
from ..targets import Grid
from .base import Count, Part, Technique, Widths

if TYPE_CHECKING:
    from ..plan import ApproximationPlan

__all__ = ["SIGN_MATCHING", "Selection", "SignMatching"]

Selection = Literal["majority", "count"]


class SignMatching(Part):
    """Each head attends to the ``k`` keys whose signs match its queries best."""

    action: Literal["attention"] = "attention"
    kind: Literal["sign_matching"] = "sign_matching"
    k: Count
    """Keys kept per head."""
    selection: Selection = "majority"


def _check_one_selection(parts: Sequence[SignMatching], _: ApproximationPlan) -> None:
    """A file holds one function body of the operator, which is written for one selection."""
    for part in parts:
        if part.selection != parts[0].selection:
            raise problem(f"{parts[0]} and {part} differ in their selection, but one file can hold only one")


def _narrow(widths: Widths, part: SignMatching, _: Grid) -> Widths:
    return replace(widths, keys=part.k)


def _describe(parts: Sequence[SignMatching], _: Grid) -> str:
    return f"sign matching, k = {parts[0].k}"


SIGN_MATCHING = Technique("sign_matching", SignMatching, ("attn",), _check_one_selection, _narrow, _describe)
