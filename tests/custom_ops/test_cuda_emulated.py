"""The CUDA kernels without a GPU: their source, compiled for the host, on an emulator of threads and tensor cores.

It shows that the kernels compute the right thing; that they compile for every architecture, run, and are fast are other
questions (test_cuda.py, samples/benchmarks/attention_ops.py).
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from ops_support import Case, random_case

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "custom_ops" / "src"
HOPPER, AMPERE, TURING = (90, 4, 232448), (86, 2, 101376), (75, 1, 65536)
ELEMENTS = {"float32": 0, "float16": 1, "bfloat16": 2}
# Outputs of size 1 rounded to 11 and 8 bits, and weights rounded alike before the second product.
TOLERANCE = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    target = tmp_path_factory.mktemp("emulator") / "emulator.so"
    sources = [HERE / "emulator" / "emulate.cc", SOURCES / "cuda" / "plan.cc", SOURCES / "attention_shape.cc"]
    flags = ["-std=c++17", "-O2", "-shared", "-fPIC", "-DAXFORM_EMULATE", f"-I{SOURCES}", f"-I{HERE / 'emulator'}"]
    subprocess.run([compiler, *flags, *map(str, sources), "-o", str(target)], check=True)
    library = ctypes.CDLL(str(target))
    library.emulate_attention.restype = ctypes.c_char_p
    return library


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


ENCODE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "float32": lambda x: x.astype(np.float32),
    "float16": lambda x: x.astype(np.float16),
    "bfloat16": to_bfloat16,
}
DECODE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "float32": lambda x: x,
    "float16": lambda x: x.astype(np.float32),
    "bfloat16": from_bfloat16,
}


def pointer(x: np.ndarray | None) -> ctypes.c_void_p | None:
    return None if x is None else x.ctypes.data_as(ctypes.c_void_p)


def check(
    emulator: ctypes.CDLL,
    case: Case,
    element: str,
    kept: int,
    hard: bool = False,
    limits: tuple[int, int, int] = HOPPER,
    packed: bool = False,
    **options: Any,
) -> None:
    encode, decode = ENCODE[element], DECODE[element]
    rounded = Case(*(decode(encode(x)) for x in (case.q, case.k, case.v)), case.mask)
    arrange = reference.join_heads if packed else (lambda x: x)
    q, k, v = (np.ascontiguousarray(arrange(encode(x))) for x in (case.q, case.k, case.v))
    batch, heads, queries, size = case.q.shape
    keys, value_size = case.v.shape[2:]
    y = np.full_like(arrange(encode(np.zeros((batch, heads, queries, value_size)))), 7)
    mask = None if case.mask is None else case.mask.astype(np.uint8)
    error = emulator.emulate_attention(
        int(hard),
        ELEMENTS[element],
        *map(pointer, (q, k, v, mask, y)),
        (ctypes.c_int64 * 7)(batch, heads, queries, keys, size, value_size, packed),
        ctypes.c_int64(kept),
        ctypes.c_float(options.get("scale", 0.0)),
        int(options.get("causal", False)),
        int(options.get("selection") == "count"),
        ctypes.c_float(options.get("prefix", 0.25)),
        (ctypes.c_int * 3)(*limits),
    )
    assert error is None, error.decode()
    implementation = reference.hard_attention if hard else reference.sign_matching_attention
    expected = implementation(rounded.q, rounded.k, rounded.v, rounded.mask, kept=kept, **options)
    actual = decode(y)
    if packed:
        actual = reference.split_heads(actual, heads)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE[element])


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("size", [16, 64, 72, 128, 256])
@pytest.mark.parametrize("causal", [False, True])
def test_head_sizes(emulator: ctypes.CDLL, element: str, size: int, causal: bool) -> None:
    check(emulator, random_case(size, 1, 2, 90, 90, size, masked=0.2), element, 40, causal=causal)


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize(
    "queries, keys, kept", [(1, 1, 16), (20, 33, 16), (130, 300, 100), (150, 40, 64), (17, 200, 1)]
)
def test_lengths(emulator: ctypes.CDLL, element: str, queries: int, keys: int, kept: int) -> None:
    check(emulator, random_case(1, 2, 1, queries, keys, 32, value_size=16, masked=0.3), element, kept)


@pytest.mark.parametrize("element", ["float32", "float16"])
def test_a_large_device(emulator: ctypes.CDLL, element: str) -> None:
    """Many small chunks in the first launch, many blocks a head in the second."""
    case = random_case(8, 1, 2, 1900, 1900, 64, masked=0.1)
    check(emulator, case, element, 48, limits=(90, 132, 232448))


@pytest.mark.parametrize("selection", ["majority", "count"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [None, 0.4])
def test_selection(emulator: ctypes.CDLL, selection: str, causal: bool, masked: float | None) -> None:
    case = random_case(2, 1, 2, 280, 280, 40, masked=masked, coarse=True)
    check(emulator, case, "float32", 50, selection=selection, causal=causal, prefix=0.3)


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("limits", [AMPERE, TURING])
def test_smaller_gpus(emulator: ctypes.CDLL, element: str, limits: tuple[int, int, int]) -> None:
    """Less shared memory: tiles are loaded again and again, and ranks computed instead of stored."""
    check(emulator, random_case(3, 1, 1, 40, 400, 128), element, 350, limits=limits, scale=0.1)


def test_odd_sizes_take_the_general_path(emulator: ctypes.CDLL) -> None:
    check(emulator, random_case(4, 1, 2, 50, 50, 33, value_size=7, masked=0.2), "float16", 16)


@pytest.mark.parametrize("element", ["float32", "float16"])
def test_heads_in_one_dimension(emulator: ctypes.CDLL, element: str) -> None:
    check(emulator, random_case(5, 2, 3, 60, 60, 32, masked=0.2), element, 16, packed=True)


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("causal", [False, True])
def test_masked_rows_give_zero(emulator: ctypes.CDLL, element: str, causal: bool) -> None:
    case = random_case(6, 2, 1, 40, 40, 16, masked=0.3)
    case.mask[1] = False
    check(emulator, case, element, 8, causal=causal)
    check(emulator, case, element, 8, causal=causal, hard=True)


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("keys, kept", [(20, 30), (70, 9)])
def test_hard_attention(emulator: ctypes.CDLL, element: str, keys: int, kept: int) -> None:
    case = random_case(7, 1, 2, 30, keys, 16, masked=0.2, coarse=True)
    check(emulator, case, element, kept, hard=True)


def test_negative_scale(emulator: ctypes.CDLL) -> None:
    for element in ELEMENTS:
        check(emulator, random_case(8, 1, 1, 50, 50, 16, masked=0.2), element, 16, scale=-0.2)


@pytest.mark.parametrize("bits", range(2, 9))
def test_unpack_bits(emulator: ctypes.CDLL, bits: int) -> None:
    codes = np.random.default_rng(bits).integers(-(1 << bits - 1), 1 << bits - 1, 1001).astype(np.int8)
    packed = reference.pack_bits(codes, bits)
    actual = np.empty_like(codes)
    emulator.emulate_unpack_bits(
        pointer(packed), ctypes.c_int64(packed.size), bits, ctypes.c_int64(codes.size), pointer(actual)
    )
    assert np.array_equal(actual, codes)
