"""The same files in other runtimes: how far OpenVINO's and onnxruntime-node's answers are from ONNX Runtime's.

    pip install openvino; npm install --prefix node onnxruntime-node onnxruntime-web
    python samples/benchmarks/other_runtimes.py bundles/* --node node

Rows of the bundle's own check data, padded to the longest of a batch. What is not installed is left out and said.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from axform.console import note, out, run_app, table
from axform.errors import AxformError
from axform.runtime.bundle import Bundle
from axform.runtime.check_data import CheckData
from axform.runtime.session import create_session

ROWS = 16
PACKAGES = ("onnxruntime-node", "onnxruntime-web")
SCRIPT = """
const [model, feeds, runtime] = process.argv.slice(2);
const ort = require(runtime), given = JSON.parse(require('fs').readFileSync(feeds));
(async () => {
  const session = await ort.InferenceSession.create(model), inputs = {};
  for (const name of session.inputNames) {
    const rows = given[name];
    const values = BigInt64Array.from(rows.flat().map(BigInt));
    inputs[name] = new ort.Tensor('int64', values, [rows.length, rows[0].length]);
  }
  console.log(JSON.stringify(Array.from((await session.run(inputs)).logits.data)));
})().catch(error => { console.error(String(error)); process.exit(1); });
"""


def in_openvino(model: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """In float32, with activations as they are: by default OpenVINO quantizes those of products with few bits."""
    import openvino

    core = openvino.Core()
    hints = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    return np.asarray(core.compile_model(core.read_model(model), "CPU", hints)(feeds)["logits"])


def in_node(package: Path, model: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        script, data = Path(folder) / "run.js", Path(folder) / "feeds.json"
        script.write_text(SCRIPT)
        data.write_text(json.dumps({name: value.tolist() for name, value in feeds.items()}))
        words = ["node", script, model.resolve(), data, package.resolve()]
        ran = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    if ran.returncode:
        raise AxformError(f"{package.name}: {ran.stderr.strip().splitlines()[-1]}")
    return np.array(json.loads(ran.stdout))


def row(path: Path, node: Path | None) -> list[str]:
    bundle = Bundle(path)
    split = CheckData.load(bundle.check_data).split
    session = create_session(bundle.model, "cpu", 1)
    names = {entry.name for entry in session.get_inputs()}
    feeds: dict[str, Any] = {name: value for name, value in split.batch(range(ROWS)).items() if name in names}
    wanted = session.run(["logits"], feeds)[0]
    cells = [path.name, bundle.manifest.precision]
    has_openvino = importlib.util.find_spec("openvino") is not None
    try:
        cells.append(
            f"{np.abs(in_openvino(bundle.model, feeds) - wanted).max():.1e}" if has_openvino else "not installed"
        )
    except RuntimeError:  # it has no functions: --inline
        cells.append("refuses it")
    for package in PACKAGES:
        place = None if node is None else node / "node_modules" / package
        if place is None or not place.is_dir():
            cells.append("not installed")
        else:
            cells.append(f"{np.abs(in_node(place, bundle.model, feeds) - wanted.reshape(-1)).max():.1e}")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--node", type=Path, help="folder with node_modules")
    arguments = parser.parse_args()
    rows = []
    for bundle in arguments.bundles:
        note(f"{bundle}: running")
        rows.append(row(bundle, arguments.node))
    out.print(
        table("Largest difference of a logit from ONNX Runtime's", ("bundle", "precision", "openvino", *PACKAGES), rows)
    )


if __name__ == "__main__":
    run_app(main)
