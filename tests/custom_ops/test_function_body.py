"""The library and the function body that an exported file carries select the same keys and give the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto
from ops_support import node_model, random_case, session

BODY_OPSET = 23


@pytest.mark.skipif(
    tuple(int(part) for part in ort.__version__.split(".")[:2]) < (1, 23), reason="the bodies use opset 23"
)
@pytest.mark.parametrize("selection", ["majority", "count"])
@pytest.mark.parametrize("length, kept", [(1, 4), (40, 64), (130, 16), (500, 64)])
@pytest.mark.parametrize("coarse", [False, True])
def test_same_numbers(library: Path, selection: str, length: int, kept: int, coarse: bool) -> None:
    functions = pytest.importorskip("axform.exporters.functions")
    case = random_case(length, 2, 3, length, length, 32, masked=0.2, coarse=coarse)
    np.nan_to_num(case.k, copy=False)
    case.v[np.isinf(case.v)] = 0.0
    inputs = {name: (TensorProto.FLOAT, ["b", "h", "n", 32]) for name in "QKV"}
    inputs["key_mask"] = (TensorProto.BOOL, ["b", "n"])
    model = node_model(
        "SignMatchingAttention",
        inputs,
        (TensorProto.FLOAT, ["b", "h", "n", 32]),
        functions=[functions.sign_matching_function(selection)],
        opset=BODY_OPSET,
        k=kept,
        selection=selection,
    )
    body = session(model, None).run(None, case.feeds())[0]
    kernel = session(model, library).run(None, case.feeds())[0]
    rows = np.broadcast_to(case.mask[:, None, :, None] & case.mask.any(1)[:, None, None, None], kernel.shape)
    np.testing.assert_allclose(kernel[rows], body[rows], rtol=0, atol=1e-5)
