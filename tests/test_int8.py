"""int8: the integers are those of a float64 reference, answers stay, and what costs too much stays float."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from axform import cli
from axform.core.batches import EncodedSplit
from axform.core.opset import DOMAIN
from axform.core.plan import Bits
from axform.core.quantization import codes_of, fits_16_bits, product_codes_of
from axform.core.targets import Target
from axform.exporters import cli as export_cli
from axform.exporters.annotations import stored_codes
from axform.exporters.coded_weights import floats_of, is_coded, shape_of
from axform.exporters.export import export, rewrite
from axform.exporters.int8_choice import metric_of, stays_float
from axform.exporters.onnx_file import save_onnx
from axform.exporters.passes import int8
from axform.exporters.passes.int8 import int8_places, to_int8
from axform.exporters.scoped_graph import ScopedGraph
from axform.runtime.bundle import Bundle
from axform.seals import seal
from axform.toolchain.run_folder import RunFolder
from bundles import with_its_checksums
from support import FAMILIES, plan_of, random_bits, run_command


def converted(proto: onnx.ModelProto, keep_float: tuple[str, ...] = ()) -> onnx.ModelProto:
    graph = ScopedGraph(proto)
    report = to_int8(graph, keep_float)
    assert not report.refused
    return graph.to_proto()


def run(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def one_linear(op: str, weights: np.ndarray, bias: np.ndarray) -> onnx.ModelProto:
    """y = x W + b as torch.onnx.export writes it: MatMul and Add, or Gemm with W transposed."""
    given = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["rows", weights.shape[0]])
    made = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["rows", weights.shape[1]])
    stored = weights.T if op == "Gemm" else weights
    tensors = [onnx.numpy_helper.from_array(np.ascontiguousarray(a), n) for n, a in (("w", stored), ("b", bias))]
    if op == "Gemm":
        nodes = [onnx.helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)]
    else:
        nodes = [
            onnx.helper.make_node("MatMul", ["x", "w"], ["p"]),
            onnx.helper.make_node("Add", ["p", "b"], ["y"]),
        ]
    graph = onnx.helper.make_graph(nodes, "linear", [given], [made], tensors)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=11)


@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
@pytest.mark.parametrize("rows", [1, 7])
def test_a_linear_computes_what_its_integers_say(op, rows):
    random = np.random.default_rng(rows)
    weights = random.normal(size=(24, 16)).astype(np.float32)
    weights[:, 3] = 0  # an output without weights has no largest one
    bias, inputs = random.normal(size=16).astype(np.float32), random.normal(size=(rows, 24)).astype(np.float32)
    proto = converted(one_linear(op, weights, bias))
    onnx.checker.check_model(proto, full_check=True)

    low, high = min(inputs.min(), 0.0), max(inputs.max(), 0.0)
    scale = np.float64(high - low) / 255
    codes = np.clip(np.rint(inputs / scale) + np.rint(-low / scale), 0, 255)
    pairs = weights.astype(np.float64).reshape(12, 2, 16)
    steps = np.maximum(pairs.clip(min=0).sum(1), (-pairs).clip(min=0).sum(1)).max(0) / 127
    stored = np.rint(weights / np.where(steps, steps, 1))
    wanted = (codes - np.rint(-low / scale)) @ stored * scale * steps + bias
    found = run(proto, {"x": inputs})
    # A code at half a step may be rounded either way: it moves a sum by one weight.
    np.testing.assert_allclose(found, wanted, atol=1.5 * scale * np.abs(weights).max(), rtol=0)
    assert np.median(np.abs(found - wanted)) < 1e-5
    assert {node.op_type for node in proto.graph.node} >= {"DynamicQuantizeLinear", "MatMulInteger"}


@pytest.mark.parametrize("inputs", [2, 25, 384])
def test_no_processor_cuts_off_a_sum(inputs):
    """In exact integers; without VNNI, codes up to 127 in neighbouring inputs fail here."""
    random = np.random.default_rng(inputs)
    weights = random.normal(size=(24, inputs)).astype(np.float32)
    weights[0] = random.uniform(0.9, 1, inputs)
    codes = product_codes_of(weights)
    finest = codes_of(weights, 8)
    assert fits_16_bits(codes.values) and not fits_16_bits(finest.values)
    assert (codes.scales >= finest.scales).all() and (codes.scales <= 2.001 * finest.scales).all()
    np.testing.assert_array_less(
        np.abs(codes.decoded() - weights), 0.5001 * np.broadcast_to(codes.scales, weights.shape)
    )
    sides = [
        onnx.helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in (
            ("x", onnx.TensorProto.UINT8, ["rows", inputs]),
            ("y", onnx.TensorProto.INT32, ["rows", 24]),
        )
    ]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "product",
        sides[:1],
        sides[1:],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(codes.values.T), "w")],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    for given in (
        np.full((3, inputs), 255),
        random.integers(0, 256, (40, inputs)),
        random.choice([0, 255], (40, inputs)),
    ):
        wanted = given.astype(np.int64) @ codes.values.T.astype(np.int64)
        assert (run(proto, {"x": given.astype(np.uint8)}) == wanted).all()


def test_pairs_of_codes_that_fit():
    for row, fits in (
        ([127, 1], True),
        ([127, -127], True),
        ([100, 29], False),
        ([1, 127, 127], True),
        ([-65, -64], False),
    ):
        assert fits_16_bits(np.array([row], np.int8)) is fits, row


def test_a_table_is_stored_in_codes_with_a_scale_for_each_row(monkeypatch):
    monkeypatch.setattr(int8, "_SMALLEST_TABLE", 100)
    random = np.random.default_rng(0)
    table = (random.normal(size=(20, 6)) * np.logspace(-3, 3, 20)[:, None]).astype(np.float32)
    table[4] = 0
    ids = onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["batch", "sequence"])
    values = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", "sequence", 6])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Gather", ["table", "ids"], ["y"], axis=0)],
        "table",
        [ids],
        [values],
        [onnx.numpy_helper.from_array(table, "table")],
    )
    opset = [onnx.helper.make_opsetid("", 23)]
    proto = converted(onnx.helper.make_model(graph, opset_imports=opset, ir_version=11))
    rows = np.arange(20).reshape(4, 5)
    found = run(proto, {"ids": rows})
    steps = np.abs(table.astype(np.float64)).max(axis=1, keepdims=True) / 127
    assert (np.abs(found - table[rows]) <= 0.5001 * steps[rows]).all()
    sizes = {tensor.name: onnx.numpy_helper.to_array(tensor).nbytes for tensor in proto.graph.initializer}
    assert sizes == {"table.int8": 120, "table.scales": 80}


def test_scales_of_a_table_in_fewer_bits_stay_float(exported, monkeypatch):
    monkeypatch.setattr(int8, "_SMALLEST_TABLE", 100)
    loaded, baseline = exported["bert"]
    words = Bits(target=Target.outside("embeddings.word"), bits=4, group=8)
    graph = ScopedGraph(baseline)
    rewrite(graph, plan_of(loaded.identity(), 8).with_part(words), loaded.family)
    table = f"{loaded.family.word_embeddings_scope}.scales"
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.to_proto().graph.initializer}
    assert stored[table].size >= 100 and loaded.family.word_embeddings_scope not in int8_places(graph)
    to_int8(graph)
    left = {tensor.name: tensor for tensor in graph.weights()}
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(left[table]), stored[table])
    (said,) = stored_codes(graph.bare_proto().graph, left.values())
    assert said.module == loaded.family.word_embeddings_scope


def test_a_function_that_nothing_calls_any_more_is_not_in_the_file(exported):
    """Codes that share scales over a few inputs are coded anew, so nothing unpacks them."""
    loaded, baseline = exported["bert"]
    part = Bits(target=Target.parse("layer.0.ffn"), bits=6, group=8)
    graph = ScopedGraph(baseline)
    rewrite(graph, plan_of(loaded.identity(), 8).with_part(part), loaded.family)
    assert [function.name for function in graph.to_proto().functions] == ["UnpackBits"]
    to_int8(graph)
    proto = graph.to_proto()
    assert not proto.functions and DOMAIN not in {entry.domain for entry in proto.opset_import}


def test_int8_makes_no_parameters(exported, monkeypatch):
    """Scales are none: the model would have more than its baseline."""
    monkeypatch.setattr(int8, "_SMALLEST_TABLE", 100)
    graph = ScopedGraph(exported["bert"][1])
    before = graph.parameters()
    report = to_int8(graph)
    assert len(report.done) > 12 and graph.parameters() == before and report.parameters_removed == 0


def test_the_shape_of_coded_weights_is_that_of_their_floats(exported):
    loaded, baseline = exported["bert"]
    generator = random.Random(2)
    forms = set()
    for _ in range(6):
        graph = ScopedGraph(baseline)
        rewrite(graph, random_bits(plan_of(loaded.identity(), 8), generator, share=0.7), loaded.family)
        for node in graph.graph.nodes:
            if node.op in ("MatMul", "Gemm") and is_coded(node.inputs[1]):
                assert shape_of(node.inputs[1]) == floats_of(node.inputs[1]).shape
                forms.add(node.inputs[1].inputs[0].op)
    assert {"Mul", "Concat", "Reshape"} <= forms


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_in_int8_answers_alike(exported, family):
    loaded, proto = exported[family]
    random = np.random.default_rng(1)
    feeds = {name: np.ones((4, 12), np.int64) for name in loaded.inputs}
    feeds["input_ids"] = random.integers(4, 60, (4, 12))
    if "token_type_ids" in feeds:
        feeds["token_type_ids"][:] = 0
    with torch.inference_mode():
        wanted = loaded.model(**{name: torch.from_numpy(value) for name, value in feeds.items()}).logits.numpy()
    places = int8_places(ScopedGraph(proto))
    assert sum("layer" in place for place in places) == 12, "the six linears of both layers"
    smaller = converted(proto)
    assert sum(node.op_type == "MatMulInteger" for node in smaller.graph.node) == len(places)
    assert [output.name for output in smaller.graph.output] == [output.name for output in proto.graph.output]
    onnx.checker.check_model(smaller, full_check=True)
    error = np.abs(run(smaller, feeds) - wanted).max()
    assert 0 < error < 0.3 * np.abs(wanted).max()
    same = run(converted(proto, tuple(places)), feeds)
    np.testing.assert_allclose(same, wanted, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def judged(exported) -> tuple[onnx.ModelProto, EncodedSplit]:
    """A model and rows whose labels are its own answers."""
    loaded, proto = exported["bert"]
    random = np.random.default_rng(2)
    samples = [random.integers(4, 60, length) for length in random.integers(3, 20, 60)]
    features = {"input_ids": samples}
    features |= {
        name: [np.full_like(sample, name == "attention_mask") for sample in samples] for name in loaded.inputs[1:]
    }
    split = EncodedSplit(features, np.zeros(60, np.int64), dict.fromkeys(features, 0))
    answers = split.run(32, lambda batch: run(proto, batch))
    return proto, EncodedSplit(features, answers.argmax(-1), split.pad_values)


def test_nothing_stays_float_where_all_of_it_keeps_the_bound(judged, tmp_path):
    proto, split = judged
    save_onnx(proto, tmp_path / "model.onnx")
    assert metric_of(tmp_path / "model.onnx", split, "accuracy") == 1
    assert stays_float(proto, split, "accuracy", bound=0.1) == []


def test_what_costs_most_stays_float(judged, monkeypatch):
    """One place in int8 is made to destroy the answers: it, and only it, stays float."""
    proto, split = judged
    bad = int8_places(ScopedGraph(proto))[3]

    def spoilt(weights):
        found = product_codes_of(weights)
        return replace(found, scales=found.scales * (-30 if np.array_equal(weights, spoilt.weights) else 1))

    graph = ScopedGraph(proto)
    node = next(node for place, node in int8._places(graph) if place == bad)
    assert node.op == "MatMul"
    spoilt.weights = node.inputs[1].values.T
    monkeypatch.setattr(int8, "product_codes_of", spoilt)
    seen = []
    found = stays_float(proto, split, "accuracy", 0.9, lambda *step: seen.append(step))
    assert found == [bad]
    assert all(done < total for done, total, _ in seen)


def test_a_bound_that_nothing_keeps_leaves_everything_float(judged, monkeypatch):
    proto, split = judged

    def broken(weights):
        found = product_codes_of(weights)
        return replace(found, values=np.ones_like(found.values), scales=np.full_like(found.scales, np.nan))

    monkeypatch.setattr(int8, "product_codes_of", broken)
    assert set(stays_float(proto, split, "accuracy", 1.0)) == set(int8_places(ScopedGraph(proto)))


@pytest.fixture(scope="module")
def bundle(finished, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("int8") / "bundle"
    export(finished[0], folder, precision="int8")
    return folder


def test_an_int8_bundle_of_a_run_passes_its_check(bundle, finished, capsys):
    manifest, full = Bundle(bundle).manifest, Bundle(finished[1]).manifest
    assert manifest.precision == "int8" and manifest.rewrites[-1].rewrite == "int8"
    assert manifest.model_size.bytes < full.model_size.bytes
    removed = sum(rewrite.parameters_removed for rewrite in manifest.rewrites)
    assert manifest.baseline_size.parameters - manifest.model_size.parameters == removed
    code, captured = run_command(capsys, "check", bundle, app=cli)
    assert code == 0 and "changed" in captured.out
    result = Bundle(bundle).manifest.results["check"]
    assert result["numeric"]["max_abs_error"] > 1e-4 and result["numeric"]["tolerance"] > 1e-3


def test_an_int8_file_that_computes_something_else_fails_its_check(bundle, tmp_path, capsys):
    import shutil

    spoilt = Path(shutil.copytree(bundle, tmp_path / "spoilt"))
    proto = onnx.load(spoilt / "model.onnx")
    tensor = next(t for t in proto.graph.initializer if t.name.endswith(".scales") and len(t.dims) == 1)
    tensor.CopyFrom(onnx.numpy_helper.from_array(-20 * onnx.numpy_helper.to_array(tensor), tensor.name))
    onnx.save(proto, spoilt / "model.onnx")
    with_its_checksums(spoilt)
    assert run_command(capsys, "check", spoilt, app=cli)[0] == 1


def test_int8_of_a_run_that_kept_no_rows_to_choose_on(finished, tmp_path, capsys):
    run_path = Path(shutil.copytree(finished[0], tmp_path / "run"))
    (RunFolder(run_path).inputs / "selection.npz").unlink()
    seal(RunFolder(run_path).inputs)
    words = [run_path, "--out", tmp_path / "bundle", "--precision", "int8"]
    code, captured = run_command(capsys, *words, app=export_cli)
    assert code == 2 and "selection.npz: is missing, as in runs of earlier versions" in " ".join(captured.err.split())
    assert not (tmp_path / "bundle").exists()
    assert json.loads((run_path / "run.json").read_text())
