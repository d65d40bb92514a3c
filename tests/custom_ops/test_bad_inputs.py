"""What a model or its inputs can get wrong gives an ONNX Runtime error that names the node and the cure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from ops_support import attention_model, node_model, random_case, session

ORT_ERRORS = Exception  # ONNX Runtime's own exception types differ between its versions


@pytest.mark.parametrize(
    "attributes, message",
    [
        ({}, "attribute k is required"),
        ({"k": 0}, "attribute k is 0"),
        ({"k": -3}, "attribute k is -3"),
        ({"k": 2.5}, "attribute k must be an integer"),
        ({"k": 4, "scale": 1}, "attribute scale must be a float"),
        ({"k": 4, "scale": float("nan")}, "attribute scale must be finite"),
        ({"k": 4, "selection": "best"}, 'selection is "best"'),
        ({"k": 4, "selection": 3}, "attribute selection must be a string"),
        ({"k": 4, "prefix": 1.5}, "attribute prefix"),
        ({"k": 4, "is_causal": 2}, "attribute is_causal is 2"),
        ({"k": 4, "num_heads": -1}, "attribute num_heads is -1"),
    ],
)
def test_attributes(library: Path, attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ORT_ERRORS, match="attention_3") as error:
        session(attention_model("SignMatchingAttention", **attributes), library)
    assert message in str(error.value)


def shapes_error(library: Path, op: str = "SignMatchingAttention", rank: int = 4, **options: Any) -> str:
    shapes = {"Q": (2, 3, 10, 16), "K": (2, 3, 10, 16), "V": (2, 3, 10, 16), "key_mask": (2, 10)}
    shapes.update({key: options.pop(key) for key in list(options) if key in shapes})
    feeds = {
        key: np.ones(shape, np.bool_) if key == "key_mask" else np.ones(shape, np.float32)
        for key, shape in shapes.items()
    }
    inputs = {
        key: (TensorProto.BOOL if key == "key_mask" else TensorProto.FLOAT, [f"{key}{i}" for i in range(len(shape))])
        for key, shape in shapes.items()
    }
    model = node_model(op, inputs, (TensorProto.FLOAT, [f"y{i}" for i in range(rank)]), k=4, **options)
    with pytest.raises(ORT_ERRORS, match="attention_3") as error:
        session(model, library).run(None, feeds)
    return str(error.value)


@pytest.mark.parametrize("op", ["SignMatchingAttention", "HardAttention"])
@pytest.mark.parametrize(
    "options, message",
    [
        ({"K": (2, 3, 10, 32)}, "same head size"),
        ({"K": (2, 3, 12, 16)}, "same number of keys"),
        ({"K": (1, 3, 10, 16)}, "same batch"),
        ({"V": (2, 4, 10, 16)}, "same batch and heads"),
        ({"V": (2, 3, 16)}, "same rank"),
        ({"Q": (2, 3), "K": (2, 3), "V": (2, 3), "rank": 2}, "must be (batch, heads, queries, head size)"),
        ({"Q": (2, 10, 48), "K": (2, 10, 48), "V": (2, 10, 48), "rank": 3}, "num_heads is required"),
        ({"Q": (2, 10, 48), "K": (2, 10, 48), "V": (2, 10, 48), "rank": 3, "num_heads": 5}, "does not divide"),
        ({"num_heads": 4}, "but Q has 3 heads"),
        ({"key_mask": (2, 9)}, "key_mask has shape (2, 9)"),
        ({"key_mask": (20,)}, "key_mask has shape (20)"),
        ({"Q": (2, 3, 7, 16), "is_causal": 1}, "as many queries as keys"),
        ({"Q": (2, 3, 10, 0), "K": (2, 3, 10, 0)}, "head size"),
    ],
)
def test_shapes(library: Path, op: str, options: dict[str, Any], message: str) -> None:
    assert message in shapes_error(library, op, **options)


@pytest.mark.parametrize("op", ["SignMatchingAttention", "HardAttention"])
@pytest.mark.parametrize("batch, heads, queries, keys", [(0, 2, 5, 5), (2, 0, 5, 5), (2, 2, 0, 5), (2, 2, 5, 0)])
def test_empty_tensors(library: Path, op: str, batch: int, heads: int, queries: int, keys: int) -> None:
    case = random_case(0, batch, heads, queries, keys, 8, masked=0.0)
    actual = session(attention_model(op, k=2), library).run(None, case.feeds())[0]
    assert actual.shape == (batch, heads, queries, 8)
    assert not actual.any()  # without keys every row is zero


@pytest.mark.parametrize("element", [TensorProto.DOUBLE, TensorProto.INT64])
def test_element_types_without_a_kernel(library: Path, element: int) -> None:
    with pytest.raises(ORT_ERRORS):
        session(attention_model("SignMatchingAttention", element=element, k=4), library)


@pytest.mark.parametrize(
    "attributes, message",
    [
        ({"shape": [3]}, "attribute bits is required"),
        ({"bits": 1, "shape": [3]}, "2 to 8"),
        ({"bits": 9, "shape": [3]}, "2 to 8"),
        ({"bits": 4}, "attribute shape is required"),
        ({"bits": 4, "shape": [-1]}, "attribute shape holds -1"),
        ({"bits": 4, "shape": [1 << 40, 1 << 40]}, "2^48"),
        ({"bits": 4, "shape": [1] * 9}, "attribute shape has 9 entries"),
    ],
)
def test_unpack_attributes(library: Path, attributes: dict[str, Any], message: str) -> None:
    inputs = {"packed": (TensorProto.UINT8, ["n"])}
    model = node_model("UnpackBits", inputs, (TensorProto.INT8, ["m"]), version=2, **attributes)
    with pytest.raises(ORT_ERRORS, match="attention_3") as error:
        session(model, library)
    assert message in str(error.value)


@pytest.mark.parametrize("bytes_given", [0, 4, 6])
def test_unpack_wrong_size(library: Path, bytes_given: int) -> None:
    inputs = {"packed": (TensorProto.UINT8, ["n"])}
    model = node_model("UnpackBits", inputs, (TensorProto.INT8, ["m"]), version=2, bits=4, shape=[9])
    with pytest.raises(ORT_ERRORS, match="take 5 bytes"):
        session(model, library).run(None, {"packed": np.zeros(bytes_given, np.uint8)})
