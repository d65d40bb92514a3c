"""A plan on a live torch model, by skipping and masking; reversible, and no weight is touched.

PyTorch *applies* a plan (trials, fine-tuning, the parity reference); the exporter *removes*. A skipped block adds
nothing to its residual stream and computes nothing; its LayerNorm still runs. Pruned heads are zeros at the input of
the output projection, pruned FFN groups zeros at the input of the down projection, pruned ATTN input groups zeros at
the inputs of W_Q, W_K and W_V. Weights in fewer bits are rounded to what their codes say whenever they are used.
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
from ..core.quantization import layer_matrices
from ..core.targets import TargetKind
from .attention import sign_matching_attention
from .fake_quantization import embeddings_in_bits, linear_in_bits, whole_linear_in_bits

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
    applied = AppliedPlan(model)
    applied.set(plan)
    return applied


class AppliedPlan:
    """What of a plan is applied to a model, so that another plan changes only what differs."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._family = family_of(model.config)
        self._layers = layers_of(model, self._family)
        self._plan: ApproximationPlan | None = None
        self._undo: dict[int | None, list[Undo]] = {}
        """By layer; None = outside the layers."""
        self._attention_before: str = model.config._attn_implementation

    def __enter__(self) -> AppliedPlan:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Restore the model."""
        for place in list(self._undo):
            self._clear(place)
        self._plan = None
        self._model.config._attn_implementation = self._attention_before

    def set(self, plan: ApproximationPlan) -> None:
        """Replace the plan that is applied.

        Raises:
            ValueError: the plan is for a model of another shape.
        """
        shape, before = shape_of(self._model.config, self._family), self._plan
        if shape != plan.model.shape:
            raise ValueError(f"the plan is for {plan.model.shape}, the model has {shape}")
        applied = () if before is None else before.layers
        for index, layer in enumerate(plan.layers):
            if not applied or applied[index] != layer:
                self._set_layer(index, layer)
        if before is None or (before.rest, before.word_embeddings) != (plan.rest, plan.word_embeddings):
            self._set_outside(plan)
        matches_signs = any(isinstance(part, SignMatching) for part in plan.parts)
        self._model.config._attn_implementation = _ATTENTION if matches_signs else self._attention_before
        self._plan = plan

    def _set_layer(self, index: int, plan: LayerPlan) -> None:
        self._clear(index)
        undo = self._undo[index] = []
        site = _Site(self._model, self._family, self._layers[index], plan)
        for application in APPLICATIONS.values():
            undo.extend(application(site))

    def _set_outside(self, plan: ApproximationPlan) -> None:
        self._clear(None)
        undo = self._undo[None] = []
        inside, words = {*self._layers.modules()}, self._model.get_submodule(self._family.word_embeddings_scope)
        for module in self._model.modules():
            part = plan.word_embeddings if module is words else plan.rest
            if part is None or module in inside:
                continue
            if isinstance(module, nn.Embedding):
                undo.append(replace_forward(module, embeddings_in_bits(module, part)))
            elif isinstance(module, nn.Linear):
                undo.append(replace_forward(module, whole_linear_in_bits(module, part)))

    def _clear(self, place: int | None) -> None:
        for undo in self._undo.pop(place, []):
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
    undo = []
    for chosen in site.plan.every(SignMatching):
        undo.append(_set_attribute(site.module(site.family.attention_core), "axform_sign_matching", chosen))
    return undo


def _quantize(site: _Site) -> list[Undo]:
    undo = []
    for matrix in layer_matrices(site.family, site.plan):
        linear = site.module(matrix.path)
        assert isinstance(linear, nn.Linear)
        undo.append(replace_forward(linear, linear_in_bits(linear, matrix)))
    return undo


APPLICATIONS: dict[str, Callable[[_Site], list[Undo]]] = {
    "skip_blocks": _skip_blocks,
    "prune_heads": _prune_heads,
    "shrink_groups": _shrink_groups,
    "sign_matching": _match_signs,
    "quantize": _quantize,
}
"""How a layer does what a plan says of it by each of `core.techniques`: what takes it back, nothing where it says nothing."""


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
