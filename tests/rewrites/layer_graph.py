"""One encoder layer as torch.onnx.export writes it, small enough to read, with ways to spoil it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
from axform.core.families import FAMILIES
from axform.core.opset import SCOPES
from axform.core.plan import ApproximationPlan, ModelIdentity
from onnx import TensorProto, helper, numpy_helper
from support import plan_of

FAMILY = FAMILIES["bert"]
HIDDEN, HEADS, INTERMEDIATE, GROUP = 8, 2, 12, 4
EPSILON = 1e-5
LAYER = "bert.encoder.layer.0"


def plan(*lines: str, group_size: int = GROUP) -> ApproximationPlan:
    """As `plan_of` of the tests' support; the one layer is ``layer.0``."""
    identity = ModelIdentity(
        family="bert",
        num_layers=1,
        num_heads=HEADS,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        fingerprint="0",
    )
    return plan_of(identity, group_size, *lines)


def layer(spoil: Callable[[list[onnx.NodeProto]], None] | None = None) -> onnx.ModelProto:
    """hidden (batch, sequence, 8) and attention_mask (batch, sequence) -> out; of the LayerNorms only the last one."""
    generator = np.random.default_rng(0)
    nodes, weights = [], {}

    def add(scope: str, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        node = helper.make_node(op, inputs, [output], **attributes)
        path = f"{LAYER}.{scope}" if scope else LAYER
        node.metadata_props.add(key=SCOPES, value=str(["", "bert", LAYER, path, output]))
        nodes.append(node)
        return output

    def linear(scope: str, source: str, inputs: int, outputs: int, output: str) -> str:
        weights[f"{output}.w"] = generator.standard_normal((inputs, outputs)).astype(np.float32)
        weights[f"{output}.b"] = generator.standard_normal(outputs).astype(np.float32)
        product = add(scope, "MatMul", [source, f"{output}.w"], f"{output}.product")
        return add(scope, "Add", [product, f"{output}.b"], output)

    weights["split"] = np.array([0, 0, -1, HIDDEN // HEADS])
    weights["merge"] = np.array([0, 0, -1])
    weights["row_axes"], weights["column_axes"] = np.array([1, 2]), np.array([1, 3])
    core = "attention.self"
    add("", "Cast", ["attention_mask"], "mask_bool", to=TensorProto.BOOL)
    add("", "Unsqueeze", ["mask_bool", "row_axes"], "mask_row")
    add("", "Unsqueeze", ["mask_bool", "column_axes"], "mask_column")
    add("", "Not", ["mask_column"], "mask_column.not")
    add("", "Or", ["mask_column", "mask_column.not"], "every_query")
    add("", "And", ["mask_row", "every_query"], "mask")
    split = []
    for name in ("query", "key", "value"):
        projected = linear(f"{core}.{name}", "hidden", HIDDEN, HIDDEN, name)
        reshaped = add(core, "Reshape", [projected, "split"], f"{name}.split")
        split.append(add(core, "Transpose", [reshaped], f"{name}.heads", perm=[0, 2, 1, 3]))
    attended = add(core, "Attention", [*split, "mask"], "attended", scale=0.5)
    add(core, "Transpose", [attended], "attended.transposed", perm=[0, 2, 1, 3])
    add(core, "Reshape", ["attended.transposed", "merge"], "context")
    projected = linear("attention.output.dense", "context", HIDDEN, HIDDEN, "projected")
    add("attention.output", "Add", [projected, "hidden"], "attention_out")
    up = linear("intermediate.dense", "attention_out", HIDDEN, INTERMEDIATE, "up")
    add("intermediate.intermediate_act_fn", "Gelu", [up], "activated")
    down = linear("output.dense", "activated", INTERMEDIATE, HIDDEN, "down")
    add("output", "Add", [down, "attention_out"], "sum")
    weights["norm.scale"], weights["norm.bias"] = generator.standard_normal((2, HIDDEN)).astype(np.float32)
    add("output.LayerNorm", "LayerNormalization", ["sum", "norm.scale", "norm.bias"], "out", epsilon=EPSILON)
    if spoil is not None:
        spoil(nodes)
    graph = helper.make_graph(
        nodes,
        "layer",
        [
            helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["batch", "sequence", HIDDEN]),
            helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "sequence"]),
        ],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", "sequence", HIDDEN])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def weight_shapes(model: onnx.ModelProto) -> list[tuple[int, ...]]:
    return sorted(tuple(tensor.dims) for tensor in model.graph.initializer if len(tensor.dims) == 2)


def evaluate(model: onnx.ModelProto, padded: int = 2) -> np.ndarray:
    """The output for 3 x 7 random positions, the last ``padded`` of the first row masked; graph optimizations off."""
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = _inputs(padded)
    return session.run(None, {entry.name: feeds[entry.name] for entry in session.get_inputs()})[0]


def _inputs(padded: int) -> dict[str, np.ndarray]:
    hidden = np.random.default_rng(1).standard_normal((3, 7, HIDDEN)).astype(np.float32)
    mask = np.ones((3, 7), dtype=np.int64)
    mask[0, 7 - padded :] = 0
    return {"hidden": hidden, "attention_mask": mask}


def reference(*, attention: bool = True, feed_forward: bool = True, padded: int = 2) -> np.ndarray:
    """What `evaluate` of the layer must give, in float64 and without the graph; blocks that are off add nothing."""
    weights = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in layer().graph.initializer}
    inputs = _inputs(padded)
    hidden, mask = inputs["hidden"].astype(np.float64), inputs["attention_mask"].astype(bool)

    def linear(source: np.ndarray, name: str) -> np.ndarray:
        return source @ weights[f"{name}.w"] + weights[f"{name}.b"]

    def heads(name: str) -> np.ndarray:
        return linear(hidden, name).reshape(3, 7, HEADS, HIDDEN // HEADS).transpose(0, 2, 1, 3)

    if attention:
        scores = heads("query") @ heads("key").swapaxes(2, 3) / math.sqrt(HIDDEN // HEADS)
        scores = np.where(mask[:, None, None, :], scores, -np.inf)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        context = (shares @ heads("value")).transpose(0, 2, 1, 3).reshape(3, 7, HIDDEN)
        hidden = hidden + linear(context, "projected")
    if feed_forward:
        up = linear(hidden, "up")
        hidden = hidden + linear(up * (1 + np.vectorize(math.erf)(up / math.sqrt(2))) / 2, "down")
    centred = hidden - hidden.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + EPSILON)
    return centred / deviation * weights["norm.scale"] + weights["norm.bias"]


def with_zeros(model: onnx.ModelProto, **zeroed: tuple[object, ...]) -> onnx.ModelProto:
    """A copy in which parts of the weights are zero: ``name=index`` for initializer ``name.w`` (or the name as given)."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        name = tensor.name.replace(".w", "")
        if tensor.name.endswith(".w") and name in zeroed:
            values = numpy_helper.to_array(tensor).copy()
            values[zeroed[name]] = 0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return copy
