"""Activations of the current plan that trials start from, so that nothing below an edit is computed twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..core.families import Family
from ..core.plan import ApproximationPlan, Bits
from ..core.targets import TargetKind
from ..core.techniques import Part
from .apply import Undo, replace_forward

__all__ = ["Edit", "KeptActivations", "first_edit"]

_AFTER_REMOVAL: dict[TargetKind, int] = {"attn.head": 1, "ffn": 2, "ffn.group": 3}
"""What of a layer stays when such a target goes: up to the context (1), the ATTN block (2), the up projection (3)."""
_AFTER_BITS: dict[TargetKind, int] = {"ffn": 2, "ffn.group": 2}
"""What stays when its weights get other bits."""


@dataclass(frozen=True)
class Edit:
    """Where a plan first differs from the current one."""

    layer: int
    depth: int = 0
    """Steps inside the layer that stay as they are: none, the context, the ATTN block, the up projection."""


def first_edit(current: ApproximationPlan, plan: ApproximationPlan) -> Edit | None:
    """The lowest place in which the plans differ; None where they do not."""
    parts = {*current.parts} ^ {*plan.parts}
    if not parts:
        return None
    lowest = min(part.target.layer for part in parts)
    return Edit(max(lowest, 0), min(_depth(part) for part in parts if part.target.layer == lowest))


def _depth(part: Part) -> int:
    return (_AFTER_BITS if isinstance(part, Bits) else _AFTER_REMOVAL).get(part.target.kind, 0)


@dataclass
class _Batch:
    """What is kept of one batch: inputs of layers, and inside one layer the outputs after each depth."""

    inputs: dict[int, Tensor] = field(default_factory=dict)
    inside: dict[int, Tensor] = field(default_factory=dict)


class KeptActivations:
    """The inputs of layers for the current plan, batch by batch, and the steps inside the layer that was edited last.

    Kept are the exact tensors, so results do not depend on them. Tensors of a layer are kept as they are first needed;
    above the memory budget only every n-th layer's input is, and nothing inside a layer.

    Args:
        tokens: of all batches together, padding included.
        cache_bytes: the most that is kept.
    """

    def __init__(self, layers: nn.ModuleList, family: Family, batches: int, tokens: int, cache_bytes: int) -> None:
        self._layers = layers
        self._family = family
        self._batches = [_Batch() for _ in range(batches)]
        up = layers[0].get_submodule(family.up)
        per_layer = max(1, tokens * up.in_features * 4)
        inside = tokens * (2 * up.in_features + up.out_features) * 4
        affordable = cache_bytes // per_layer
        self._keeps_inside = inside + (len(layers) - 1) * per_layer <= cache_bytes
        count = min(len(layers) - 1, affordable)
        self._kept_layers = {round((i + 1) * len(layers) / (count + 1)) for i in range(count)}  # layer 0 is cheap
        self._inside_of: int | None = None

    def clear(self) -> None:
        self._batches = [_Batch() for _ in self._batches]

    def forget_above(self, edit: Edit) -> None:
        """The current plan changed there."""
        for batch in self._batches:
            batch.inputs = {layer: kept for layer, kept in batch.inputs.items() if layer <= edit.layer}
            if edit.layer <= (self._inside_of or 0):
                below = edit.depth if edit.layer == self._inside_of else 0
                batch.inside = {depth: kept for depth, kept in batch.inside.items() if depth <= below}

    def start(self, batch: int, edit: Edit) -> int:
        """The layer that a pass over the batch begins with."""
        return max((layer for layer in self._batches[batch].inputs if layer <= edit.layer), default=0)

    @contextmanager
    def shortcut(self, batch: int, edit: Edit) -> Iterator[None]:
        """Let a forward begin as high as it can, and keep what it computes below the edit."""
        if edit.layer != self._inside_of:
            self._inside_of = edit.layer
            for other in self._batches:
                other.inside.clear()
        kept, start, undo = self._batches[batch], self.start(batch, edit), []
        for index, layer in enumerate(self._layers):
            if index < start:
                undo.append(replace_forward(layer, _pass_through))
            elif index == start and start in kept.inputs:
                undo.append(_substitute_input(layer, kept.inputs[start]))
            elif index <= edit.layer and index in self._kept_layers:
                undo.append(_keep_input(layer, kept.inputs, index))
        if self._keeps_inside and edit.layer < len(self._layers):
            undo += self._inside(self._layers[edit.layer], kept.inside, edit.depth)
        try:
            yield
        finally:
            for restore in undo:
                restore()

    def _inside(self, layer: nn.Module, kept: dict[int, Tensor], depth: int) -> list[Undo]:
        family, undo = self._family, []
        core, projection = layer.get_submodule(family.attention_core), layer.get_submodule(family.attention_output)
        context_is_seen = not family.attention_output.startswith(f"{family.attention_core}.")
        if depth >= 3:
            undo.append(_reuse(layer.get_submodule(family.up), kept, 3))
        if depth >= 2 and 2 in kept:
            undo += [replace_forward(core, lambda *_, **__: (kept[2], None)), _reuse(projection, kept, 2)]
        elif depth >= 2:
            undo.append(_reuse(projection, kept, 2))
        elif depth == 1 and context_is_seen:
            undo.append(_reuse(core, kept, 1, wrap=lambda context: (context, None), unwrap=lambda output: output[0]))
        return undo


def _pass_through(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states


def _substitute_input(layer: nn.Module, kept: Tensor) -> Undo:
    return layer.register_forward_pre_hook(lambda _, inputs: (kept, *inputs[1:])).remove


def _keep_input(layer: nn.Module, kept: dict[int, Tensor], index: int) -> Undo:
    def keep(_: nn.Module, inputs: Sequence[Any]) -> None:
        kept[index] = inputs[0]

    return layer.register_forward_pre_hook(keep).remove


def _reuse(
    module: nn.Module,
    kept: dict[int, Tensor],
    depth: int,
    wrap: Callable[[Tensor], Any] = lambda tensor: tensor,
    unwrap: Callable[[Any], Tensor] = lambda output: output,
) -> Undo:
    """Give the kept output without computing it, or keep it."""
    if depth in kept:
        return replace_forward(module, lambda *_, **__: wrap(kept[depth]))

    def keep(_: nn.Module, __: object, output: Any) -> None:
        kept[depth] = unwrap(output)

    return module.register_forward_hook(keep).remove
