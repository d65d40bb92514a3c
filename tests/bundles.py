"""A bundle made without a run, and bundles that were changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from axform.core.batches import EncodedSplit
from axform.exporters.baseline import export_baseline, named_outputs
from axform.exporters.export import rewrite
from axform.exporters.onnx_file import save_onnx
from axform.exporters.scoped_graph import ScopedGraph
from axform.runtime.bundle import Bundle, GraphSize, Manifest, OpLibrary, write_manifest
from axform.runtime.check_data import CheckData, ReferenceBatch
from axform.seals import record_files
from axform.toolchain.apply import apply_plan
from support import plan_of, tiny_model


def make_bundle(folder: Path) -> Path:
    """Make a bundle of a tiny BERT with sign matching in the empty ``folder``: 24 samples, some predictions changed."""
    loaded = tiny_model("bert", layers=1)
    plan = plan_of(loaded.identity(), 8, "layer.0.attn 2 majority", focus="speed")
    baseline = export_baseline(loaded)
    copy = onnx.ModelProto()
    copy.CopyFrom(baseline)
    graph = ScopedGraph(copy)
    rewrite(graph, plan, loaded.family)

    generator = np.random.default_rng(0)
    samples = [generator.integers(4, 60, length) for length in generator.integers(3, 20, 24)]
    features = {"input_ids": samples}
    features |= {
        name: [np.full_like(sample, name == "attention_mask") for sample in samples] for name in loaded.inputs[1:]
    }
    unlabelled = EncodedSplit(features, np.zeros(24, np.int64), dict.fromkeys(features, 0))

    def logits(indices: np.ndarray) -> np.ndarray:
        batch = {name: torch.from_numpy(value) for name, value in unlabelled.batch(indices).items()}
        return named_outputs(loaded.model, batch)["logits"].numpy()

    labels = logits(np.arange(24)).argmax(-1)
    with apply_plan(loaded.model, plan):
        references = [
            ReferenceBatch(indices, {"logits": logits(indices)}) for indices in (np.arange(1), np.arange(1, 24))
        ]

    save_onnx(baseline, folder / "baseline.onnx")
    save_onnx(graph.to_proto(), folder / "model.onnx")
    CheckData(EncodedSplit(features, labels, unlabelled.pad_values), references).save(folder / "check.npz")
    size = GraphSize(parameters=1, nodes=1, bytes=1)
    manifest = Manifest(
        axform_version="0",
        plan=plan,
        task="text-classification",
        metric="accuracy",
        labels=["0", "1"],
        max_drop=0.9,
        max_length=64,
        baseline_size=size,
        model_size=size,
        rewrites=[],
        op_library=OpLibrary(accelerates=["SignMatchingAttention"]),
        step=0,
        round={},
        run={},
        files=record_files(folder),
    )
    write_manifest(folder, manifest)
    return folder


def with_its_checksums(folder: Path, **values: Any) -> Bundle:
    """The bundle after a change of its files or of its manifest, as if it had been exported so."""
    manifest = Bundle(folder).manifest
    files = record_files(folder)
    del files["axform.json"]
    write_manifest(folder, manifest.model_copy(update={"files": files, **values}))
    return Bundle(folder)
