"""Imports point one way: what serves or rewrites a model comes without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIGHT = {
    "axform.core.plan, axform.core.families, axform.core.tasks, axform.core.metrics, axform.core.bounds, "
    "axform.core.batches, axform.core.opset": {
        "onnx",
        "onnxruntime",
        "onnx_graphsurgeon",
        "pandas",
        "scipy",
        "sklearn",
    },
    "axform.exporters.functions, axform.exporters.rewrites": {"onnxruntime", "pandas", "sklearn"},
    "axform.runtime.parity, axform.runtime.latency, axform.runtime.layers": {
        "onnx",
        "onnx_graphsurgeon",
        "pandas",
        "scipy",
        "sklearn",
    },
    "axform.report.page": {
        "jinja2",
        "matplotlib",
        "onnx",
        "onnxruntime",
        "onnx_graphsurgeon",
        "pandas",
        "scipy",
        "sklearn",
    },
    "axform.serving.worker, axform.serving.supervisor": {"onnx", "onnx_graphsurgeon", "pandas", "scipy", "sklearn"},
    "axform.cli": {"onnx", "onnxruntime", "onnx_graphsurgeon", "pandas", "scipy", "sklearn"},
}


@pytest.mark.parametrize("modules", LIGHT)
def test_light_modules_stay_light(modules):
    heavy = LIGHT[modules] | {"torch", "transformers", "datasets"}
    script = f"import sys\nimport {modules}\nfound = {heavy!r} & set(sys.modules)\nassert not found, found"
    subprocess.run([sys.executable, "-c", script], check=True)
