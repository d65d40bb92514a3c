"""An int8 model answers each request by itself: its scales are those of a whole batch, and neighbours would move them."""

from __future__ import annotations

import json
import shutil
import threading
import urllib.request
from pathlib import Path

import numpy as np
import onnx
import pytest
from axform.exporters.onnx_file import save_onnx
from axform.exporters.passes.int8 import to_int8
from axform.exporters.scoped_graph import ScopedGraph
from axform.serving.signature import quantizes_while_running
from bundles import with_its_checksums
from serving_process import alone, inputs_of, serving

pytest.importorskip("uvicorn", reason="the extra serve is not installed")
pytest.importorskip("tritonclient.grpc", reason="the extra serve is not installed")
LENGTHS = (5, 19, 17, 9, 20, 12, 18, 16)


@pytest.fixture(scope="module")
def quantized(tiny_bundle, tmp_path_factory) -> Path:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("int8") / "quantized"))
    graph = ScopedGraph(onnx.load(folder / "model.onnx"))
    to_int8(graph)
    save_onnx(graph.to_proto(), folder / "model.onnx")
    with_its_checksums(folder)
    return folder


def padded(rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    longest = max(row["input_ids"].shape[1] for row in rows)
    return {
        name: np.concatenate([np.pad(row[name], ((0, 0), (0, longest - row[name].shape[1]))) for row in rows])
        for name in rows[0]
    }


def test_the_graph_tells_that_it_quantizes(tiny_bundle, quantized):
    assert quantizes_while_running(quantized / "model.onnx")
    assert not quantizes_while_running(tiny_bundle / "model.onnx")
    assert not quantizes_while_running(quantized / "baseline.onnx")


def test_neighbours_would_move_an_answer(tiny_bundle, quantized):
    """By more than the 1e-3 that an answer may depend on them, where float32 moves by rounding alone."""
    rows = [inputs_of([length], seed) for seed, length in enumerate(LENGTHS)]
    for bundle, low, high in ((quantized, 1e-3, np.inf), (tiny_bundle, 0, 1e-5)):
        single = np.concatenate([alone(bundle, row) for row in rows])
        moved = np.abs(single - alone(bundle, padded(rows))).max()
        assert low <= moved <= high


def test_no_answer_depends_on_what_is_asked_beside_it(quantized):
    rows = [inputs_of([length], seed) for seed, length in enumerate(LENGTHS)]
    met: list[float] = []
    with serving(quantized, "--max-delay-ms", 50) as server:

        def client(row: dict[str, np.ndarray]) -> None:
            inputs = [
                {"name": name, "datatype": "INT64", "shape": list(values.shape), "data": values.tolist()}
                for name, values in row.items()
            ]
            request = urllib.request.Request(
                f"http://{server.http}/v2/models/quantized/infer", json.dumps({"inputs": inputs}).encode()
            )
            for _ in range(5):
                with urllib.request.urlopen(request, timeout=20) as answer:
                    found = json.loads(answer.read())["outputs"][0]["data"]
                met.append(float(np.abs(alone(quantized, row)[0] - found).max()))

        threads = [threading.Thread(target=client, args=(row,)) for row in rows]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        with urllib.request.urlopen(f"http://{server.http}/v2/models/quantized/stats", timeout=10) as answer:
            (statistics,) = json.loads(answer.read())["model_stats"]
    assert len(met) == 5 * len(rows) and max(met) < 1e-6
    assert [entry["batch_size"] for entry in statistics["batch_stats"]] == [1]
