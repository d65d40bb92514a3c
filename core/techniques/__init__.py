"""The techniques that a plan can use, each registered once.

A technique is a module here: a `Part` (what stands in the file) and a `Technique` (what it demands of a plan, what it
leaves of a layer, how it is told to the user), which join the union and the table below. Under its name
``toolchain/apply.py`` does it to a live model and ``exporters/rewrites`` to a graph.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from ..problems import problem
from ..targets import is_in_layer
from .base import Count, Part, Technique, Widths
from .bits import FEWEST_BITS, MOST_BITS, QUANTIZE, Bits
from .removal import PRUNE_HEADS, SHRINK_GROUPS, SKIP_BLOCKS, Remove
from .sign_matching import SIGN_MATCHING, Selection, SignMatching

__all__ = [
    "FEWEST_BITS",
    "MOST_BITS",
    "TECHNIQUES",
    "AnyPart",
    "Bits",
    "Count",
    "Part",
    "Remove",
    "Selection",
    "SignMatching",
    "Technique",
    "Widths",
    "by_technique",
    "technique_of",
]

AnyPart = Annotated[Remove | SignMatching | Bits, Field(discriminator="action")]

TECHNIQUES: tuple[Technique, ...] = (SKIP_BLOCKS, PRUNE_HEADS, SHRINK_GROUPS, SIGN_MATCHING, QUANTIZE)
"""In the order in which they are told to the user."""


def technique_of(part: Part) -> Technique:
    """The technique that a part asks for.

    Raises:
        PydanticCustomError: its action is not for targets of this kind.
    """
    candidates = [technique for technique in TECHNIQUES if isinstance(part, technique.part)]
    for technique in candidates:
        if part.target.kind in technique.kinds:
            return technique
    known = [kind for technique in candidates for kind in technique.kinds]
    kinds = ", ".join(f"layer.N.{kind}" if is_in_layer(kind) else kind for kind in known)
    raise problem(f"{part} cannot be done: {part.action} is for {kinds}")


def by_technique(parts: Iterable[Part]) -> dict[Technique, list[Part]]:
    """Parts by the technique that they ask for, in the order of `TECHNIQUES`, those without parts left out."""
    found: dict[Technique, list[Part]] = {technique: [] for technique in TECHNIQUES}
    for part in parts:
        found[technique_of(part)].append(part)
    return {technique: mine for technique, mine in found.items() if mine}
