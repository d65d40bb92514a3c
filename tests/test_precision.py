"""bf16 is used where it is fast, by timing, and a run stays with what it started with."""

from __future__ import annotations

import pytest
import torch
from axform.toolchain import precision
from axform.toolchain.optimize import _settled
from axform.toolchain.options import OptimizeOptions
from axform.toolchain.precision import computing_in_bf16, has_fast_bf16, in_fast_precision
from support import tiny_model

needs_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is asked what it supports")


@pytest.fixture
def machine(monkeypatch):
    """Sets what the CPU can do and how long a product in bf16 takes beside one in float32."""

    def describe(avx512, amx, ratio):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
        monkeypatch.setattr(precision, "_product_time_ratio", lambda *_: ratio)
        has_fast_bf16.cache_clear()

    yield describe
    has_fast_bf16.cache_clear()


@needs_cpu
@pytest.mark.parametrize(
    ("avx512", "amx", "ratio", "is_fast"),
    [
        (True, False, 1.88, False),
        (True, False, 0.55, True),
        (True, True, 0.2, True),
        (False, True, 0.2, True),
        (False, False, 0.5, False),
    ],
)
def test_an_instruction_set_alone_says_nothing(machine, avx512, amx, ratio, is_fast):
    machine(avx512, amx, ratio)
    assert has_fast_bf16() is is_fast


def test_a_product_takes_as_long_as_itself_and_one_in_float64_longer():
    assert 0.6 < precision._product_time_ratio(torch.float32, torch.float32) < 1.6
    assert precision._product_time_ratio(torch.float64, torch.float32) > 1.2


@pytest.mark.parametrize("settled", [True, False])
def test_a_forward_computes_in_what_was_settled(machine, settled):
    machine(True, True, 2.0 if settled else 0.2)
    model = tiny_model("bert").model.eval()
    tokens = torch.ones(1, 4, dtype=torch.long)
    attention = model.config._attn_implementation
    with computing_in_bf16(settled), torch.inference_mode(), in_fast_precision(model, 4):
        assert model(input_ids=tokens).logits.dtype == (torch.bfloat16 if settled else torch.float32)
    assert model(input_ids=tokens).logits.dtype == torch.float32
    assert model.config._attn_implementation == attention


@needs_cpu
def test_a_run_keeps_what_it_started_with(machine):
    machine(True, False, 0.5)
    asked = OptimizeOptions(model="minilm", task="glue/sst2", threads=1)
    started = _settled(asked, None)
    assert started.bf16 is True
    machine(True, False, 1.9)
    assert _settled(asked, started) == started
    assert _settled(asked.model_copy(update={"bf16": False}), started).bf16 is False, "told as a contradiction"
    assert _settled(asked, None).bf16 is False
