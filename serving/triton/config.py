"""The configuration of one model, from its graph and its bundle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import AxformError
from ...runtime.bundle import Bundle
from ...runtime.latency import BENCH_BATCHES, BENCH_SEQUENCES
from ..signature import Port, Signature, read_limits
from .graph import Graph, GraphPort
from .schema import import_schema
from .settings import TritonSettings

__all__ = ["LABELS", "WARMUP", "labelled_output", "make_config", "signature_of_graph", "warmup_data"]

LABELS = "labels.txt"
"""Beside the configuration; a line for each value of the output."""
WARMUP = "warmup"
"""Where Triton looks for files of a warm-up."""


def signature_of_graph(graph: Graph, bundle: Bundle, rows: int) -> Signature:
    """The inputs and outputs of a bundle's graph, and which requests may run together.

    Raises:
        AxformError: a type that Triton's backend does not take, or a first dimension that is no batch.
    """
    inputs, outputs = ([_port(port, graph) for port in ports] for ports in (graph.inputs, graph.outputs))
    if not inputs:
        raise AxformError(f"{graph.path}: has no inputs, so that there is nothing to ask it; export another model.")
    return Signature(inputs, outputs, read_limits(bundle, rows), {}, graph.quantizes_while_running)


def make_config(
    name: str, signature: Signature, bundle: Bundle, settings: TritonSettings, op_library: str | None
) -> Any:
    """A ``ModelConfig``.

    Args:
        op_library: its file in the model's folder; None for the function bodies in the file.
    """
    config = import_schema().ModelConfig(name=name, backend="onnxruntime", max_batch_size=settings.max_batch)
    config.version_policy.latest.num_versions = 1
    for port in signature.inputs:
        _describe(config.input.add(), port)
    labelled = labelled_output(signature, bundle.manifest.labels)
    for port in signature.outputs:
        _describe(config.output.add(), port)
        if port.name == labelled:
            config.output[-1].label_filename = LABELS
    _add_instances(config, settings)
    if settings.max_batch > 1 and signature.mixing != "none":
        batching = config.dynamic_batching
        batching.preferred_batch_size.extend(_preferred(settings.max_batch))
        batching.max_queue_delay_microseconds = math.ceil(settings.max_delay_ms * 1000)
    config.parameters["intra_op_thread_count"].string_value = str(settings.intra_op_threads)
    _add_warmup(config, signature, settings.max_batch)
    if op_library is not None:
        config.model_operations.op_library_filename.append(f"{settings.mounted_at}/{name}/{op_library}")
    return config


def labelled_output(signature: Signature, labels: Sequence[str]) -> str | None:
    """The output of which each label names a value; None where there is none."""
    if not labels:
        return None
    return next((port.name for port in signature.outputs if port.shape[1:] == (len(labels),)), None)


def warmup_data(signature: Signature, max_batch: int) -> dict[str, bytes]:
    """Name of a file in `WARMUP` -> one row, which Triton repeats: masks of ones, as zeros would hide every token."""
    return {
        _data_file(name, array): array[0].tobytes()
        for feeds in _warmup_shapes(signature, max_batch)
        for name, array in feeds.items()
        if array.any()
    }


def _port(port: GraphPort, graph: Graph) -> Port:
    if port.kind is None:
        raise AxformError(f"{graph.path}: {port.name} is a {port.onnx_type}, which Triton's backend does not take.")
    if not port.shape or isinstance(port.shape[0], int):
        raise AxformError(
            f"{graph.path}: the first dimension of {port.name} is no free batch; export it again with axform-export."
        )
    return Port(port.name, port.kind, port.shape)


def _describe(entry: Any, port: Port) -> None:
    """Triton leaves the batch out; of what has no other dimension it wants one, which it then takes away again."""
    entry.name = port.name
    entry.data_type = import_schema().DataType.Value(port.kind.config_name)
    dims = port.free_shape[1:]
    entry.dims.extend(dims or [1])
    if not dims:
        entry.reshape.SetInParent()


def _add_instances(config: Any, settings: TritonSettings) -> None:
    group = config.instance_group.add(count=settings.instances)
    group.kind = type(group).KIND_GPU if settings.gpus else type(group).KIND_CPU
    group.gpus.extend(range(settings.gpus))


def _preferred(max_batch: int) -> list[int]:
    """Sizes that are sent without waiting any longer: a quarter, a half and all of the largest."""
    return sorted({size for size in (max_batch // 4, max_batch // 2, max_batch) if size > 1})


def _add_warmup(config: Any, signature: Signature, max_batch: int) -> None:
    """One run of each shape that is usual, so that the first request does not pay for memory and kernels."""
    for feeds in _warmup_shapes(signature, max_batch):
        rows, *_ = first = next(iter(feeds.values())).shape
        warmup = config.model_warmup.add(name="x".join(map(str, first)), batch_size=rows, count=1)
        for port in signature.inputs:
            array = feeds[port.name]
            entry = warmup.inputs[port.name]
            entry.data_type = import_schema().DataType.Value(port.kind.config_name)
            entry.dims.extend(array.shape[1:] or [1])
            if array.any():
                entry.input_data_file = _data_file(port.name, array)
            else:
                entry.zero_data = True


def _warmup_shapes(signature: Signature, max_batch: int) -> list[dict[str, np.ndarray]]:
    batches = sorted({min(rows, max_batch) for rows in BENCH_BATCHES}) if signature.mixing != "none" else [1]
    lengths = sorted({min(length, signature.limits.length) for length in BENCH_SEQUENCES})
    shapes = [signature.example(rows, length) for rows in batches for length in lengths]
    return list({tuple(array.shape for array in feeds.values()): feeds for feeds in shapes}.values())


def _data_file(name: str, array: np.ndarray) -> str:
    safe = "".join(letter if letter.isalnum() else "_" for letter in name)
    return "-".join([safe, "x".join(map(str, array.shape[1:])) or "1"])
