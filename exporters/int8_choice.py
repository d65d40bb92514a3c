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

_ROWS = 64
"""That tell how far one place in int8 moves the answers: 64 rank the places of a MiniLM as 200 do (0.996, Spearman), so do
16 (0.988). The metric is measured on all."""
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
    float model's stay float: one, two, four and so on, until the bound is kept, then the fewest between the last two.

    Args:
        split: rows that trials were judged on; of their labels only the metric is computed.
        bound: smallest metric; that of the float model where this has less itself.
        on_step: called with (models measured, models at most, what is measured).
    """
    places = int8_places(ScopedGraph(proto))
    total, done = len(places) + 2 * len(places).bit_length() + 2, 0

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
    too_few, enough = 0, 1
    while enough < len(places) and reached(dearest[:enough], f"int8 but for {enough} places") < bound:
        too_few, enough = enough, min(2 * enough, len(places))
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if reached(dearest[:middle], f"int8 but for {middle} places") < bound:
            too_few = middle
        else:
            enough = middle
    return dearest[:enough]


def _answers(graph: ScopedGraph, split: EncodedSplit) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        save_onnx(graph.to_proto(), file, external_data_above=0)  # mapped, not read
        return _answers_of(file, split)


def _answers_of(file: Path, split: EncodedSplit) -> np.ndarray:
    return run_split(create_session(file, "cpu"), split, _BATCH, lambda rows: None)
