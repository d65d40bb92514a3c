"""Random shapes, masks and attributes: the kernels and the reference agree, or both refuse."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ops_support import Case, attention_model, random_case, session

EXAMPLES = int(os.environ.get("AXFORM_OPS_EXAMPLES", "60"))
SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Case, dict[str, Any]]:
    causal = draw(st.booleans())
    keys = draw(st.one_of(st.integers(1, 70), st.integers(1, 300)))
    case = random_case(
        seed=draw(st.integers(0, 2**20)),
        batch=draw(st.integers(1, 3)),
        heads=draw(st.integers(1, 3)),
        queries=keys if causal else draw(st.one_of(st.just(keys), st.integers(1, 70))),
        keys=keys,
        size=draw(st.integers(1, 140)),
        value_size=draw(st.integers(1, 140)),
        masked=draw(st.sampled_from([None, 0.0, 0.3, 0.9, 1.0])),
        coarse=draw(st.booleans()),
    )
    options = {
        "kept": draw(st.one_of(st.integers(1, 20), st.integers(1, 320))),
        "causal": causal,
        "scale": draw(st.sampled_from([0.0, 0.05, -0.1])),
    }
    return case, options


def close(actual: np.ndarray, expected: np.ndarray, case: Case) -> None:
    # Scores of unscaled normal inputs grow with the head size; see test_numerics.py for the tolerance.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5)


@SETTINGS
@given(drawn=cases(), selection=st.sampled_from(["majority", "count"]), prefix=st.sampled_from([0.0, 0.2, 0.25, 1.0]))
def test_sign_matching(library: Path, drawn: tuple[Case, dict[str, Any]], selection: str, prefix: float) -> None:
    case, options = drawn
    model = attention_model(
        "SignMatchingAttention",
        mask=case.mask is not None,
        k=options["kept"],
        is_causal=int(options["causal"]),
        scale=options["scale"],
        selection=selection,
        prefix=prefix,
    )
    actual = session(model, library, threads=2).run(None, case.feeds())[0]
    expected = reference.sign_matching_attention(
        case.q, case.k, case.v, case.mask, selection=selection, prefix=prefix, **options
    )
    close(actual, expected, case)


@SETTINGS
@given(drawn=cases())
def test_hard_attention(library: Path, drawn: tuple[Case, dict[str, Any]]) -> None:
    case, options = drawn
    if options["kept"] < case.k.shape[2]:
        # Probabilities that differ by rounding only may be kept either way: make all scores of a row distinct or equal.
        case = Case(np.round(case.q), np.round(np.nan_to_num(case.k)), case.v, case.mask)
    model = attention_model(
        "HardAttention",
        mask=case.mask is not None,
        k=options["kept"],
        is_causal=int(options["causal"]),
        scale=options["scale"],
    )
    actual = session(model, library, threads=2).run(None, case.feeds())[0]
    expected = reference.hard_attention(case.q, case.k, case.v, case.mask, **options)
    close(actual, expected, case)


@SETTINGS
@given(bits=st.integers(2, 8), count=st.integers(0, 200), seed=st.integers(0, 2**20))
def test_unpack_bits(library: Path, bits: int, count: int, seed: int) -> None:
    from test_unpack_bits import unpack

    rng = np.random.default_rng(seed)
    codes = rng.integers(-(1 << bits - 1), 1 << bits - 1, count).astype(np.int8)
    assert np.array_equal(unpack(library, reference.pack_bits(codes, bits), bits, [count]), codes)
