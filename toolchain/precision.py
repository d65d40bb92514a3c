"""Half precision where it is fast."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["has_fast_bf16", "in_fast_precision"]


def has_fast_bf16() -> bool:
    """Whether the hardware computes in bf16 at more than the speed of float32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    cpu: Any = torch.cpu
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


def in_fast_precision(device: torch.device) -> torch.autocast:
    """Products in bf16 where that is fast; around a forward, so that the model itself stays float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bf16())
