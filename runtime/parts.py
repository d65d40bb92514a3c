"""Which part of a Transformer a node that really runs belongs to.

ONNX Runtime fuses nodes, renames what it fuses and drops the metadata in which torch's modules are named. What it keeps
are the names of tensors that are still made. So a node of the optimized graph belongs to the module of the node in the
file that made the same output, or had the same name; where neither exists, as inside an inlined function, to the part of
its neighbours, if they agree on one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ..core.families import FAMILIES, Family
from .graph_nodes import GraphNode

__all__ = ["EMBEDDINGS", "HEAD", "NOT_TOLD", "OTHER", "all_parts", "family_in", "layers_in", "part_of", "parts_of"]

EMBEDDINGS, HEAD, OTHER, NOT_TOLD = "embeddings", "head", "other", "not told"
"""Parts outside the layers. `OTHER` is what several of the others share, such as the nodes of the attention mask."""


def family_in(nodes: Iterable[GraphNode]) -> Family | None:
    """The model family whose modules the nodes name."""
    modules = {node.module for node in nodes}
    for family in FAMILIES.values():
        if any(module is not None and _inside(module, family.layer_scope(0)) for module in modules):
            return family
    return None


def layers_in(nodes: Iterable[GraphNode], family: Family) -> int:
    """How many layers of the family the nodes name."""
    layers = [_layer_of(node.module, family) for node in nodes if node.module]
    return 1 + max((layer for layer in layers if layer is not None), default=-1)


def all_parts(layers: int) -> list[str]:
    """Every part of a model with that many layers, in the order in which they run."""
    blocks = [f"layer.{layer}.{block}" for layer in range(layers) for block in ("attn", "ffn")]
    return [EMBEDDINGS, *blocks, HEAD, OTHER, NOT_TOLD]


def part_of(module: str, family: Family) -> str | None:
    """The part that a module of the family lies in; None where its own nodes may be of several parts."""
    layer = _layer_of(module, family)
    if layer is not None:
        block = _block_of(module[len(family.layer_scope(layer)) + 1 :], family)
        return None if block is None else f"layer.{layer}.{block}"
    if not module:
        return None
    if not _inside(module, family.base_model):
        return HEAD
    inner = module[len(family.base_model) + 1 :].split(".")[0]
    if inner.startswith(family.word_embeddings.split(".")[0]):
        return EMBEDDINGS
    return OTHER if not inner or inner == family.layers.split(".")[0] else HEAD


def parts_of(running: Sequence[GraphNode], file: Sequence[GraphNode], family: Family) -> dict[str, str]:
    """The part of each node of the optimized graph, by the node's name.

    Args:
        running: the nodes that a session runs.
        file: the nodes of the file that it read, which name torch's modules.
    """
    by_output = {output: node.module for node in file for output in node.outputs if output}
    by_name = {node.name: node.module for node in file if node.name}
    running = [node if node.name else replace(node, name=f"unnamed {number}") for number, node in enumerate(running)]
    modules: dict[str, str | None] = {}
    for node in running:
        told = [by_output.get(output) for output in node.outputs] + [by_name.get(node.name)]
        modules[node.name] = next((module for module in told if module is not None), None)
    parts = {name: None if module is None else part_of(module, family) for name, module in modules.items()}
    _ask_neighbours(running, parts)
    return {name: part or (NOT_TOLD if modules[name] is None else OTHER) for name, part in parts.items()}


def _ask_neighbours(running: Sequence[GraphNode], parts: dict[str, str | None]) -> None:
    """Give nodes without a part that of all who read from them, else that of all whom they read from."""
    makers = {output: node.name for node in running for output in node.outputs}
    makes_for: Mapping[str, set[str]] = defaultdict(set)
    reads_from = {node.name: {makers[name] for name in node.inputs if name in makers} for node in running}
    for reader, sources in reads_from.items():
        for source in sources:
            makes_for[source].add(reader)
    while True:
        unknown = [name for name, part in parts.items() if part is None]
        found = {}
        for neighbours in (makes_for, reads_from):
            for name in unknown:
                (agreed, *others) = {parts[neighbour] for neighbour in neighbours.get(name, ())} or {None}
                if agreed is not None and not others:
                    found[name] = agreed
            if found:
                break
        if not found:
            return
        parts |= found


def _block_of(module: str, family: Family) -> str | None:
    """attn or ffn, of the path of a module inside a layer; the layer's own nodes may be of either."""
    first = module.split(".")[0]
    blocks = {
        "attn": (family.attention_core, family.attention_output, family.attention_norm),
        "ffn": (family.feed_forward_entry, family.up, family.down, family.feed_forward_norm),
    }
    for block, inner in blocks.items():
        if first in {path.split(".")[0] for path in inner}:
            return block
    return None


def _layer_of(module: str | None, family: Family) -> int | None:
    layers = family.layer_scope(0)[:-1]
    if not module or not module.startswith(layers):
        return None
    number = module[len(layers) :].split(".")[0]
    return int(number) if number.isdigit() else None


def _inside(module: str, outer: str) -> bool:
    return module == outer or module.startswith(f"{outer}.")
