"""The CUDA kernels on a GPU: `pytest -m gpu tests/custom_ops`. Each test skips where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import reference
from onnx import TensorProto
from ops_support import attention_model, random_case, session

pytestmark = pytest.mark.gpu
TYPES = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16}
# float16: outputs of size 1 rounded to 11 bits, and weights rounded alike before the second product
TOLERANCE = {np.float32: 2e-5, np.float16: 4e-3}


@pytest.fixture
def cuda(library: Path) -> Path:
    from axform import custom_ops

    if custom_ops.build_info()["cuda_version"] is None:
        pytest.skip("the op library was built without CUDA")
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        pytest.skip("ONNX Runtime has no CUDA execution provider: install onnxruntime-gpu")
    try:
        ort.OrtValue.ortvalue_from_numpy(np.zeros(1, np.float32), "cuda", 0)
    except Exception as reason:
        pytest.skip(f"no usable GPU: {reason}")
    return library


def run(cuda: Path, op: str, dtype: type, feeds: dict, rank: int = 4, **attributes) -> np.ndarray:
    model = attention_model(op, rank=rank, mask="key_mask" in feeds, element=TYPES[dtype], **attributes)
    running = session(model, cuda, providers=("CUDAExecutionProvider",))
    assert running.get_providers()[0] == "CUDAExecutionProvider"
    return running.run(None, feeds)[0]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", [16, 33, 64, 72, 128, 256])
@pytest.mark.parametrize("length, kept", [(1, 16), (100, 16), (300, 64), (1500, 128), (150, 400)])
@pytest.mark.parametrize("causal", [False, True])
def test_sign_matching(cuda: Path, dtype: type, size: int, length: int, kept: int, causal: bool) -> None:
    case = random_case(size, 1, 2, length, length, size, masked=0.2, dtype=dtype)
    actual = run(cuda, "SignMatchingAttention", dtype, case.feeds(), k=kept, is_causal=int(causal))
    expected = reference.sign_matching_attention(case.q, case.k, case.v, case.mask, kept=kept, causal=causal)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("selection", ["majority", "count"])
@pytest.mark.parametrize("keys", [5000, 20000])
def test_long_sequences(cuda: Path, dtype: type, selection: str, keys: int) -> None:
    case = random_case(keys, 1, 2, 40, keys, 64, masked=0.1, dtype=dtype)
    actual = run(cuda, "SignMatchingAttention", dtype, case.feeds(), k=128, selection=selection)
    expected = reference.sign_matching_attention(case.q, case.k, case.v, case.mask, kept=128, selection=selection)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TYPES)
def test_hard_attention(cuda: Path, dtype: type) -> None:
    case = random_case(1, 2, 2, 50, 200, 32, masked=0.2, dtype=dtype, coarse=True)
    actual = run(cuda, "HardAttention", dtype, case.feeds(), k=30)
    expected = reference.hard_attention(case.q, case.k, case.v, case.mask, kept=30)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TYPES)
def test_same_as_the_cpu(cuda: Path, dtype: type) -> None:
    case = random_case(2, 2, 12, 512, 512, 64, masked=0.1, dtype=dtype)
    on_gpu = run(cuda, "SignMatchingAttention", dtype, case.feeds(), k=64)
    feeds = {name: x.astype(np.float32) if x.dtype != np.bool_ else x for name, x in case.feeds().items()}
    on_cpu = session(attention_model("SignMatchingAttention", k=64), cuda).run(None, feeds)[0]
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TYPES)
def test_cuda_graph(cuda: Path, dtype: type) -> None:
    """Captured on the second run, replayed on the third with other inputs in the same place."""
    model = attention_model("SignMatchingAttention", element=TYPES[dtype], k=32)
    running = session(model, cuda, providers=(("CUDAExecutionProvider", {"enable_cuda_graph": "1"}),))
    first, second = (random_case(seed, 2, 4, 256, 256, 64, masked=0.2, dtype=dtype) for seed in (3, 4))
    values = {name: ort.OrtValue.ortvalue_from_numpy(x, "cuda", 0) for name, x in first.feeds().items()}
    output = ort.OrtValue.ortvalue_from_numpy(np.zeros_like(first.q), "cuda", 0)
    binding = running.io_binding()
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    binding.bind_ortvalue_output("Y", output)
    for case in (first, first, first, second, second):
        for name, x in case.feeds().items():
            values[name].update_inplace(x)
        running.run_with_iobinding(binding)
        expected = reference.sign_matching_attention(case.q, case.k, case.v, case.mask, kept=32)
        np.testing.assert_allclose(output.numpy(), expected, rtol=0, atol=TOLERANCE[dtype])
