"""Models of one ai.axform node, sessions for them, and random attention inputs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

OPSET = 19  # the newest that ONNX Runtime 1.17 knows well
FLOAT_TYPES = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.float16): TensorProto.FLOAT16,
    np.dtype(np.bool_): TensorProto.BOOL,
    np.dtype(np.uint8): TensorProto.UINT8,
    np.dtype(np.int64): TensorProto.INT64,
}


def node_model(
    op: str,
    inputs: dict[str, tuple[int, list[Any]]],
    output: tuple[int, list[Any]],
    name: str = "attention_3",
    functions: list[onnx.FunctionProto] | None = None,
    opset: int = OPSET,
    version: int = 1,
    **attributes: Any,
) -> bytes:
    """A model of one node that imports this version of ai.axform. Inputs and output: (element type, dims)."""
    node = helper.make_node(op, list(inputs), ["Y"], name=name, domain="ai.axform", **attributes)
    infos = [helper.make_tensor_value_info(key, *value) for key, value in inputs.items()]
    graph = helper.make_graph([node], "graph", infos, [helper.make_tensor_value_info("Y", *output)])
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.axform", version)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=functions or [])
    return model.SerializeToString()


def attention_model(
    op: str, rank: int = 4, mask: bool = True, element: int = TensorProto.FLOAT, **options: Any
) -> bytes:
    inputs: dict[str, tuple[int, list[Any]]] = {
        name: (element, [f"{name}{i}" for i in range(rank)]) for name in ("Q", "K", "V")
    }
    if mask:
        inputs["key_mask"] = (TensorProto.BOOL, ["batch", "keys"])
    return node_model(op, inputs, (element, [f"Y{i}" for i in range(rank)]), **options)


def session(
    model: bytes,
    library: Path | None,
    threads: int = 1,
    providers: tuple[Any, ...] = ("CPUExecutionProvider",),
) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = "AXFORM_OPS_NO_ARENA" not in os.environ  # see custom_ops/tools/sanitize.sh
    if library is not None:
        options.register_custom_ops_library(str(library))
    return ort.InferenceSession(model, options, providers=list(providers))


@dataclass(frozen=True)
class Case:
    """Inputs of one attention node and the attributes that matter to the reference."""

    q: NDArray
    k: NDArray
    v: NDArray
    mask: NDArray[np.bool_] | None

    def feeds(self) -> dict[str, NDArray]:
        feeds = {"Q": self.q, "K": self.k, "V": self.v}
        return feeds if self.mask is None else {**feeds, "key_mask": self.mask}


def random_case(
    seed: int,
    batch: int,
    heads: int,
    queries: int,
    keys: int,
    size: int,
    value_size: int | None = None,
    masked: float | None = None,
    dtype: Any = np.float32,
    coarse: bool = False,
) -> Case:
    """Normal inputs; `masked` is the share of padding, whose keys and values hold NaN and infinity.

    `coarse` rounds to a few values, zeros among them, so that scores tie.
    """
    rng = np.random.default_rng(seed)

    def tensor(rows: int, width: int) -> NDArray:
        x = rng.standard_normal((batch, heads, rows, width))
        return (np.round(x) if coarse else x).astype(dtype)

    q, k, v = tensor(queries, size), tensor(keys, size), tensor(keys, value_size or size)
    mask = None
    if masked is not None:
        mask = rng.random((batch, keys)) >= masked
        padding = ~mask[:, None, :, None]
        k[np.broadcast_to(padding, k.shape)] = np.nan
        v[np.broadcast_to(padding, v.shape)] = np.inf
        if queries == keys:
            q[np.broadcast_to(padding, q.shape)] = 2.0  # padded queries are computed, but have no vote
    return Case(q, k, v, mask)
