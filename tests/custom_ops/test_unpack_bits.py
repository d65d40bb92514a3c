from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import reference
from onnx import TensorProto, helper, numpy_helper
from ops_support import OPSET, node_model, session


def unpack(library: Path, packed: np.ndarray, bits: int, shape: list[int]) -> np.ndarray:
    model = node_model(
        "UnpackBits",
        {"packed": (TensorProto.UINT8, ["bytes"])},
        (TensorProto.INT8, [f"d{i}" for i in range(len(shape))]),
        bits=bits,
        shape=shape,
    )
    return session(model, library).run(None, {"packed": packed})[0]


@pytest.mark.parametrize("bits", range(2, 9))
def test_every_code(library: Path, bits: int) -> None:
    codes = np.arange(-(1 << bits - 1), 1 << bits - 1).astype(np.int8)
    codes = np.concatenate([codes, codes[::-1], codes[:3]])
    assert np.array_equal(unpack(library, reference.pack_bits(codes, bits), bits, [codes.size]), codes)


@pytest.mark.parametrize("shape", [[0], [1], [3, 5], [2, 3, 4]])
def test_shapes(library: Path, shape: list[int]) -> None:
    count = int(np.prod(shape))
    codes = np.random.default_rng(0).integers(-4, 4, count).astype(np.int8)
    actual = unpack(library, reference.pack_bits(codes, 3), 3, shape)
    assert actual.shape == tuple(shape)
    assert np.array_equal(actual.reshape(-1), codes)


def test_is_not_folded_by_onnx_runtime(library: Path, tmp_path: Path) -> None:
    """ONNX Runtime folds constants with its own kernels only: a custom op on an initializer runs at every call.

    Exported weights are therefore decoded with standard operators, which fold; this test tells when that changes.
    """
    codes = np.random.default_rng(0).integers(-16, 16, (8, 6)).astype(np.int8)
    nodes = [
        helper.make_node("UnpackBits", ["packed"], ["codes"], domain="ai.axform", bits=5, shape=[8, 6]),
        helper.make_node("Cast", ["codes"], ["weight"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["X", "weight"], ["Y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["n", 6])],
        [numpy_helper.from_array(reference.pack_bits(codes, 5), "packed")],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.axform", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(library))
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(tmp_path / "optimized.onnx")
    assert "UnpackBits" in [node.op_type for node in optimized.graph.node]
