"""The CPU kernels against the float64 reference.

Tolerance 1e-5: outputs are convex combinations of values of size about 1, so float32 rounding of a score of size s moves
them by about s * 1e-7, and scores stay below 30 here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import reference
from ops_support import Case, attention_model, random_case, session

TOLERANCE = 1e-5
SIZES = (16, 17, 32, 48, 64, 80, 96, 100, 128, 160, 256)


def sign_matching(library: Path, case: Case, kept: int, threads: int = 1, **options) -> np.ndarray:
    attributes = {"k": kept}
    attributes.update(
        {("is_causal" if key == "causal" else key): int(v) if key == "causal" else v for key, v in options.items()}
    )
    model = attention_model("SignMatchingAttention", mask=case.mask is not None, **attributes)
    return session(model, library, threads).run(None, case.feeds())[0]


def check(library: Path, case: Case, kept: int, threads: int = 1, **options) -> None:
    actual = sign_matching(library, case, kept, threads, **options)
    expected = reference.sign_matching_attention(case.q, case.k, case.v, case.mask, kept=kept, **options)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("selection", ["majority", "count"])
@pytest.mark.parametrize("causal", [False, True])
def test_head_sizes(library: Path, size: int, selection: str, causal: bool) -> None:
    case = random_case(size, 2, 2, 57, 57, size, masked=0.2)
    check(library, case, 16, selection=selection, causal=causal)


@pytest.mark.parametrize("keys", [1, 2, 15, 16, 17, 33, 64, 127, 130, 257])
@pytest.mark.parametrize("kept", [1, 16, 64, 300])
def test_lengths(library: Path, keys: int, kept: int) -> None:
    check(library, random_case(keys, 1, 2, keys, keys, 32, masked=0.1), kept)
    check(library, random_case(keys, 1, 2, keys, keys, 32), kept, causal=True)


def test_long(library: Path) -> None:
    check(library, random_case(1, 1, 1, 3000, 3000, 16), 128, threads=2)


@pytest.mark.parametrize("kept", [100, 260, 1030])
def test_many_keys_kept(library: Path, kept: int) -> None:
    check(library, random_case(2, 1, 1, 60, 1100, 24), kept)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("selection", ["majority", "count"])
def test_ties_go_to_the_lower_index(library: Path, selection: str, causal: bool) -> None:
    case = random_case(3, 2, 3, 70, 70, 16, masked=0.3, coarse=True)
    check(library, case, 20, selection=selection, causal=causal)


def test_zeros_are_not_positive(library: Path) -> None:
    case = random_case(4, 1, 1, 40, 40, 16)
    case.q[..., ::3] = 0.0
    case.q[..., 1::3] = -0.0
    case.k[:, :, 7:30, :] = 0.0
    check(library, case, 8)


def test_denormals_count_as_positive(library: Path) -> None:
    case = random_case(5, 1, 2, 40, 40, 16)
    case.q[..., 0] = 1e-42
    case.k[:, :, ::2, 1] = 1e-44
    case.v[:, :, 3, :] = 1e-41
    check(library, case, 8)


def test_queries_and_keys_of_different_lengths(library: Path) -> None:
    check(library, random_case(6, 2, 2, 19, 83, 32, value_size=48, masked=0.4), 16)


@pytest.mark.parametrize("value_size", [1, 7, 16, 40, 130])
@pytest.mark.parametrize("causal", [False, True])
def test_value_sizes(library: Path, value_size: int, causal: bool) -> None:
    check(library, random_case(7, 1, 2, 50, 50, 32, value_size=value_size, masked=0.2), 16, causal=causal)


@pytest.mark.parametrize("prefix", [0.0, 0.1, 0.25, 0.5, 1.0])
def test_causal_prefix(library: Path, prefix: float) -> None:
    check(library, random_case(8, 2, 2, 90, 90, 32, masked=0.3), 20, causal=True, prefix=prefix)


@pytest.mark.parametrize("scale", [0.0, 0.3, 2.0, -0.5])
def test_scale(library: Path, scale: float) -> None:
    check(library, random_case(9, 1, 2, 50, 50, 16), 12, scale=scale)


@pytest.mark.parametrize("causal", [False, True])
def test_masked_rows_give_exactly_zero(library: Path, causal: bool) -> None:
    case = random_case(10, 3, 2, 40, 40, 16, masked=0.5)
    assert case.mask is not None
    case.mask[1] = False
    actual = sign_matching(library, case, 8, causal=causal)
    assert np.array_equal(actual[1], np.zeros_like(actual[1]))
    assert np.isfinite(actual).all()


def test_infinite_values_of_later_keys_do_not_reach_earlier_rows(library: Path) -> None:
    case = random_case(11, 1, 1, 64, 64, 16)
    case.v[:, :, 40:, :] = np.inf
    actual = sign_matching(library, case, 32, causal=True)
    assert np.isfinite(actual[:, :, :40]).all()


def test_a_nan_among_the_queries_stays_in_its_row(library: Path) -> None:
    case = random_case(12, 1, 1, 50, 50, 16)
    case.q[0, 0, 20, 3] = np.nan
    actual = sign_matching(library, case, 8)
    assert np.isnan(actual[0, 0, 20]).all()
    assert np.isfinite(np.delete(actual[0, 0], 20, axis=0)).all()


def test_large_scores_do_not_overflow(library: Path) -> None:
    case = random_case(13, 1, 1, 50, 50, 16)
    case.q[:] *= 200
    case.k[:] *= 200
    actual = sign_matching(library, case, 8)
    expected = reference.sign_matching_attention(case.q, case.k, case.v, kept=8)
    assert np.isfinite(actual).all()
    np.testing.assert_allclose(actual, expected, atol=0.05)  # float32 scores of 1e5 are exact to 0.01


@pytest.mark.parametrize("causal", [False, True])
def test_heads_in_one_dimension(library: Path, causal: bool) -> None:
    case = random_case(14, 2, 3, 60, 60, 32, value_size=16, masked=0.2)
    joined = Case(*(reference.join_heads(x) for x in (case.q, case.k, case.v)), case.mask)
    model = attention_model("SignMatchingAttention", rank=3, k=12, num_heads=3, is_causal=int(causal))
    actual = session(model, library).run(None, joined.feeds())[0]
    expected = reference.sign_matching_attention(case.q, case.k, case.v, case.mask, kept=12, causal=causal)
    np.testing.assert_allclose(actual, reference.join_heads(expected), rtol=0, atol=TOLERANCE)


def test_half_precision_models_run_on_the_cpu(library: Path) -> None:
    """ONNX Runtime casts around the float32 kernel, whether or not the library has CUDA kernels."""
    case = random_case(20, 2, 2, 60, 60, 32, masked=0.2, dtype=np.float16)
    model = attention_model("SignMatchingAttention", k=12, element=onnx.TensorProto.FLOAT16)
    actual = session(model, library).run(None, case.feeds())[0]
    expected = reference.sign_matching_attention(case.q, case.k, case.v, case.mask, kept=12)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-3)


def test_short_sequences_are_plain_attention(library: Path) -> None:
    case = random_case(15, 2, 2, 20, 20, 16)
    scores = case.q.astype(np.float64) @ case.k.astype(np.float64).swapaxes(2, 3) / 4
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = (weights / weights.sum(-1, keepdims=True)) @ case.v
    np.testing.assert_allclose(sign_matching(library, case, 20), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("size", [16, 33, 64, 128])
@pytest.mark.parametrize("keys,kept", [(1, 30), (29, 30), (64, 30), (130, 1), (300, 30), (90, 70), (340, 290)])
@pytest.mark.parametrize("causal", [False, True])
def test_hard_attention(library: Path, size: int, keys: int, kept: int, causal: bool) -> None:
    queries = keys if causal else 21
    case = random_case(16, 1, 2, min(queries, keys) if not causal else keys, keys, size, masked=0.2)
    model = attention_model("HardAttention", k=kept, is_causal=int(causal))
    actual = session(model, library).run(None, case.feeds())[0]
    expected = reference.hard_attention(case.q, case.k, case.v, case.mask, kept=kept, causal=causal)
    clear = rows_with_a_clear_cut(case, kept, causal)
    assert clear.mean() > 0.95
    np.testing.assert_allclose(actual[clear], expected[clear], rtol=0, atol=TOLERANCE)


def rows_with_a_clear_cut(case: Case, kept: int, causal: bool) -> np.ndarray:
    """(batch, heads, queries): whether rounding of float32 cannot change which keys are the `kept` best."""
    scores = case.q.astype(np.float64) @ np.nan_to_num(case.k).astype(np.float64).swapaxes(2, 3)
    if kept >= scores.shape[-1]:
        return np.ones(scores.shape[:3], np.bool_)
    scores = np.where(case.mask[:, None, None, :], scores, -np.inf) if case.mask is not None else scores
    if causal:
        scores = np.where(np.tri(*scores.shape[2:], dtype=bool), scores, -np.inf)
    ordered = -np.sort(-scores, axis=-1)
    last, next_one = ordered[..., kept - 1], ordered[..., kept]
    return np.isinf(next_one) | (last - np.nan_to_num(next_one) > 1e-5)


def test_hard_attention_ties_go_to_the_lower_index(library: Path) -> None:
    case = random_case(17, 1, 2, 40, 90, 16, coarse=True)
    case.k[:, :, 50:] = case.k[:, :, :40]  # equal keys, different values
    actual = session(attention_model("HardAttention", mask=False, k=9), library).run(None, case.feeds())[0]
    expected = reference.hard_attention(case.q, case.k, case.v, kept=9)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE)


def test_threads_give_the_same_bits(library: Path) -> None:
    case = random_case(18, 3, 5, 400, 400, 32, masked=0.1)
    one = sign_matching(library, case, 32, threads=1, causal=True)
    assert np.array_equal(one, sign_matching(library, case, 32, threads=4, causal=True))


@pytest.mark.parametrize("keys", [140, 280, 1100])
def test_far_fewer_real_keys_than_positions(library: Path, keys: int) -> None:
    case = random_case(19, 2, 3, keys, keys, 16, masked=0.5)
    for _ in range(3):
        check(library, Case(case.q[:, :, :200], case.k, case.v, case.mask), keys, threads=2)


@pytest.mark.parametrize("instruction_set", ["avx512", "avx2", "neon", "generic"])
def test_every_instruction_set(library: Path, instruction_set: str) -> None:
    """Tests of this file again, in a process that is told which kernels to use."""
    from axform import custom_ops

    info = custom_ops.build_info()
    if "AXFORM_CPU_ISA" in os.environ:
        pytest.skip("already chosen from outside")
    if instruction_set not in info["cpu_instruction_sets"]:
        pytest.skip(f"{instruction_set} kernels are not built in")
    if instruction_set == info["cpu_dispatched"]:
        pytest.skip("what the other tests run")
    environment = {**os.environ, "AXFORM_CPU_ISA": instruction_set}
    asked = "from axform import custom_ops; print(custom_ops.build_info()['cpu_dispatched'])"
    used = subprocess.run([sys.executable, "-c", asked], env=environment, capture_output=True, text=True, check=True)
    if used.stdout.strip() != instruction_set:
        pytest.skip(f"this machine cannot run {instruction_set}")
    chosen = "head_sizes or value_sizes or ties or masked_rows or denormals or scale or prefix or overflow or nan"
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-k", chosen, __file__]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:]
