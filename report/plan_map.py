"""The picture of a plan: a row for every layer, a cell for every head and weight group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from ..core.costs import block_parameters, layer_widths
from ..core.plan import ApproximationPlan, Bits, LayerPlan, Remove, SignMatching
from ..core.targets import Target, TargetKind
from ..core.techniques import Widths

__all__ = ["Block", "Cell", "LayerRow", "PlanMap", "map_of"]

REMOVED, KEPT = "removed", "kept"
_MOST_CELLS = 64
"""In one block; of more, neighbours that are alike are drawn as one."""
_MOST_LAYERS = 256
_MOST_NAMED = 8
"""Indices that a description lists one by one."""
_NOUNS: dict[TargetKind, tuple[str, str]] = {
    "attn.head": ("head", "heads"),
    "attn.in.group": ("input group", "input groups"),
    "ffn.group": ("group", "groups"),
}


@dataclass(frozen=True)
class Cell:
    state: str
    """``removed``, ``kept``, or the number of bits."""
    width: int
    """Positions of its dimension that it covers."""
    title: str
    is_feature: bool = False
    """An input group: features that weights are for, whose bits are told with the heads that these weights make."""

    @property
    def sign(self) -> str:
        """What stands in it, so that colour does not say it alone."""
        return self.state if self.state.isdigit() else "×" if self.state == REMOVED else ""

    @property
    def style(self) -> str:
        """Name of its class in the style sheet."""
        return f"bits-{self.state}" if self.state.isdigit() else self.state + (" feature" if self.is_feature else "")


@dataclass(frozen=True)
class Block:
    """The cells of one dimension of a block; none where the whole block is removed."""

    cells: tuple[Cell, ...]
    description: str
    note: str = ""
    """What is done to the block as a whole."""


@dataclass(frozen=True)
class LayerRow:
    name: str
    heads: Block
    inputs: Block
    neurons: Block
    left: float
    """Share of the weights of its projections."""


@dataclass(frozen=True)
class PlanMap:
    embeddings: Cell
    rest: Cell
    layers: tuple[LayerRow, ...]
    omitted: int
    """Layers that are not drawn, of a model with very many."""
    states: tuple[str, ...]
    """That occur, for the legend, by style: kept first, then bits descending, removed last."""
    has_sign_matching: bool


def map_of(plan: ApproximationPlan) -> PlanMap:
    shown = min(plan.model.num_layers, _MOST_LAYERS)
    whole = sum(block_parameters(Widths.whole(plan.model.shape)))
    rows = tuple(
        _row(number, layer, sum(block_parameters(widths)) / whole)
        for number, layer, widths in zip(range(shown), plan.layers, layer_widths(plan), strict=False)
    )
    embeddings = _outside("embeddings.word", plan.word_embeddings)
    rest = _outside("rest", plan.rest)
    cells = [cell for row in rows for block in (row.heads, row.inputs, row.neurons) for cell in block.cells]
    gone = any(not block.cells for row in rows for block in (row.heads, row.neurons))
    found = {cell.state for cell in (*cells, embeddings, rest) if not cell.is_feature or cell.state == REMOVED} | (
        {REMOVED} if gone else set()
    )
    return PlanMap(
        embeddings=embeddings,
        rest=rest,
        layers=rows,
        omitted=plan.model.num_layers - shown,
        states=tuple(sorted(found, key=_rank)),
        has_sign_matching=any(isinstance(part, SignMatching) for part in plan.parts),
    )


def _rank(state: str) -> tuple[int, int]:
    return (1, -int(state)) if state.isdigit() else ((0, 0) if state == KEPT else (2, 0))


def _outside(name: str, part: Bits | None) -> Cell:
    state = KEPT if part is None else str(part.bits)
    return Cell(state, 1, f"{name}: {_said(state)}")


def _row(number: int, layer: LayerPlan, left: float) -> LayerRow:
    matching = layer.every(SignMatching)
    attention = _block(number, layer, "attn.head", f"sign matching, k = {matching[0].k}" if matching else "")
    return LayerRow(
        str(number),
        attention,
        _block(number, layer, "attn.in.group", ""),
        _block(number, layer, "ffn.group", ""),
        left,
    )


def _block(number: int, layer: LayerPlan, kind: TargetKind, note: str) -> Block:
    block = Target(number, kind, 0).parent
    if any(isinstance(part, Remove) and part.target == block for part in layer.parts):
        return Block((), f"{block}: removed", "removed")
    states = _states(number, layer, kind)
    described = _described(states, _NOUNS[kind]) + (f"; {note}" if note else "")
    cells = tuple(_cell(number, layer, kind, stretch, states[stretch[0]]) for stretch in _stretches(states))
    return Block(cells, f"{block}: {described}", note)


def _states(number: int, layer: LayerPlan, kind: TargetKind) -> list[str]:
    """Of each head or group, in their order."""
    named: dict[int | None, str] = {
        part.target.index: str(part.bits)
        for part in layer.every(Bits)
        if part.target.kind == kind or part.target == Target(number, kind, 0).parent
    }
    others = named.get(None, KEPT if layer.rest is None else str(layer.rest.bits))
    if kind == "attn.in.group":  # an output's bits hold for all of its inputs
        named, others = {}, KEPT
    gone: dict[int | None, str] = dict.fromkeys(layer.removed(kind), REMOVED)
    known = named | gone
    return [known.get(index, others) for index in range(layer.grid.count(kind))]


def _stretches(states: Sequence[str]) -> list[list[int]]:
    """The indices that each cell stands for: one; of many neighbours that are alike; of many such, all that are alike."""
    indices = range(len(states))
    if len(states) <= _MOST_CELLS:
        return [[index] for index in indices]
    neighbours = [list(run) for _, run in groupby(indices, key=states.__getitem__)]
    if len(neighbours) <= _MOST_CELLS:
        return neighbours
    ordered = sorted(indices, key=lambda index: _rank(states[index]))
    return [list(run) for _, run in groupby(ordered, key=states.__getitem__)]


def _cell(number: int, layer: LayerPlan, kind: TargetKind, stretch: Sequence[int], state: str) -> Cell:
    step, whole = layer.grid.step(kind), layer.grid.dimension(kind)
    width = sum(min(step, whole - index * step) for index in stretch)
    what = str(Target(number, kind, stretch[0])) if len(stretch) == 1 else f"{len(stretch)} {_NOUNS[kind][1]}"
    return Cell(state, width, f"{what}: {_said(state)}", kind == "attn.in.group")


def _described(states: Sequence[str], nouns: tuple[str, str]) -> str:
    """The same in words, for those who do not see the picture."""
    parts = []
    for state in sorted(set(states), key=_rank):
        mine = [index for index, other in enumerate(states) if other == state]
        if len(mine) == len(states):
            return (
                f"all {len(states)} {nouns[1]} {_said(state)}" if len(states) > 1 else f"its {nouns[0]} {_said(state)}"
            )
        listed = f" ({', '.join(map(str, mine))})" if len(mine) <= _MOST_NAMED else ""
        parts.append(f"{len(mine)} of {len(states)} {nouns[1]} {_said(state)}{listed}")
    return ", ".join(parts)


def _said(state: str) -> str:
    return f"in {state} bits" if state.isdigit() else state
