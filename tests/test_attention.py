"""Sign matching in torch and as an ONNX function body, against a float64 reference written from the definition."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from axform.core.opset import DOMAIN
from axform.exporters.functions import sign_matching_function
from axform.toolchain.attention import default_k, sign_matching_attention, sign_matching_keys
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper


def reference(q, k, v, mask, kept, selection):
    """One head, row by row in float64: (queries, d), (keys, d), (keys, dv), (keys,) -> (queries, dv)."""
    real = [j for j in range(len(k)) if mask[j]]
    n, d = len(real), q.shape[1]
    positive = [sum(1 for i in real if q[i, c] > 0) for c in range(d)]
    scores = {}
    for j in range(len(k)):
        if selection == "majority":
            sign = [positive[c] >= n / 2 for c in range(d)]
            scores[j] = -sum(1 for c in range(d) if (k[j, c] > 0) != sign[c])
        else:
            scores[j] = sum((1 if k[j, c] > 0 else -1) * (2 * positive[c] - n) for c in range(d))
    chosen = sorted(real, key=lambda j: (-scores[j], j))[:kept]
    if not chosen:
        return np.zeros((len(q), v.shape[1]))
    logits = q.astype(np.float64) @ k[chosen].T.astype(np.float64) / np.sqrt(d)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True) @ v[chosen].astype(np.float64)


@st.composite
def cases(draw):
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    b, h, n = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 40))
    d, k = draw(st.integers(1, 24)), draw(st.integers(1, 12))
    q, key, v = (generator.standard_normal((b, h, n, d)).astype(np.float32) for _ in range(3))
    if draw(st.booleans()):  # many equal sign vectors, zeros and negative zeros: ties everywhere
        q, key = (np.round(tensor).astype(np.float32) for tensor in (q, key))
    mask = np.arange(n) < generator.integers(0, n + 1, (b, 1))
    if draw(st.booleans()):
        mask = generator.random((b, n)) < 0.7  # padding anywhere
    return q, key, v, mask, k, draw(st.sampled_from(["majority", "count"]))


def expected(q, k, v, mask, kept, selection):
    out = np.zeros(q.shape[:3] + v.shape[3:])
    for b, h in np.ndindex(q.shape[:2]):
        out[b, h] = reference(q[b, h], k[b, h], v[b, h], mask[b], kept, selection)
    return out


@settings(max_examples=60, deadline=None, derandomize=True)
@given(cases())
def test_torch_equals_the_definition(case):
    q, k, v, mask, kept, selection = case
    result = sign_matching_attention(
        *(torch.from_numpy(t) for t in (q, k, v, mask)), k=kept, selection=selection
    ).numpy()
    np.testing.assert_allclose(result, expected(*case), atol=1e-5)  # float32 rounding of sums over 40 keys


_sessions: dict = {}


def function_session(selection, kept):
    if (selection, kept) not in _sessions:
        tensor = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["b", "h", "n", "d"]) for n in "QKV"]
        mask = helper.make_tensor_value_info("M", TensorProto.BOOL, ["b", "n"])
        node = helper.make_node(
            "SignMatchingAttention", ["Q", "K", "V", "M"], ["Y"], domain=DOMAIN, k=kept, selection=selection
        )
        graph = helper.make_graph(
            [node], "g", [*tensor, mask], [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["b", "h", "n", "d"])]
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", 23), helper.make_opsetid(DOMAIN, 1)],
            functions=[sign_matching_function(selection)],
            ir_version=10,
        )
        onnx.checker.check_model(model, full_check=True)
        _sessions[selection, kept] = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
    return _sessions[selection, kept]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(cases())
def test_function_body_equals_the_definition(case):
    q, k, v, mask, kept, selection = case
    result = function_session(selection, kept).run(None, {"Q": q, "K": k, "V": v, "M": mask})[0]
    np.testing.assert_allclose(result, expected(*case), atol=1e-5)


def test_function_body_ignores_infinities_in_padded_places():
    generator = np.random.default_rng(0)
    q, k, v = (generator.standard_normal((1, 2, 6, 4)).astype(np.float32) for _ in range(3))
    mask = np.array([[True, True, True, True, False, False]])
    feeds = {"Q": q, "K": k.copy(), "V": v.copy(), "M": mask}
    clean = function_session("majority", 5).run(None, feeds)[0]
    feeds["K"][:, :, 4:], feeds["V"][:, :, 4:] = -np.inf, np.inf
    dirty = function_session("majority", 5).run(None, feeds)[0]
    np.testing.assert_array_equal(clean, dirty)


def test_padding_does_not_change_which_keys_are_kept():
    q, k = torch.randn(1, 2, 20, 8), torch.randn(1, 2, 20, 8)
    alone = sign_matching_keys(q, k, torch.ones(1, 20, dtype=torch.bool), 6)
    padded = torch.nn.functional.pad
    mask = torch.arange(33)[None] < 20
    together = sign_matching_keys(padded(q, (0, 0, 0, 13), value=9.0), padded(k, (0, 0, 0, 13), value=9.0), mask, 6)
    assert torch.equal(alone, together)


def test_few_keys_are_plain_attention():
    q, k, v = (torch.randn(2, 3, 9, 8) for _ in range(3))
    plain = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(sign_matching_attention(q, k, v, k=9), plain)


@pytest.mark.parametrize(("length", "k"), [(1, 16), (128, 16), (129, 64), (1023, 64), (1024, 128), (4096, 128)])
def test_default_k_follows_the_paper(length, k):
    assert default_k(length) == k
