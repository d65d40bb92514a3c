"""Half precision where it is fast.

Whether it is decides the last bits of trials and weights. So it is found out once, kept with the run's options, and stays
what it is to the end of the run, resumed or not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from transformers import PreTrainedModel

__all__ = ["computing_in_bf16", "has_fast_bf16", "in_fast_precision", "uses_bf16"]

_SHORT = 256
"""Tokens up to which attention as plain products is faster on a CPU than torch's flash attention, whose backward in bf16
takes nine times as long at 54 tokens (docs/measurements.md)."""

_GAIN = 0.8
"""Share of float32's time that a product in bf16 may take: less would not pay for the casts around it."""

_PRODUCT = (512, 384, 1536)
"""Rows, inputs and outputs of the product that is timed: a batch of MiniLM's feed-forward."""

_settled: ContextVar[bool | None] = ContextVar("settled", default=None)
"""What the run at hand computes in; None = what is fast here."""


@cache
def has_fast_bf16() -> bool:
    """Whether the hardware computes in bf16 clearly faster than in float32.

    A CPU is asked by timing one product in both, once a process (0.1 s): an instruction set says too little. An Intel
    Xeon whose AMX is hidden from the virtual machine has AVX-512's bf16 and takes 1.9 times as long with it.
    """
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    cpu: Any = torch.cpu
    if not (cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported()):
        return False
    return _product_time_ratio(torch.bfloat16, torch.float32) < _GAIN


def _product_time_ratio(dtype: torch.dtype, other: torch.dtype, turns: int = 9) -> float:
    """Time of a product in one type over that in the other: the fastest of turns, which other processes disturb least."""
    rows, inputs, outputs = _PRODUCT
    ways = [(torch.ones(rows, inputs, dtype=each), torch.ones(outputs, inputs, dtype=each)) for each in (dtype, other)]
    fastest = [float("inf")] * len(ways)
    with torch.inference_mode():
        for _ in range(turns):
            for way, (left, right) in enumerate(ways):
                started = time.perf_counter()
                torch.nn.functional.linear(left, right)
                fastest[way] = min(fastest[way], time.perf_counter() - started)
    return fastest[0] / fastest[1]


@contextmanager
def computing_in_bf16(settled: bool) -> Iterator[None]:
    """What `in_fast_precision` means inside: bf16, or float32."""
    token = _settled.set(settled)
    try:
        yield
    finally:
        _settled.reset(token)


def uses_bf16() -> bool:
    """Whether `in_fast_precision` computes in bf16."""
    settled = _settled.get()
    return has_fast_bf16() if settled is None else settled


@contextmanager
def in_fast_precision(model: PreTrainedModel, tokens: int) -> Iterator[None]:
    """Products in bf16 where that is fast, or was settled; around a forward, so that the model itself stays float32.

    Args:
        tokens: of the padded samples.
    """
    device, enabled = next(model.parameters()).device, uses_bf16()
    config: Any = model.config
    attention = config._attn_implementation
    if enabled and device.type == "cpu" and attention == "sdpa" and tokens <= _SHORT:
        config._attn_implementation = "eager"
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            yield
    finally:
        config._attn_implementation = attention
