"""How far does the answer to a text move with its neighbours in a batch?

int8 models take the scale of their activations over the whole batch while they run (DynamicQuantizeLinear), so other
rows, and the padding that they bring, change how finely a row is told. Each text of a bundle's check.npz runs alone and
in batches as a server would make them, in float32 and in int8, and the logits are compared.

    python samples/benchmarks/int8_neighbours.py bundles/sst2

A bundle in int8 is taken as it is; another one is converted, all of its linears, beside its float32 original.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnx
from axform.console import out, run_app, table
from axform.core.batches import EncodedSplit
from axform.exporters.onnx_file import save_onnx
from axform.exporters.passes.int8 import to_int8
from axform.exporters.scoped_graph import ScopedGraph
from axform.runtime.bundle import Bundle
from axform.runtime.check_data import CheckData
from axform.runtime.session import create_session, run_session
from axform.serving.signature import quantizes_while_running


def logits(model: Path, split: EncodedSplit, batch: int) -> np.ndarray:
    """(texts, outputs), run in batches of similar lengths."""
    session = create_session(model, "cpu", 1)
    name = session.get_outputs()[0].name
    return split.run(batch, lambda feeds: run_session(session, [name], feeds)[0])


def in_int8(model: Path, folder: Path) -> Path:
    graph = ScopedGraph(onnx.load(model))
    to_int8(graph)
    save_onnx(graph.to_proto(), folder / "int8.onnx")
    return folder / "int8.onnx"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    given = parser.parse_args()
    bundle = Bundle(given.bundle)
    split = CheckData.load(bundle.check_data).split
    split = split.select(np.random.default_rng(0).permutation(len(split))[: given.texts])
    with tempfile.TemporaryDirectory() as folder:
        if quantizes_while_running(bundle.model):
            models = {"float32 (baseline)": bundle.baseline, "int8": bundle.model}
        else:
            models = {"float32": bundle.model, "int8": in_int8(bundle.model, Path(folder))}
        rows = []
        for name, model in models.items():
            alone, together = logits(model, split, 1), logits(model, split, given.batch)
            moved = np.abs(alone - together).max(axis=1)
            others = "-" if alone.shape[1] < 2 else str(int((alone.argmax(1) != together.argmax(1)).sum()))
            figures = (np.median(moved), np.percentile(moved, 99), moved.max(), alone.std())
            rows.append([name, *(f"{figure:.1e}" for figure in figures), others])
    columns = ("model", "median", "99 %", "largest", "spread of the logits", "other labels")
    out.print(table(f"{given.bundle.name}: logits, {len(split)} texts alone and by {given.batch}", columns, rows))


if __name__ == "__main__":
    run_app(main)
