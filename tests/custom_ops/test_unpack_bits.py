from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import reference
from axform.exporters.functions import unpack_bits_function
from onnx import TensorProto, helper, numpy_helper
from ops_support import OPSET, node_model, session


def unpack(library: Path | None, packed: np.ndarray, bits: int, shape: list[int]) -> np.ndarray:
    """The codes that the kernel finds, or without a library the function body."""
    kernel = library is not None
    model = node_model(
        "UnpackBits",
        {"packed": (TensorProto.UINT8, ["bytes"])},
        (TensorProto.INT8, [f"d{i}" for i in range(len(shape))]),
        version=2 if kernel else 1,
        functions=[] if kernel else [body()],
        bits=bits,
        shape=shape,
    )
    return session(model, library).run(None, {"packed": packed})[0]


def body(opset: int = OPSET) -> onnx.FunctionProto:
    """The function body, for an older opset than that of exported files: its operators have not changed since 18."""
    return unpack_bits_function(opset)


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


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("bits", range(2, 9))
def test_constants_are_folded(library: Path, tmp_path: Path, bits: int, registered: bool) -> None:
    """Weights are decoded once, when the session is created, with the op library or without it."""
    codes = np.random.default_rng(0).integers(-(1 << bits - 1), 1 << bits - 1, (9, 7)).astype(np.int8)
    nodes = [
        helper.make_node("UnpackBits", ["packed"], ["codes"], domain="ai.axform", bits=bits, shape=[9, 7]),
        helper.make_node("Cast", ["codes"], ["weight"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["X", "weight"], ["Y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["n", 9])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["n", 7])],
        [numpy_helper.from_array(reference.pack_bits(codes, bits), "packed")],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.axform", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=[body()])
    options = ort.SessionOptions()
    if registered:
        options.register_custom_ops_library(str(library))
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    running = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert np.array_equal(running.run(None, {"X": np.eye(9, dtype=np.float32)})[0], codes.astype(np.float32))
    optimized = onnx.load(tmp_path / "optimized.onnx")
    assert [node.op_type for node in optimized.graph.node] == ["MatMul"]


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("shape", [[0], [1], [8], [3, 5], [2, 3, 4]])
def test_kernel_equals_body(library: Path, bits: int, shape: list[int]) -> None:
    codes = np.random.default_rng(0).integers(-(1 << bits - 1), 1 << bits - 1, shape).astype(np.int8)
    packed = reference.pack_bits(codes, bits)
    assert np.array_equal(unpack(library, packed, bits, shape), codes)
    assert np.array_equal(unpack(None, packed, bits, shape), codes)
