"""A plan on a live torch model, by skipping and masking; reversible, and no weight is touched.

PyTorch *applies* a plan (trials, fine-tuning, the parity reference); the exporter *removes*. A skipped block adds
nothing to its residual stream and computes nothing; its LayerNorm still runs. Pruned heads are zeros at the input of
the output projection, pruned FFN groups zeros at the input of the down projection, pruned ATTN input groups zeros at
the inputs of W_Q, W_K and W_V.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ..core.families import Family, family_of, shape_of
from ..core.plan import ApproximationPlan, LayerPlan, SignMatching, kept_positions
from .attention import sign_matching_attention

__all__ = ["AppliedPlan", "apply_plan", "layers_of"]

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
        self._undo: dict[int, list[Callable[[], None]]] = {}
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
        layer, part = self._layers[index], plan.layers[index]
        undo.extend(self._apply_attention(layer, part, plan))
        undo.extend(self._apply_feed_forward(layer, part, plan))

    def _clear(self, index: int) -> None:
        for undo in self._undo.pop(index, []):
            undo()

    def _apply_attention(self, layer: nn.Module, part: LayerPlan, plan: ApproximationPlan) -> list[Callable[[], None]]:
        family, attention = self._family, part.attention
        core, projection = layer.get_submodule(family.attention_core), layer.get_submodule(family.attention_output)
        if attention.skipped:
            return [
                _replace_forward(core, lambda hidden, *_, **__: (torch.zeros_like(hidden), None)),
                _replace_forward(projection, torch.zeros_like),
            ]
        undo = []
        shape = plan.model.shape
        if attention.pruned_heads:
            kept = kept_positions(attention.pruned_heads, shape.hidden_size, shape.head_size)
            undo.append(_mask_input(projection, kept, shape.hidden_size))
        if attention.pruned_input_groups:
            kept = kept_positions(attention.pruned_input_groups, shape.hidden_size, plan.group_size)
            for path in (family.query, family.key, family.value):
                undo.append(_mask_input(layer.get_submodule(path), kept, shape.hidden_size))
        if attention.sign_matching is not None:
            self._model.config._attn_implementation = _ATTENTION
            undo.append(_set_attribute(core, "axform_sign_matching", attention.sign_matching))
        return undo

    def _apply_feed_forward(
        self, layer: nn.Module, part: LayerPlan, plan: ApproximationPlan
    ) -> list[Callable[[], None]]:
        entry, down = layer.get_submodule(self._family.feed_forward_entry), layer.get_submodule(self._family.down)
        if part.feed_forward.skipped:
            return [_replace_forward(entry, torch.zeros_like), _replace_forward(down, torch.zeros_like)]
        if part.feed_forward.pruned_groups:
            size = plan.model.intermediate_size
            return [_mask_input(down, kept_positions(part.feed_forward.pruned_groups, size, plan.group_size), size)]
        return []


def _replace_forward(module: nn.Module, forward: Callable[..., Any]) -> Callable[[], None]:
    return _set_attribute(module, "forward", forward)


def _set_attribute(module: nn.Module, name: str, value: object) -> Callable[[], None]:
    object.__setattr__(module, name, value)
    return lambda: object.__delattr__(module, name)


def _mask_input(module: nn.Module, kept: list[int], size: int) -> Callable[[], None]:
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
