"""A plan on a live torch model, by skipping and masking; reversible, and no weight is touched.

PyTorch *applies* a plan (trials, fine-tuning, the parity reference); the exporter *removes*. A skipped block adds
nothing to its residual stream and computes nothing; its LayerNorm still runs. Pruned heads are zeros at the input of
the output projection, pruned FFN groups zeros at the input of the down projection, pruned ATTN input groups zeros at
the inputs of W_Q, W_K and W_V.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ..core.families import Family, family_of, shape_of
from ..core.plan import ApproximationPlan, LayerPlan, SignMatching
from ..core.targets import TargetKind
from ..core.techniques import by_technique
from .attention import sign_matching_attention

__all__ = ["APPLICATIONS", "AppliedPlan", "Undo", "apply_plan", "layers_of", "replace_forward"]

Undo = Callable[[], None]
"""Takes back one change to a live model."""

_ATTENTION = "axform"
"""Name under which the attention below is registered with transformers."""


def layers_of(model: nn.Module, family: Family) -> nn.ModuleList:
    """The encoder layers of a task model."""
    layers = model.get_submodule(f"{family.base_model}.{family.layers}")
    assert isinstance(layers, nn.ModuleList)
    return layers


def apply_plan(model: nn.Module, plan: ApproximationPlan) -> AppliedPlan:
    """Apply ``plan`` to ``model`` until `AppliedPlan.remove` (or the end of a ``with`` block)."""
    family = family_of(model.config)
    shape = shape_of(model.config, family)
    if shape != plan.model.shape:
        raise ValueError(f"the plan is for {plan.model.shape}, the model has {shape}")
    applied = AppliedPlan(model, family)
    for index in range(shape.num_layers):
        applied.set_layer(index, plan)
    return applied


class AppliedPlan:
    """Keeps what was changed per layer, so that one layer can be re-applied or everything taken back."""

    def __init__(self, model: nn.Module, family: Family) -> None:
        self._model = model
        self._family = family
        self._layers = layers_of(model, family)
        self._undo: dict[int, list[Undo]] = {}
        self._attention_before: str = model.config._attn_implementation

    def __enter__(self) -> AppliedPlan:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Restore the model."""
        for index in list(self._undo):
            self._clear(index)
        self._model.config._attn_implementation = self._attention_before

    def set_layer(self, index: int, plan: ApproximationPlan) -> None:
        """Replace whatever is applied to one layer by what the plan says of it."""
        self._clear(index)
        undo = self._undo[index] = []
        site = _Site(self._model, self._family, self._layers[index], plan.layers[index])
        for technique in by_technique(site.plan.parts):
            undo.extend(APPLICATIONS[technique.name](site))

    def _clear(self, index: int) -> None:
        for undo in self._undo.pop(index, []):
            undo()


@dataclass(frozen=True)
class _Site:
    """A layer of a live model, and what is to happen to it."""

    model: nn.Module
    family: Family
    layer: nn.Module
    plan: LayerPlan

    def module(self, path: str) -> nn.Module:
        return self.layer.get_submodule(path)

    def mask_inputs(self, kind: TargetKind, paths: Sequence[str]) -> list[Undo]:
        """Zeros at the inputs of linears for the heads or groups of this kind that are removed, if any are."""
        if not self.plan.removed(kind):
            return []
        kept, size = self.plan.kept(kind), self.plan.grid.dimension(kind)
        return [_mask_input(self.module(path), kept, size) for path in paths]


def _skip_blocks(site: _Site) -> list[Undo]:
    family, undo = site.family, []
    if site.plan.skips("attn"):
        core, projection = site.module(family.attention_core), site.module(family.attention_output)
        undo.append(replace_forward(core, lambda hidden, *_, **__: (torch.zeros_like(hidden), None)))
        undo.append(replace_forward(projection, torch.zeros_like))
    if site.plan.skips("ffn"):
        for path in (family.feed_forward_entry, family.down):
            undo.append(replace_forward(site.module(path), torch.zeros_like))
    return undo


def _prune_heads(site: _Site) -> list[Undo]:
    return site.mask_inputs("attn.head", [site.family.attention_output])


def _shrink_groups(site: _Site) -> list[Undo]:
    family = site.family
    inputs = site.mask_inputs("attn.in.group", [family.query, family.key, family.value])
    return inputs + site.mask_inputs("ffn.group", [family.down])


def _match_signs(site: _Site) -> list[Undo]:
    site.model.config._attn_implementation = _ATTENTION
    (chosen,) = site.plan.every(SignMatching)
    return [_set_attribute(site.module(site.family.attention_core), "axform_sign_matching", chosen)]


APPLICATIONS: dict[str, Callable[[_Site], list[Undo]]] = {
    "skip_blocks": _skip_blocks,
    "prune_heads": _prune_heads,
    "shrink_groups": _shrink_groups,
    "sign_matching": _match_signs,
}
"""How a layer does each of `core.techniques`, where the plan asks for it: what takes it back."""


def replace_forward(module: nn.Module, forward: Callable[..., Any]) -> Undo:
    """Let a module compute something else, until what is returned is called."""
    return _set_attribute(module, "forward", forward)


def _set_attribute(module: nn.Module, name: str, value: object) -> Undo:
    own = module.__dict__
    undo = partial(object.__setattr__, module, name, own[name]) if name in own else partial(delattr, module, name)
    object.__setattr__(module, name, value)
    return undo


def _mask_input(module: nn.Module, kept: list[int], size: int) -> Undo:
    weight = next(module.parameters())
    mask = torch.zeros(size, device=weight.device, dtype=weight.dtype)
    mask[kept] = 1

    def zero_pruned(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0] * mask.to(inputs[0]), *inputs[1:])

    return module.register_forward_pre_hook(zero_pruned).remove


def _attention_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """The attention function that transformers calls: sign matching where the plan asks for it, else SDPA."""
    chosen: SignMatching | None = getattr(module, "axform_sign_matching", None)
    if chosen is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    output = sign_matching_attention(
        query,
        key,
        value,
        key_mask=None if attention_mask is None else attention_mask[:, 0, 0, :],
        k=chosen.k,
        scale=options.get("scaling"),
        selection=chosen.selection,
        dropout=options.get("dropout", 0.0),
    )
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(_ATTENTION, _attention_forward)
AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
