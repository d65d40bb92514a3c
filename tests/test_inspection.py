"""`axform inspect`: what is told of a file is what the file holds."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from axform.exporters.inspection import contents_of
from support import run_command


def test_a_bundle_s_model_is_told_in_full(tiny_bundle, tmp_path, capsys):
    code, captured = run_command(capsys, "inspect", tiny_bundle, "--json", tmp_path / "c.json", "--tensors", 3)
    assert code == 0 and "FLOAT" in captured.out and "SignMatchingAttention" in captured.out.replace("\n", "")
    told = json.loads((tmp_path / "c.json").read_text())
    proto = onnx.load(tiny_bundle / "model.onnx")
    assert told["operators"]["ai.axform::SignMatchingAttention"] == 1
    assert sum(told["operators"].values()) == len(proto.graph.node)
    assert told["opsets"] == {"ai.onnx": 23, "ai.axform": 1} and told["functions"]
    assert told["inputs"]["input_ids"] == "INT64 (batch, sequence)" and told["outputs"].keys() == {"logits"}
    wanted = {tensor.name: onnx.numpy_helper.to_array(tensor).nbytes for tensor in proto.graph.initializer}
    assert {tensor["name"]: tensor["bytes"] for tensor in told["weights"]} == wanted
    sizes = [tensor["bytes"] for tensor in told["weights"]]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(("kind", "bits"), [("INT4", 4), ("UINT4", 4), ("INT8", 8), ("FLOAT16", 16), ("BFLOAT16", 16)])
def test_types_of_few_bits_are_packed(tmp_path, kind, bits):
    values = np.arange(7).reshape(7, 1)
    tensor = onnx.helper.make_tensor("w", getattr(onnx.TensorProto, kind), values.shape, values.flatten())
    graph = onnx.helper.make_graph([], "weights", [], [], [tensor])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "w.onnx")
    (weight,) = contents_of(tmp_path / "w.onnx").weights
    assert (weight.type, weight.bits, weight.values, weight.bytes) == (kind, bits, 7, -(-7 * bits // 8))


def test_sizes_that_a_file_does_not_say_are_not_zero(tmp_path):
    said = [("x", [None, 0, "n", 3]), ("y", None), ("z", [])]
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in said]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "sizes", values, [])), tmp_path / "m.onnx")
    told = contents_of(tmp_path / "m.onnx").inputs
    assert told == {"x": "FLOAT (?, 0, n, 3)", "y": "FLOAT (...)", "z": "FLOAT ()"}


@pytest.mark.parametrize("place", ["weight", "input"])
def test_a_type_of_a_newer_onnx_is_one_error(tmp_path, capsys, place):
    value = onnx.helper.make_tensor_value_info("x", 99 if place == "input" else onnx.TensorProto.FLOAT, [1])
    weight = onnx.TensorProto(name="w", data_type=99 if place == "weight" else onnx.TensorProto.FLOAT, dims=[1])
    proto = onnx.helper.make_model(onnx.helper.make_graph([], "newer", [value], [], [weight]))
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    code, captured = run_command(capsys, "inspect", tmp_path / "m.onnx")
    assert code == 2 and "m.onnx: has numbers of type 99" in " ".join(captured.err.split())


@pytest.mark.parametrize("text", [None, b"", b"not a model", b"\x08"])
def test_no_model(tmp_path, capsys, text):
    file = tmp_path / "m.onnx"
    if text is not None:
        file.write_bytes(text)
    code, captured = run_command(capsys, "inspect", file)
    assert code == 2 and str(file.name) in captured.err.replace("\n", "")
    assert ("no such file" if text is None else "not an ONNX model") in " ".join(captured.err.split())
