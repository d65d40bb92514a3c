"""Which requests may share a run of the model, by what its graph says."""

from __future__ import annotations

import onnx
import pytest
from axform.serving.signature import Limits, Port, Signature, quantizes_while_running
from axform.serving.tensors import data_type
from onnx import TensorProto, helper

INT64, FLOAT = data_type("tensor(int64)"), data_type("tensor(float)")


def signature(inputs: dict[str, tuple], outputs: dict[str, tuple], quantized: bool = False) -> Signature:
    ports = [
        [Port(name, kind, shape) for name, shape in of.items()] for of, kind in ((inputs, INT64), (outputs, FLOAT))
    ]
    return Signature(ports[0], ports[1], Limits(32, 512), {}, quantized)


TEXT = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), ("batch", "sequence"))


@pytest.mark.parametrize(
    ("inputs", "outputs", "quantized", "mixing"),
    [
        (TEXT, {"logits": ("batch", 2)}, False, "lengths"),
        (TEXT, {"logits": ("batch", "sequence", 9)}, False, "lengths"),
        (TEXT, {"logits": ("batch", 2)}, True, "none"),
        (TEXT, {"logits": ("batch", "other", 9)}, False, "shapes"),
        (
            {"input_ids": ("batch", "sequence")},
            {"logits": ("batch", 2)},
            False,
            "shapes",
        ),  # nothing tells padding apart
        (TEXT | {"pixels": ("batch", 3)}, {"logits": ("batch", 2)}, False, "shapes"),
        (dict.fromkeys(TEXT, ("batch", 128)), {"logits": ("batch", 2)}, False, "shapes"),
        (TEXT, {"logits": ("rows", 2)}, False, "none"),
    ],
)
def test_what_may_run_together(inputs, outputs, quantized, mixing):
    assert signature(inputs, outputs, quantized).mixing == mixing


def test_lengths_of_a_bucket_leave_little_padding():
    import numpy as np

    made = signature(TEXT, {"logits": ("batch", 2)})
    buckets: dict[object, list[int]] = {}
    for length in range(1, 513):
        buckets.setdefault(made.bucket(dict.fromkeys(TEXT, np.zeros((1, length), np.int64))), []).append(length)
    assert max(buckets[min(buckets)]) == 16  # so short that padding costs next to nothing
    assert all(min(lengths) >= 0.78 * max(lengths) for bucket, lengths in buckets.items() if bucket != min(buckets))


@pytest.mark.parametrize("operator", ["DynamicQuantizeLinear", "Identity"])
def test_a_graph_that_quantizes_while_it_runs_is_known(tmp_path, operator):
    outputs = ["y", "scale", "zero"] if operator == "DynamicQuantizeLinear" else ["y"]
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], outputs, name="DynamicQuantizeLinear")],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
    )
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    assert quantizes_while_running(tmp_path / "model.onnx") == (operator == "DynamicQuantizeLinear")
