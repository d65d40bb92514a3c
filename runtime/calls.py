"""Calls of a session on made-up inputs, as they are timed: on a GPU without the copies of inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import numpy as np

from .feeds import random_feeds
from .session import import_onnxruntime, provider_of, run_session, running

__all__ = ["bound_call", "random_runner"]

_graph_ids = count(1)
"""Of CUDA graphs: a session records one for each, and replays what it recorded whatever the inputs are."""
_NO_GRAPH = "-1"


def random_runner(session: Any, batch: int, sequence: int, vocabulary: np.ndarray) -> Callable[[], object]:
    """One call of a session on random tokens of the task: every position a real token, (batch, sequence).

    On CUDA inputs and outputs stay in the GPU's memory, at addresses that do not change, as CUDA graphs need them.
    """
    feeds = random_feeds(session, batch, sequence, vocabulary)
    if provider_of(session) == "CUDA":
        return bound_call(session, feeds, "cuda")
    names = [entry.name for entry in session.get_outputs()]
    return lambda: run_session(session, names, feeds)


def bound_call(session: Any, feeds: Mapping[str, np.ndarray], device: str) -> Callable[[], list[Any]]:
    """A call whose inputs and outputs lie on ``device`` already; it returns the outputs there, as OrtValues.

    Raises:
        AxformError: ONNX Runtime cannot run the model on these inputs.
    """
    onnxruntime = import_onnxruntime()
    binding = session.io_binding()
    # The binding knows only where they are, so the call below keeps them alive.
    inputs = {name: onnxruntime.OrtValue.ortvalue_from_numpy(value, device, 0) for name, value in feeds.items()}
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, value)
    names = [entry.name for entry in session.get_outputs()]
    for name in names:
        binding.bind_output(name, device)
    with running(feeds):
        session.run_with_iobinding(binding, _options(onnxruntime, _NO_GRAPH))
    outputs = binding.get_outputs()
    for name, value in zip(names, outputs, strict=True):
        binding.bind_ortvalue_output(name, value)
    options = _options(onnxruntime, str(next(_graph_ids)))

    def call() -> list[Any]:
        with running(inputs):
            session.run_with_iobinding(binding, options)
            binding.synchronize_outputs()
        return list(outputs)

    return call


def _options(onnxruntime: Any, graph: str) -> Any:
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", graph)
    return options
