"""Half precision where it is fast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

__all__ = ["has_fast_bf16", "in_fast_precision"]

_SHORT = 256
"""Tokens up to which attention as plain products is faster on a CPU than torch's flash attention, whose backward in bf16
takes nine times as long at 54 tokens (docs/measurements.md)."""


def has_fast_bf16() -> bool:
    """Whether the hardware computes in bf16 at more than the speed of float32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    cpu: Any = torch.cpu
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


@contextmanager
def in_fast_precision(model: PreTrainedModel, tokens: int) -> Iterator[None]:
    """Products in bf16 where that is fast; around a forward, so that the model itself stays float32.

    Args:
        tokens: of the padded samples.
    """
    device, enabled = next(model.parameters()).device, has_fast_bf16()
    config: Any = model.config
    attention = config._attn_implementation
    if enabled and device.type == "cpu" and attention == "sdpa" and tokens <= _SHORT:
        config._attn_implementation = "eager"
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            yield
    finally:
        config._attn_implementation = attention
