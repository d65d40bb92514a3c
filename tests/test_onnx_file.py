"""What is written piece by piece is what protobuf would have written whole."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from axform.exporters.onnx_file import _varint, save_onnx
from onnx import TensorProto, helper, numpy_helper


def model(weights: np.ndarray) -> onnx.ModelProto:
    """Every field that a file of ours has: a function, metadata, annotations, names, several weights."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["xw"]),
        helper.make_node("Twice", ["xw"], ["y"], domain="ai.axform"),
        helper.make_node("Add", ["y", "b"], ["z"]),
    ]
    nodes[0].metadata_props.add(key="scope", value="['layer', 'é']")
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", weights.shape[0]])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", weights.shape[1]])],
        [
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(np.ones(weights.shape[1], np.float32), "b"),
            numpy_helper.from_array(np.zeros((0, 2), np.float32), "empty"),
        ],
    )
    entry = graph.quantization_annotation.add(tensor_name="w")
    entry.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="b")
    twice = helper.make_function(
        "ai.axform",
        "Twice",
        ["a"],
        ["c"],
        [helper.make_node("Add", ["a", "a"], ["c"])],
        [helper.make_opsetid("", 23)],
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("ai.axform", 1)]
    made = helper.make_model(graph, functions=[twice], opset_imports=opsets, ir_version=10, producer_name="axform")
    made.metadata_props.add(key="k", value="v")
    return made


@pytest.fixture
def weights():
    return np.random.default_rng(0).normal(size=(300, 70)).astype(np.float32)


@pytest.mark.parametrize("above", [10**9, 0])
def test_a_file_reads_back_as_it_was(weights, tmp_path, above):
    proto = model(weights)
    before, file = proto.SerializeToString(deterministic=True), tmp_path / "model.onnx"
    save_onnx(proto, file, above)
    assert proto.SerializeToString(deterministic=True) == before, "what is written stays as it is"
    assert (tmp_path / "model.onnx.data").exists() == (above == 0)
    read = onnx.load(file)
    for tensor in read.graph.initializer:
        tensor.ClearField("data_location")
        del tensor.external_data[:]
    assert read == proto
    onnx.checker.check_model(str(file))
    x = np.random.default_rng(1).normal(size=(2, 300)).astype(np.float32)
    answer = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    np.testing.assert_allclose(answer, 2.0 * (x.astype(np.float64) @ weights) + 1, atol=1e-3)


def test_a_weight_of_its_own_file_begins_at_a_page(weights, tmp_path):
    proto = model(weights)
    proto.graph.initializer.append(numpy_helper.from_array(weights, "w2"))
    save_onnx(proto, tmp_path / "model.onnx", 0)
    told = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph.initializer
    places = {t.name: {entry.key: entry.value for entry in t.external_data} for t in told}
    assert places["b"] == {}, "a small weight stays"
    assert all(int(places[name]["offset"]) % 4096 == 0 for name in ("w", "w2"))
    assert int(places["w"]["offset"]) != int(places["w2"]["offset"])


def test_equal_models_are_equal_files(weights, tmp_path):
    for name in ("a", "b"):
        save_onnx(model(weights), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_graph_that_onnx_does_not_know_is_not_written(weights, tmp_path):
    proto = model(weights)
    proto.graph.node[0].input[0] = "nothing"
    with pytest.raises(onnx.checker.ValidationError, match="nothing"):
        save_onnx(proto, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**31, 2**35 + 7])
def test_varint(value):
    encoded = _varint(value)
    assert sum((byte & 0x7F) << 7 * place for place, byte in enumerate(encoded)) == value
    assert [byte >> 7 for byte in encoded] == [1] * (len(encoded) - 1) + [0]
