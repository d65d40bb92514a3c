"""Which sums of integer products a processor gets wrong: weights quantized as usual, in 7 bits, and as axform does.

    python samples/benchmarks/int8_sums.py

Random matrices in MatMulInteger against exact integers. Processors with VNNI or the like get all of them right; others
add the products of two neighbouring inputs in 16 bits and cut off what is larger.
"""

from __future__ import annotations

import numpy as np
import onnx
from axform.console import out, run_app, table
from axform.core.quantization import Codes, codes_of, product_codes_of
from axform.runtime.latency import machine_name
from axform.runtime.session import import_onnxruntime

SHAPES = ((384, 384), (1536, 384), (768, 3072), (3072, 768))
"""(inputs, outputs) of linears of a MiniLM and a BERT-base."""
ROWS, ZERO = 64, 120
KINDS = {"8 bits": lambda weights: codes_of(weights, 8), "7 bits": lambda weights: codes_of(weights, 7)}
KINDS |= {"axform": product_codes_of}


def product(codes: np.ndarray, given: np.ndarray) -> np.ndarray:
    """MatMulInteger of uint8, (rows, inputs), with codes, (inputs, outputs)."""
    sides = [
        onnx.helper.make_tensor_value_info(name, kind, None)
        for name, kind in (("x", onnx.TensorProto.UINT8), ("y", onnx.TensorProto.INT32))
    ]
    tensors = [onnx.numpy_helper.from_array(codes, "w"), onnx.numpy_helper.from_array(np.array(ZERO, np.uint8), "zero")]
    node = onnx.helper.make_node("MatMulInteger", ["x", "w", "zero"], ["y"])
    graph = onnx.helper.make_graph([node], "product", sides[:1], sides[1:], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    session = import_onnxruntime().InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": given})[0]


def main() -> None:
    random = np.random.default_rng(0)
    rows = []
    for inputs, outputs in SHAPES:
        weights = random.normal(size=(outputs, inputs)).astype(np.float32)
        activations = {
            "whole range": random.integers(0, 256, (ROWS, inputs)).astype(np.uint8),
            "around the middle": np.clip(random.normal(ZERO, 30, (ROWS, inputs)), 0, 255).astype(np.uint8),
        }
        for kind, quantize in KINDS.items():
            codes: Codes = quantize(weights)
            step = float(np.mean(codes.scales) / np.mean(codes_of(weights, 8).scales))
            wrong = []
            for given in activations.values():
                exact = (given.astype(np.int64) - ZERO) @ codes.values.T.astype(np.int64)
                wrong.append(f"{np.mean(product(np.ascontiguousarray(codes.values.T), given) != exact):.1%}")
            rows.append((f"{inputs} x {outputs}", kind, f"{step:.2f}x", *wrong))
    columns = ("matrix", "codes", "step", "wrong sums, inputs of the whole range", "around the middle")
    out.print(table(f"Sums of integer products on {machine_name()}", columns, rows))


if __name__ == "__main__":
    run_app(main)
