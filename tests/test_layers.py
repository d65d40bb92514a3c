"""`axform bench --layers`: every node's time is counted once, and in the part of the model that it belongs to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from axform.core.families import FAMILIES
from axform.errors import AxformError
from axform.runtime.bundle import Bundle
from axform.runtime.graph_nodes import GraphNode, read_nodes
from axform.runtime.layers import LayersReport, time_file_layers, time_layers
from axform.runtime.parts import NOT_TOLD, OTHER, parts_of
from axform.runtime.profiles import ProfiledSession
from support import run_command

FLOAT, INT64, BOOL = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.BOOL


@pytest.fixture(params=FAMILIES)
def baseline(request: pytest.FixtureRequest, exported: Any, tmp_path: Path) -> tuple[Any, Path]:
    """(tiny model of two layers, its baseline.onnx)."""
    loaded, proto = exported[request.param]
    onnx.save(proto, tmp_path / "baseline.onnx")
    return loaded, tmp_path / "baseline.onnx"


def test_nodes_are_read_as_onnx_reads_them(tiny_bundle):
    for file in (tiny_bundle / "baseline.onnx", tiny_bundle / "model.onnx"):
        wanted = onnx.load(file).graph.node
        found = read_nodes(file)
        assert [(one.name, one.operator, one.inputs, one.outputs) for one in found] == [
            (node.name, node.op_type, tuple(node.input), tuple(node.output)) for node in wanted
        ]
        assert "bert.encoder.layer.0.attention.self.query" in {node.module for node in found}


@pytest.mark.parametrize("content", [b"", b"\x3a", b"\x3a\x7f", b"\xff" * 64, b"neither protobuf nor ONNX"])
def test_what_is_no_protobuf_has_no_nodes(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert read_nodes(tmp_path / "file") == []


def expected_part(parameter: str, family: Any) -> str:
    """Where a parameter of the task model lies, told by words that only the names of one part hold."""
    for layer in range(2):
        prefix = f"{family.layer_scope(layer)}."
        if parameter.startswith(prefix):
            inner = parameter.removeprefix(prefix)
            return f"layer.{layer}.{'attn' if inner.startswith(('attention', 'sa_layer_norm')) else 'ffn'}"
    return "embeddings" if ".embeddings" in parameter else "head"


def test_fused_and_renamed_nodes_stay_in_the_part_of_their_weights(baseline, tmp_path):
    loaded, file = baseline
    (tmp_path / "scratch").mkdir()
    session = ProfiledSession(file, "cpu", 1, tmp_path / "scratch")
    ids = np.full((1, 5), 7)
    session.session.run(None, {entry.name: np.ones_like(ids) for entry in session.session.get_inputs()})
    graph = session.finish(1).graph
    parts = parts_of(graph, read_nodes(file), loaded.family)
    # Norms are all ones and zeros here, which an export keeps once for all of them.
    parameters = {name for name, _ in loaded.model.named_parameters() if "norm" not in name.lower()}
    checked = [
        (node.name, parts[node.name], expected_part(name, loaded.family))
        for node in graph
        for name in node.inputs
        if name in parameters
    ]
    assert [found for _, found, _ in checked] == [wanted for _, _, wanted in checked], checked
    assert len({wanted for _, _, wanted in checked}) == 6
    assert any(node.operator == "BiasGelu" for node in graph), "nothing was fused, so nothing is held by this test"
    assert NOT_TOLD not in parts.values()
    blocks = [f"layer.{n}.{block}" for n in range(2) for block in ("attn", "ffn")]
    assert sorted(parts[node.name] for node in graph if node.operator == "Attention") == blocks[::2]
    assert sorted(parts[node.name] for node in graph if "LayerNorm" in node.operator) == ["embeddings", *blocks]


def test_a_file_tells_all_of_its_time(baseline):
    report = time_file_layers(baseline[1], baseline[1], 2, 6, threads=1, runs=5)
    names = ["embeddings", *(f"layer.{n}.{b}" for n in range(2) for b in ("attn", "ffn")), "head", OTHER, NOT_TOLD]
    assert [part.part for part in report.parts] == names and report.runs == 5
    assert all(part.baseline > 0 and part.model > 0 for part in report.parts[:6]) and report.not_told < 0.01
    for side in ("baseline", "model"):
        whole = sum(getattr(part, side) for part in report.parts)
        assert whole == pytest.approx(sum(getattr(one, side) for one in report.operators))
    (attention,) = (one for one in report.operators if one.operator == "Attention")
    assert attention.baseline_calls == attention.model_calls == 2


def test_unknown_nodes_are_asked_of_their_neighbours():
    def node(name: str, *inputs: str, module: str | None = None) -> GraphNode:
        return GraphNode(name, "Op", inputs, (f"{name}.out",), module)

    query, up = "bert.encoder.layer.0.attention.self.query", "bert.encoder.layer.0.intermediate.dense"
    file = [node("q", "x", module=query), node("u", "q.out", module=up), node("mask", "m", module="bert")]
    running = [
        node("mask", "m"),
        node("first", "x"),
        node("second", "first.out"),  # two that lead to the query alone
        node("q", "second.out"),
        node("between", "q.out"),  # readers are asked before those that are read from
        node("u", "between.out"),
        node("last", "u.out"),  # read by nobody
        node("shared", "y"),
        node("reader", "shared.out", "q.out"),
        node("other reader", "shared.out", "u.out"),
        node("lonely", "z"),
    ]
    parts = parts_of(running, file, FAMILIES["bert"])
    assert parts["first"] == parts["second"] == parts["q"] == "layer.0.attn"
    assert parts["between"] == parts["u"] == parts["last"] == "layer.0.ffn"
    assert parts["mask"] == OTHER and parts["lonely"] == NOT_TOLD


def test_a_bundle_tells_what_the_plan_did(bundle_copy, capsys, tmp_path):
    report = time_layers(Bundle(bundle_copy), 1, 8, threads=1, runs=4)
    assert LayersReport.model_validate(Bundle(bundle_copy).manifest.results["layers"]) == report
    done = {part.part: part.done for part in report.parts}
    assert "sign matching" in done["layer.0.attn"] and done["layer.0.ffn"] == done["head"] == ""
    assert report.not_told < 0.05 and min(report.plain) > 0 and min(report.profiled) > 0
    command = ["bench", bundle_copy, "--layers", "--batch", "1,2", "--seq", "8,4", "--runs", "3", "--threads", "1"]
    code, captured = run_command(capsys, *command, "--json", tmp_path / "figures.json")
    assert code == 0 and all(text in captured.out for text in ("layer 0 ATTN", "not told", "all nodes", "Operators"))
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert len(figures["shapes"]) == 4 and (figures["layers"]["batch"], figures["layers"]["sequence"]) == (1, 8)
    assert LayersReport.model_validate(figures["layers"]).runs == 3


def save(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], initializers: list[Any] = ()) -> Path:
    graph = onnx.helper.make_graph(nodes, "graph", inputs, outputs, list(initializers))
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_a_loop_counts_once(tmp_path, capsys):
    """The nodes of its body have events of their own, whose time is the loop's, too."""
    helper, info = onnx.helper, onnx.helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Erf", ["state"], ["next"])],
        "body",
        [info("i", INT64, []), info("go", BOOL, []), info("state", FLOAT, None)],
        [info("go_on", BOOL, []), info("next", FLOAT, None)],
    )
    times = onnx.numpy_helper.from_array(np.array(50), "times")
    loop = helper.make_node("Loop", ["times", "", "x"], ["y"], body=body)
    file = save(tmp_path / "l.onnx", [loop], [info("x", FLOAT, ["b", 512])], [info("y", FLOAT, ["b", 512])], [times])
    report = time_file_layers(file, file, 4, 1, threads=1, runs=3)
    assert report.parts == [] and report.not_told == 0
    assert [(one.operator, one.model_calls) for one in report.operators] == [("Loop", 1)]
    code, captured = run_command(capsys, "bench", file, file, "--layers", "--runs", 3, "--threads", 1, "--batch", 1)
    assert code == 0 and "No table of parts: the files name no modules" in " ".join(captured.out.split())


