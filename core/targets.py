"""Targets: the parts of a model that a plan can name, each by its address.

``layer.3.attn`` and ``layer.3.ffn`` are blocks; ``layer.3.attn.head.2`` is an attention head, ``layer.3.attn.in.group.1``
a weight group of the input features of W_Q, W_K and W_V, and ``layer.3.ffn.group.5`` one of the intermediate neurons.
``embeddings.word`` is the table of the tokens, and ``rest`` every weight matrix that nothing else names.
Indices count from 0. A weight group ``g`` of size W covers the positions ``g*W .. min((g+1)*W, dimension) - 1``, so the
last group of a dimension may be shorter.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal, cast

from .families import ModelShape

__all__ = ["BlockKind", "Grid", "Target", "TargetKind", "is_in_layer"]

BlockKind = Literal["attn", "ffn"]
TargetKind = Literal["attn", "attn.head", "attn.in.group", "ffn", "ffn.group", "embeddings.word", "rest"]

_GRANULARITY: dict[TargetKind, int] = {"attn": 0, "attn.head": 1, "attn.in.group": 2, "ffn": 0, "ffn.group": 1}
"""Every kind of target inside a layer, in the order in which a plan lists them; 0 = blocks, which have no index."""
_OUTSIDE: tuple[TargetKind, ...] = ("embeddings.word", "rest")
"""Kinds of which a model has one, in no layer."""
_NO_LAYER = -1
_NUMBER = "(0|[1-9][0-9]{0,8})"
_ADDRESS = re.compile(rf"layer\.{_NUMBER}\.([a-z.]+?)(?:\.{_NUMBER})?")
_LONGEST_SHOWN = 60
"""Characters of a wrong address that an error repeats."""


def is_in_layer(kind: TargetKind) -> bool:
    """Whether every layer has targets of this kind; of the others a model has one."""
    return kind in _GRANULARITY


@dataclass(frozen=True)
class Target:
    """A block, an attention head, a weight group, or what lies in no layer; `Grid.has` says whether a model has it."""

    layer: int
    """-1 for what lies in none."""
    kind: TargetKind
    index: int | None = None
    """None for a block, and for what a model has one of."""

    def __post_init__(self) -> None:
        if (self.index is None) != (_GRANULARITY.get(self.kind, 0) == 0):
            raise ValueError(f"{self} is no target: heads and groups have an index, blocks have none")
        if (self.layer == _NO_LAYER) != (self.kind in _OUTSIDE):
            raise ValueError(f"{self} is no target: {', '.join(_OUTSIDE)} are in no layer, and all others in one")

    @classmethod
    def outside(cls, kind: Literal["embeddings.word", "rest"]) -> Target:
        """The target of this kind, of which a model has one."""
        return cls(_NO_LAYER, kind)

    @classmethod
    def parse(cls, address: str) -> Target:
        """The target that `str` writes so.

        Raises:
            ValueError: it is no address.
        """
        for outside in _OUTSIDE:
            if address == outside:
                return cls(_NO_LAYER, outside)
        found = _ADDRESS.fullmatch(address)
        if found is not None:
            layer, kind, index = found.groups()
            if kind in _GRANULARITY and (index is None) == (_GRANULARITY[kind] == 0):
                return cls(int(layer), kind, None if index is None else int(index))
        known = [f"layer.N.{kind}" + (".N" if fine else "") for kind, fine in _GRANULARITY.items()]
        raise ValueError(
            f"{address[:_LONGEST_SHOWN]!r} is no address of a part; expected one of {', '.join([*known, *_OUTSIDE])}"
        )

    def __str__(self) -> str:
        if not self.in_layer:
            return self.kind
        return f"layer.{self.layer}.{self.kind}" + ("" if self.index is None else f".{self.index}")

    @property
    def granularity(self) -> int:
        """0 = blocks, 1 = heads and FFN weight groups, 2 = ATTN weight groups."""
        return _GRANULARITY[self.kind]

    @property
    def in_layer(self) -> bool:
        return is_in_layer(self.kind)

    @property
    def is_block(self) -> bool:
        return self.kind in ("attn", "ffn")

    @property
    def block(self) -> BlockKind:
        """The kind of block that the target is or lies in; there is one in a layer only."""
        assert self.in_layer
        return cast(BlockKind, self.kind.split(".")[0])

    @property
    def parent(self) -> Target:
        """The block that the target lies in; what lies in none is its own parent."""
        return Target(self.layer, self.block) if self.in_layer else self

    @property
    def place(self) -> tuple[int, int, int]:
        """Sorts targets by layer, kind and index, those in no layer first."""
        return self.layer, [*_GRANULARITY, *_OUTSIDE].index(self.kind), self.index or 0


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
        if not target.in_layer:
            return True
        return 0 <= target.layer < self.shape.num_layers and 0 <= (target.index or 0) < self.count(target.kind)

    def targets(self) -> Iterator[Target]:
        """All targets in the model's layers, coarse to fine within a layer."""
        for layer in range(self.shape.num_layers):
            for kind in _GRANULARITY:
                if _GRANULARITY[kind] == 0:
                    yield Target(layer, kind)
                else:
                    yield from (Target(layer, kind, index) for index in range(self.count(kind)))
