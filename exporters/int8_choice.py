"""Which linears and embeddings stay float in an int8 model: those whose integers cost the task too much."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import onnx

from ..core.batches import EncodedSplit
from ..core.metrics import Metric, compute_metric
from ..runtime.parity import run_split
from ..runtime.session import create_session
from .onnx_file import save_onnx
from .passes.int8 import int8_places, to_int8
from .scoped_graph import ScopedGraph

__all__ = ["metric_of", "stays_float"]

_ROWS = 500
"""That tell how far one place in int8 moves the answers; the metric is measured on all."""
_BATCH = 32


def metric_of(file: Path, split: EncodedSplit, metric: Metric) -> float:
    """What a model reaches on these rows as it is."""
    return compute_metric(metric, _answers_of(file, split), split.labels)


def stays_float(
    proto: onnx.ModelProto,
    split: EncodedSplit,
    metric: Metric,
    bound: float,
    on_step: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> list[str]:
    """The fewest places, of those tried, without which the int8 model keeps the bound on these rows.

    None where all of it does. Else each place is made int8 alone, and those whose answers then lie farthest from the
    float model's stay float: one, two, four and so on, until the bound is kept.

    Args:
        split: rows that trials were judged on; of their labels only the metric is computed.
        bound: smallest metric; that of the float model where this has less itself.
        on_step: called with (models measured, models at most, what is measured).
    """
    places = int8_places(ScopedGraph(proto))
    total, done = len(places) + len(places).bit_length() + 1, 0

    def answers(keep_float: Collection[str], rows: EncodedSplit, what: str) -> np.ndarray:
        nonlocal done
        on_step(done, total, what)
        done += 1
        graph = ScopedGraph(proto)
        to_int8(graph, keep_float)
        return _answers(graph, rows)

    def reached(keep_float: Collection[str], what: str) -> float:
        return compute_metric(metric, answers(keep_float, split, what), split.labels)

    whole = answers(places, split, "float")
    bound = min(bound, compute_metric(metric, whole, split.labels))
    if reached((), "int8") >= bound:
        return []
    wanted = whole[:_ROWS]
    few = split.select(np.arange(len(wanted)))
    moved = {
        place: np.square(answers(set(places) - {place}, few, f"{place} in int8") - wanted).mean() for place in places
    }
    dearest = sorted(places, key=lambda place: -moved[place])
    count = 1
    while count < len(places):
        if reached(dearest[:count], f"int8 but for {count} places") >= bound:
            return dearest[:count]
        count *= 2
    return places


def _answers(graph: ScopedGraph, split: EncodedSplit) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        save_onnx(graph.to_proto(), file, external_data_above=0)  # mapped, not read
        return _answers_of(file, split)


def _answers_of(file: Path, split: EncodedSplit) -> np.ndarray:
    return run_split(create_session(file, "cpu"), split, _BATCH, lambda rows: None)