def test_a_provider_that_does_not_run_node_by_node(bundle_copy, monkeypatch):
    open_session = onnxruntime.InferenceSession

    def start(path: str, options: Any, **given: Any) -> Any:
        session = open_session(path, options, providers=["CPUExecutionProvider"])
        session.get_providers = lambda: given["providers"]
        return session

    openvino = ["OpenVINOExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: openvino)
    monkeypatch.setattr(onnxruntime, "InferenceSession", start)
    with pytest.raises(AxformError, match=r"OpenVINO does not run one node after the other.*take --provider cpu"):
        time_layers(Bundle(bundle_copy), 1, 4, threads=1, runs=1, provider="openvino")


@pytest.mark.parametrize(
    ("batch", "sequence", "options", "message"),
    [
        (0, 4, {}, "--batch 0: give a whole number"),
        (1, 65, {}, "--seq 65: the model takes at most 64"),
        (1, 4, {"runs": 0}, "runs 0: give a whole number"),
        (1, 4, {"threads": -1}, "threads -1: give"),
    ],
)
def test_options_out_of_range(tiny_bundle, batch, sequence, options, message):
    with pytest.raises(AxformError, match=message):
        time_layers(Bundle(tiny_bundle), batch, sequence, **options)


def test_files_that_cannot_be_compared(tmp_path, capsys):
    def add(name: str, kind: int) -> Path:
        sides = [onnx.helper.make_tensor_value_info(side, kind, ["b", "n"]) for side in "xy"]
        return save(tmp_path / name, [onnx.helper.make_node("Add", ["x", "x"], ["y"])], sides[:1], sides[1:])

    first, second = add("a.onnx", FLOAT), add("b.onnx", INT64)
    for other, message in ((second, "take different inputs"), (tmp_path / "none.onnx", "none.onnx: no such file")):
        code, captured = run_command(capsys, "bench", first, other, "--layers", "--runs", 1)
        assert code == 2 and message in " ".join(captured.err.split())
