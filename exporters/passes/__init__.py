"""What happens to a graph after the plan's rewrites: how it is laid out, and in what numbers it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ...core.families import Family
from ...core.opset import OPSET
from ...core.plan import ApproximationPlan
from ...core.precision import Precision
from ..rewrites.report import RewriteReport
from ..scoped_graph import ScopedGraph
from .attention_3d import attention_3d
from .first_token import first_token
from .half import to_half
from .inline import inline_functions
from .int8 import int8_places, to_int8
from .key_mask import key_mask
from .opset import lower_opset

__all__ = [
    "LAYOUT",
    "PASSES",
    "Pass",
    "Subject",
    "asked_passes",
    "attention_3d",
    "first_token",
    "inline_functions",
    "int8_places",
    "key_mask",
    "lower_opset",
    "run_passes",
    "to_half",
    "to_int8",
]

_FLOAT = "float32 products"


@dataclass(frozen=True)
class Subject:
    """What a pass may know beside the graph."""

    plan: ApproximationPlan
    family: Family
    keep_float: tuple[str, ...] = ()
    """Linears and embeddings, by their torch module, that a lower precision would cost the task too much."""
    opset: int = OPSET


@dataclass(frozen=True)
class Pass:
    """One step over a whole graph, and what has to hold before it and holds after it."""

    run: Callable[[ScopedGraph, Subject], RewriteReport]
    requires: frozenset[str] = frozenset()
    ensures: frozenset[str] = frozenset()
    ends: frozenset[str] = frozenset()
    """What no longer holds after it."""


PASSES: dict[str, Pass] = {
    "key_mask": Pass(lambda graph, of: key_mask(graph, of.plan, of.family)),
    "attention_3d": Pass(
        lambda graph, of: attention_3d(graph, of.plan, of.family), ensures=frozenset({"3-D attention"})
    ),
    "first_token": Pass(
        lambda graph, of: first_token(graph, of.plan, of.family), requires=frozenset({_FLOAT, "3-D attention"})
    ),
    "opset": Pass(lambda graph, of: lower_opset(graph, of.opset), requires=frozenset({_FLOAT})),
    "int8": Pass(
        lambda graph, of: to_int8(graph, of.keep_float), requires=frozenset({_FLOAT}), ends=frozenset({_FLOAT})
    ),
    "fp16": Pass(lambda graph, of: to_half(graph, "fp16"), requires=frozenset({_FLOAT}), ends=frozenset({_FLOAT})),
    "bf16": Pass(lambda graph, of: to_half(graph, "bf16"), requires=frozenset({_FLOAT}), ends=frozenset({_FLOAT})),
    "inline": Pass(lambda graph, of: inline_functions(graph)),
}
"""Each by its name, in the order in which they run."""

LAYOUT = ("key_mask", "attention_3d", "first_token")
"""Those that change how the graph is laid out and none of its numbers but by the order of sums."""


def asked_passes(precision: Precision, opset: int = OPSET, inline: bool = False) -> tuple[str, ...]:
    """The passes that make a model of this precision and opset, with functions or without, after those of the layout."""
    asked = {"opset": opset != OPSET, precision: precision != "float32", "inline": inline}
    return tuple(name for name, is_asked in asked.items() if is_asked)


def run_passes(graph: ScopedGraph, names: Iterable[str], subject: Subject) -> list[RewriteReport]:
    """Run passes in the order of their names.

    A place that a pass has to leave as it is, is named in its report.

    Raises:
        ValueError: a pass comes before one that it requires.
    """
    holds = {_FLOAT}
    reports = []
    for name in names:
        chosen = PASSES[name]
        if not chosen.requires <= holds:
            raise ValueError(f"pass {name} requires {', '.join(sorted(chosen.requires - holds))}")
        reports.append(chosen.run(graph, subject))
        holds = (holds | chosen.ensures) - chosen.ends
    return reports
