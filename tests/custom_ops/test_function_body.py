"""The library and the function body that an exported file carries select the same keys and give the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from axform.core.opset import OPSET
from axform.exporters.functions import hard_attention_function, sign_matching_function
from onnx import TensorProto
from ops_support import OPSET as OLD_OPSET
from ops_support import Case, node_model, random_case, session


@pytest.fixture(params=[OLD_OPSET, OPSET])
def opset(request: pytest.FixtureRequest) -> int:
    """That of exported files, and one that the oldest supported ONNX Runtime knows."""
    if request.param == OPSET and tuple(int(part) for part in ort.__version__.split(".")[:2]) < (1, 23):
        pytest.skip(f"ONNX Runtime {ort.__version__} does not know opset {OPSET}")
    return int(request.param)


@pytest.mark.parametrize("selection", ["majority", "count"])
@pytest.mark.parametrize("length, kept", [(1, 4), (40, 64), (130, 16), (500, 64)])
@pytest.mark.parametrize("coarse", [False, True])
def test_sign_matching(library: Path, opset: int, selection: str, length: int, kept: int, coarse: bool) -> None:
    case = random_case(length, 2, 3, length, length, 32, masked=0.2, coarse=coarse)
    np.nan_to_num(case.k, copy=False)
    case.v[np.isinf(case.v)] = 0.0
    same_numbers(library, case, opset, sign_matching_function(selection, opset), k=kept, selection=selection)


@pytest.mark.parametrize("length, kept", [(1, 4), (40, 64), (130, 30), (500, 30)])
@pytest.mark.parametrize("coarse", [False, True])
def test_hard_attention(library: Path, opset: int, length: int, kept: int, coarse: bool) -> None:
    case = random_case(length, 2, 3, length, length, 32, masked=0.2, coarse=coarse)
    same_numbers(library, case, opset, hard_attention_function(opset), k=kept)


def same_numbers(library: Path, case: Case, opset: int, function: onnx.FunctionProto, **attributes: Any) -> None:
    inputs = {name: (TensorProto.FLOAT, ["b", "h", "n", 32]) for name in "QKV"}
    inputs["key_mask"] = (TensorProto.BOOL, ["b", "n"])
    output = (TensorProto.FLOAT, ["b", "h", "n", 32])
    model = node_model(function.name, inputs, output, functions=[function], opset=opset, **attributes)
    body = session(model, None).run(None, case.feeds())[0]
    kernel = session(model, library).run(None, case.feeds())[0]
    rows = np.broadcast_to(case.mask[:, None, :, None] & case.mask.any(1)[:, None, None, None], kernel.shape)
    np.testing.assert_allclose(kernel[rows], body[rows], rtol=0, atol=1e-5)
