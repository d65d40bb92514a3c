"""The unpruned baseline in the precision and layout of a bundle's model, so that the plan's own gain can be seen."""

from __future__ import annotations

from pathlib import Path

import onnx

from ..core.families import FAMILIES
from ..core.opset import OPSET
from ..runtime.bundle import Bundle
from .passes import LAYOUT, Subject, asked_passes, run_passes
from .scoped_graph import ScopedGraph

__all__ = ["baseline_in_same_form"]


def baseline_in_same_form(bundle: Bundle, path: Path) -> Path | None:
    """Let baseline.onnx go through the passes that model.onnx went through, and write it to ``path``.

    Returns:
        ``path``, or None where model.onnx is as the plan's rewrites left it, where the files are of an older opset, in
        which passes no longer find what they look for, or where the precision cannot say what the plan removes.
    """
    manifest = bundle.manifest
    names = LAYOUT if any(rewrite.rewrite in LAYOUT for rewrite in manifest.rewrites) else ()
    asked = asked_passes(manifest.precision)
    names = (*names, *asked)
    if not names or manifest.opset != OPSET:
        return None
    graph = ScopedGraph(onnx.load(str(bundle.baseline)))
    whole = manifest.plan.model_copy(update={"parts": ()})
    reports = run_passes(graph, names, Subject(whole, FAMILIES[whole.model.family], tuple(manifest.stays_float)))
    if any(report.refused for report in reports if report.rewrite in asked):
        return None
    proto = graph.to_proto()
    onnx.save_model(proto, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1 << 20)
    return path
