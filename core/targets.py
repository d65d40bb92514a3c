"""Targets: the parts of a model that a plan can name, each by its address.

``layer.3.attn`` and ``layer.3.ffn`` are blocks; ``layer.3.attn.head.2`` is an attention head, ``layer.3.attn.in.group.1``
a weight group of the input features of W_Q, W_K and W_V, and ``layer.3.ffn.group.5`` one of the intermediate neurons.
Indices count from 0. A weight group ``g`` of size W covers the positions ``g*W .. min((g+1)*W, dimension) - 1``, so the
last group of a dimension may be shorter.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal, cast

from .families import ModelShape

__all__ = ["BlockKind", "Grid", "Target", "TargetKind"]

BlockKind = Literal["attn", "ffn"]
TargetKind = Literal["attn", "attn.head", "attn.in.group", "ffn", "ffn.group"]

_GRANULARITY: dict[TargetKind, int] = {"attn": 0, "attn.head": 1, "attn.in.group": 2, "ffn": 0, "ffn.group": 1}
"""Every kind of target, in the order in which a plan lists them; 0 = blocks, which have no index."""
_NUMBER = "(0|[1-9][0-9]{0,8})"
_ADDRESS = re.compile(rf"layer\.{_NUMBER}\.([a-z.]+?)(?:\.{_NUMBER})?")
_LONGEST_SHOWN = 60
"""Characters of a wrong address that an error repeats."""


@dataclass(frozen=True)
class Target:
    """A block, an attention head or a weight group; `Grid.has` says whether a model has it."""

    layer: int
    kind: TargetKind
    index: int | None = None
    """None for a block."""

    def __post_init__(self) -> None:
        if (self.index is None) != (self.granularity == 0):
            raise ValueError(f"{self} is no target: heads and groups have an index, blocks have none")

    @classmethod
    def parse(cls, address: str) -> Target:
        """The target that `str` writes so.

        Raises:
            ValueError: it is no address.
        """
        found = _ADDRESS.fullmatch(address)
        if found is not None:
            layer, kind, index = found.groups()
            if kind in _GRANULARITY and (index is None) == (_GRANULARITY[kind] == 0):
                return cls(int(layer), kind, None if index is None else int(index))
        known = ", ".join(f"layer.N.{kind}" + (".N" if fine else "") for kind, fine in _GRANULARITY.items())
        raise ValueError(f"{address[:_LONGEST_SHOWN]!r} is no address of a part; expected one of {known}")

    def __str__(self) -> str:
        return f"layer.{self.layer}.{self.kind}" + ("" if self.index is None else f".{self.index}")

    @property
    def granularity(self) -> int:
        """0 = blocks, 1 = heads and FFN weight groups, 2 = ATTN weight groups."""
        return _GRANULARITY[self.kind]

    @property
    def is_block(self) -> bool:
        return self.index is None

    @property
    def block(self) -> BlockKind:
        return cast(BlockKind, self.kind.split(".")[0])

    @property
    def parent(self) -> Target:
        """The block that the target lies in (a block's parent is itself)."""
        return Target(self.layer, self.block)

    @property
    def place(self) -> tuple[int, int, int]:
        """Sorts targets by layer, kind and index."""
        return self.layer, list(_GRANULARITY).index(self.kind), self.index or 0


@dataclass(frozen=True)
class Grid:
    """Which targets a model has, and which positions of its dimensions each of them covers."""

    shape: ModelShape
    group_size: int

    def dimension(self, kind: TargetKind) -> int:
        """The features that targets of this kind divide: the context's, the input's or the intermediate neurons."""
        return self.shape.intermediate_size if kind.startswith("ffn") else self.shape.hidden_size

    def step(self, kind: TargetKind) -> int:
        """Positions that one target of this kind covers; the last may cover fewer."""
        if _GRANULARITY[kind] == 0:
            return self.dimension(kind)
        return self.shape.head_size if kind == "attn.head" else self.group_size

    def count(self, kind: TargetKind) -> int:
        """Targets of this kind in one layer."""
        return -(-self.dimension(kind) // self.step(kind))

    def width(self, target: Target) -> int:
        """How many positions the target covers."""
        first = (target.index or 0) * self.step(target.kind)
        return min(self.step(target.kind), self.dimension(target.kind) - first)

    def kept(self, kind: TargetKind, removed: Collection[int]) -> list[int]:
        """The positions that remain when the targets of this kind with these indices are removed."""
        gone, step = set(removed), self.step(kind)
        return [position for position in range(self.dimension(kind)) if position // step not in gone]

    def has(self, target: Target) -> bool:
        return 0 <= target.layer < self.shape.num_layers and 0 <= (target.index or 0) < self.count(target.kind)

    def targets(self) -> Iterator[Target]:
        """All targets of the model, coarse to fine within a layer."""
        for layer in range(self.shape.num_layers):
            for kind in _GRANULARITY:
                if _GRANULARITY[kind] == 0:
                    yield Target(layer, kind)
                else:
                    yield from (Target(layer, kind, index) for index in range(self.count(kind)))
