"""Model repositories for Triton: what is written, what the checks find, and what a real Triton says of both."""

from __future__ import annotations

import json
import shutil
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import real_triton
from axform import custom_ops
from axform.exporters.onnx_file import save_onnx
from axform.exporters.passes.int8 import to_int8
from axform.exporters.scoped_graph import ScopedGraph
from axform.serving.triton.check import check_repository
from axform.serving.triton.schema import read_config
from bundles import with_its_checksums
from onnx import TensorProto, helper
from real_triton import SERVER, needs_triton, oracle
from support import run_command

pytest.importorskip("tritonclient.grpc", reason="the extra serve is not installed")


def make(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, Any]:
    return run_command(capsys, "triton", *arguments)


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    code, printed = make(capsys, *arguments)
    assert code == 2 and printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    return printed.err


@pytest.fixture(scope="module")
def written(tiny_bundle, tmp_path_factory) -> Path:
    """A repository of the tiny bundle. Tests must not change it."""
    from axform.serving.triton.repository import write_repository
    from axform.serving.triton.settings import TritonSettings

    out = tmp_path_factory.mktemp("triton") / "repo"
    write_repository({"tiny": str(tiny_bundle)}, out, TritonSettings())
    return out


@pytest.fixture
def repository(written, tmp_path) -> Path:
    """A copy, to be changed by hand."""
    return Path(shutil.copytree(written, tmp_path / "repo"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_what_is_written(tiny_bundle, tmp_path, capsys):
    out = tmp_path / "repo"
    code, printed = make(capsys, tiny_bundle, "--name", "tiny", "--out", out, "--max-batch", 16, "--max-delay-ms", 1.5)
    assert code == 0
    assert f"{out}:/models:ro" in printed.out and "--model-repository=/models" in printed.out
    config = read_config(out / "tiny" / "config.pbtxt")
    assert (config.name, config.backend, config.max_batch_size) == ("tiny", "onnxruntime", 16)
    described = {entry.name: (entry.data_type, list(entry.dims)) for entry in (*config.input, *config.output)}
    int64, fp32 = 9, 11  # TYPE_INT64 and TYPE_FP32 of model_config.proto
    assert described == {
        **dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), (int64, [-1])),
        "logits": (fp32, [2]),
    }
    assert config.dynamic_batching.max_queue_delay_microseconds == 1500
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8, 16]
    assert (out / "tiny" / config.output[0].label_filename).read_text().splitlines() == ["0", "1"]
    assert (out / "tiny" / "1" / "model.onnx").read_bytes() == (tiny_bundle / "model.onnx").read_bytes()
    assert [(warmup.batch_size, warmup.inputs["input_ids"].dims[0]) for warmup in config.model_warmup] == [
        (1, 32),
        (1, 64),
        (8, 32),
        (8, 64),
    ]
    for warmup in config.model_warmup:
        mask = warmup.inputs["attention_mask"]
        data = np.fromfile(out / "tiny" / "warmup" / mask.input_data_file, np.int64)
        assert data.tolist() == [1] * mask.dims[0]
    if custom_ops.is_available():
        assert list(config.model_operations.op_library_filename) == [
            f"/models/tiny/{custom_ops.get_library_path().name}"
        ]
    else:
        assert "function bodies" in printed.out


def test_equal_bundles_make_equal_repositories(written, tiny_bundle, tmp_path, capsys):
    out = tmp_path / "another" / "repo"
    assert make(capsys, f"tiny={tiny_bundle}", "--out", out)[0] == 0
    assert contents(out) == contents(written)


def test_several_models_gpus_and_instances(tiny_bundle, tmp_path, capsys):
    out = tmp_path / "repo"
    code, printed = make(
        capsys, f"a={tiny_bundle}", f"b={tiny_bundle}", "--out", out, "--gpus", 2, "--instances", 3, "--max-batch", 1
    )
    assert code == 0 and "--gpus 2" in printed.out
    for name in "ab":
        config = read_config(out / name / "config.pbtxt")
        group = config.instance_group[0]
        assert (group.count, list(group.gpus), group.kind) == (3, [0, 1], type(group).KIND_GPU)
        assert not config.HasField("dynamic_batching")
    assert [model.name for model in check_repository(out)] == ["a", "b"]


@pytest.mark.parametrize(
    ("options", "threads"), [((), "0"), (("--instances", 2), "1"), (("--instances", 2, "--threads", 4), "4")]
)
def test_instances_share_the_cores(tiny_bundle, tmp_path, capsys, options, threads):
    assert make(capsys, f"m={tiny_bundle}", "--out", tmp_path / "repo", *options)[0] == 0
    config = read_config(tmp_path / "repo" / "m" / "config.pbtxt")
    assert config.parameters["intra_op_thread_count"].string_value == threads


def test_int8_gets_no_neighbours(bundle_copy, tmp_path, capsys):
    graph = ScopedGraph(onnx.load(bundle_copy / "model.onnx"))
    to_int8(graph)
    save_onnx(graph.to_proto(), bundle_copy / "model.onnx")
    with_its_checksums(bundle_copy)
    code, printed = make(capsys, bundle_copy, "--name", "q", "--out", tmp_path / "repo")
    assert code == 0 and "each request runs by itself" in printed.err
    file = tmp_path / "repo" / "q" / "config.pbtxt"
    config = read_config(file)
    assert config.max_batch_size == 32 and not config.HasField("dynamic_batching")
    assert {warmup.batch_size for warmup in config.model_warmup} == {1}
    file.write_text(file.read_text() + "dynamic_batching { }\n")
    code, printed = make(capsys, "--check", tmp_path / "repo")
    assert code == 0 and "depends on its neighbours" in printed.err


def test_weights_beside_the_file(bundle_copy, tmp_path, capsys):
    save_onnx(onnx.load(bundle_copy / "model.onnx"), bundle_copy / "model.onnx", external_data_above=0)
    with_its_checksums(bundle_copy)
    out = tmp_path / "repo"
    assert make(capsys, bundle_copy, "--name", "m", "--out", out)[0] == 0
    data = out / "m" / "1" / "model.onnx.data"
    assert data.read_bytes() == (bundle_copy / "model.onnx.data").read_bytes()
    whole = data.read_bytes()
    data.unlink()  # it may be the bundle's own file under another name
    data.write_bytes(whole[:-1])
    assert "ends before the weights" in refused(capsys, "--check", out)
    data.unlink()
    assert "no such file, but model.onnx has weights in it" in refused(capsys, "--check", out)


def test_an_output_of_the_batch_alone(bundle_copy, tmp_path, capsys):
    """Triton knows no output without dimensions: it is given one and reshaped."""
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
    out = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"])
    axis = onnx.numpy_helper.from_array(np.array([1], np.int64), "axis")
    nodes = [
        helper.make_node("ReduceSum", ["input_ids", "axis"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["score"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(nodes, "sum", [ids], [out], [axis])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), bundle_copy / "model.onnx"
    )
    with_its_checksums(bundle_copy, labels=[])
    assert make(capsys, bundle_copy, "--name", "sum", "--out", tmp_path / "repo")[0] == 0
    entry = read_config(tmp_path / "repo" / "sum" / "config.pbtxt").output[0]
    assert list(entry.dims) == [1] and entry.HasField("reshape") and list(entry.reshape.shape) == []
    assert entry.label_filename == ""


def test_only_an_untouched_repository_is_replaced(repository, tiny_bundle, tmp_path, capsys):
    arguments = (f"tiny={tiny_bundle}", "--out", repository)
    assert "the folder is not empty" in refused(capsys, *arguments)
    assert make(capsys, *arguments, "--overwrite", "--max-batch", 4)[0] == 0
    assert read_config(repository / "tiny" / "config.pbtxt").max_batch_size == 4
    theirs = repository / "theirs" / "config.pbtxt"
    theirs.parent.mkdir()
    theirs.write_text('backend: "python"')
    assert "theirs/config.pbtxt was added since" in refused(capsys, *arguments, "--overwrite")
    shutil.rmtree(theirs.parent)
    file = repository / "tiny" / "config.pbtxt"
    file.write_text(file.read_text() + "# mine\n")
    assert "tiny/config.pbtxt was changed since" in refused(capsys, *arguments, "--overwrite")
    assert file.read_text().endswith("# mine\n")
    other = tmp_path / "notes"
    other.mkdir()
    (other / "thesis").write_text("precious")
    assert "not a folder that axform wrote" in refused(capsys, arguments[0], "--out", other, "--overwrite")
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    message = refused(capsys, f"x={tmp_path / 'bundle'}", "--out", tmp_path / "bundle" / "repo" / "..", "--overwrite")
    assert "overlaps the bundle x" in message


def test_a_repository_is_whole_or_not_there(tiny_bundle, tmp_path, capsys, monkeypatch):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("axform.serving.triton.repository.write_text", full)
    assert "no space left" in refused(capsys, f"m={tiny_bundle}", "--out", tmp_path / "repo")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name a bundle, or a repository with --check"),
        (("{}",), "--out: is missing"),
        (("nowhere", "--out", "r"), "nowhere: not a bundle"),
        (("a b={}", "--out", "r"), "cannot be a model's name"),
        (("x={}", "x={}", "--out", "r"), "there is a model x already"),
        (("x={}", "y={}", "--name", "z", "--out", "r"), "--name z: is for one bundle"),
        (("{}", "--name", "../z", "--out", "r"), "name"),
        (("{}", "--out", "r", "--instances", 0), "--instances 0"),
        (("{}", "--out", "r", "--gpus", -1), "--gpus -1"),
        (("{}", "--out", "r", "--max-batch", 0), "--max-batch 0"),
        (("{}", "--out", "r", "--max-delay-ms", "nan"), "--max-delay-ms nan"),
        (("{}", "--out", "r", "--threads", -2), "--threads -2"),
        (("{}", "--out", "r", "--mounted-at", "models"), "--mounted-at models"),
        (("{}", "--check", "r"), "leave bundles and --out away"),
        (("--check", "nowhere"), "nowhere: no such folder"),
    ],
)
def test_a_mistake_in_the_command_is_one_error(tiny_bundle, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    filled = [str(argument).format(tiny_bundle) for argument in arguments]
    assert message in refused(capsys, *filled)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_bundle_makes_no_repository(bundle_copy, tmp_path, capsys):
    (bundle_copy / "model.onnx").write_bytes((bundle_copy / "model.onnx").read_bytes()[:-9])
    assert "model.onnx is not as it was written" in refused(capsys, f"m={bundle_copy}", "--out", tmp_path / "repo")
    assert not (tmp_path / "repo").exists()


def test_without_tritonclient_it_says_what_to_install(tiny_bundle, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tritonclient.grpc", None)
    assert "pip install 'axform[serve]'" in refused(capsys, f"m={tiny_bundle}", "--out", tmp_path / "repo")


CHANGES = {
    "an unknown field": ('backend: "', 'nofield: 3\nbackend: "', 'no field named "nofield"'),
    "a type that is none": ("TYPE_FP32", "TYPE_FP33", "TYPE_FP33"),
    "a bracket too many": ('backend: "onnxruntime"', 'backend: "onnxruntime" }', "is not of Triton's schema, at line"),
    "a name that is not the folder's": ('name: "tiny"', 'name: "other"', "name is 'other'"),
    "no backend": ('backend: "onnxruntime"', "", "backend is not given"),
    "a negative batch": ("max_batch_size: 32", "max_batch_size: -2", "max_batch_size is -2"),
    "no batch, but batching": ("max_batch_size: 32", "max_batch_size: 0", "dynamic_batching is given"),
    "a preferred size above the largest": ("max_batch_size: 32", "max_batch_size: 31", "holds 32; give sizes from 1"),
    "a version that is not there": (
        "latest {\n    num_versions: 1\n  }",
        "specific { versions: [ 1, 2 ] }",
        "versions names 2, which is not there",
    ),
    "no instance": ("count: 1\n  kind", "count: -1\n  kind", "instance_group[0].count is -1"),
    "a GPU for the CPU": ("kind: KIND_CPU", "kind: KIND_CPU gpus: 0", "instance_group[0].gpus"),
    "a GPU twice": ("kind: KIND_CPU", "kind: KIND_GPU gpus: [ 1, 1 ]", "name each GPU once"),
    "an input twice": ('name: "attention_mask"', 'name: "input_ids"', "input[1].name is 'input_ids', which is there"),
    "an input that the graph lacks": ('name: "token_type_ids"', 'name: "types"', "which the graph does not have"),
    "another type": ("data_type: TYPE_FP32", "data_type: TYPE_FP16", "output[0].data_type is TYPE_FP16, but the graph"),
    "a size of nothing": ("dims: 2\n", "dims: 0\n", "output[0].dims holds 0"),
    "another size": ("dims: 2\n", "dims: 3\n", "output[0].dims is [3], which does not fit [2]"),
    "a dimension too many": ("dims: 2\n", "dims: [ -1, 2 ]\n", "output[0].dims is [-1, 2]"),
    "a fixed size called free": ("dims: 2\n", "dims: -1\n", "output[0].dims is [-1], which does not fit [2]"),
    "no dimensions": ("dims: 2\n", "", "output[0].dims is not given"),
    "labels that are not there": ('"labels.txt"', '"nowhere.txt"', "output[0].label_filename names nowhere.txt"),
    "threads that are no number": ('string_value: "0"', 'string_value: "many"', "parameters[intra_op_thread_count]"),
    "a warm-up of many rows": (
        "batch_size: 8\n  inputs",
        "batch_size: 33\n  inputs",
        "model_warmup[2].batch_size is 33",
    ),
    "a warm-up without data": ("zero_data: true", "", "says no data"),
    "a warm-up of another type": ("dims: 32\n      zero_data", "dims: [ 32, 1 ] zero_data", "does not fit the input's"),
    "a warm-up file that is not there": ('"attention_mask-32"', '"nowhere"', "input_data_file is 'nowhere'"),
    "a warm-up file that is short": ('"attention_mask-64"', '"attention_mask-32"', "has 256 bytes, but"),
    "another model file": ('backend: "', 'default_model_filename: "m.onnx"\nbackend: "', "m.onnx: no such file"),
    "an op library that is not there": (
        'backend: "',
        'model_operations { op_library_filename: "/models/tiny/no.so" }\nbackend: "',
        "'/models/tiny/no.so', but there is no such file",
    ),
    "an op library by a relative path": (
        'backend: "',
        'model_operations { op_library_filename: "lib.so" }\nbackend: "',
        "write the full path",
    ),
}
TRITON_SEES = {
    "an unknown field": "failed to read text proto",
    "a type that is none": "failed to read text proto",
    "a bracket too many": "failed to read text proto",
    "a name that is not the folder's": "directory name must equal model name",
    "a negative batch": "'max_batch_size' must be non-negative",
    "no batch, but batching": "preferred size must be <= max batch size",
    "a preferred size above the largest": "preferred size must be <= max batch size",
    "a size of nothing": "must be integer >= 1, or -1",
    "no dimensions": "must specify 'dims'",
}
"""What its core sees without a backend; the other changes it accepts up to there."""


def change(repository: Path, old: str, new: str) -> Path:
    file = repository / "tiny" / "config.pbtxt"
    text = file.read_text()
    if "model_operations" in new:
        text = text.partition("model_operations")[0]  # there is one where the op library was built
    assert old in text
    file.write_text(text.replace(old, new))
    return file


@pytest.mark.parametrize("what", CHANGES)
def test_a_fault_is_one_error_with_file_and_field(repository, capsys, what):
    old, new, message = CHANGES[what]
    change(repository, old, new)
    error = refused(capsys, "--check", repository)
    assert message in error and str(repository / "tiny") in error


def test_faults_beside_the_configuration(repository, capsys):
    (repository / "tiny" / "labels.txt").write_text("one\n")
    assert "labels.txt with 1 lines, but the output has 2 values" in refused(capsys, "--check", repository)
    (repository / "tiny" / "labels.txt").write_bytes(b"\xff\n\xff\n")
    assert "is no file of text" in refused(capsys, "--check", repository)
    (repository / "tiny" / "labels.txt").write_text("one\ntwo\n")
    assert make(capsys, "--check", repository)[0] == 0
    model = repository / "tiny" / "1" / "model.onnx"
    model.unlink()
    assert f"{model}: no such file" in refused(capsys, "--check", repository)
    model.write_bytes(b"no model at all")
    assert "model.onnx: " in refused(capsys, "--check", repository)
    shutil.rmtree(model.parent)
    assert "has no version" in refused(capsys, "--check", repository)
    (repository / "tiny" / "config.pbtxt").write_bytes(b"\xff\xfe")
    assert "is no text in UTF-8" in refused(capsys, "--check", repository)
    (repository / "tiny" / "config.pbtxt").unlink()
    assert "config.pbtxt: no such file" in refused(capsys, "--check", repository)
    shutil.rmtree(repository / "tiny")
    assert "holds no model" in refused(capsys, "--check", repository)


def test_models_of_other_backends_pass_by(repository, capsys):
    other = repository / "pre" / "config.pbtxt"
    other.parent.mkdir()
    other.write_text('backend: "python" max_batch_size: 8')
    code, printed = make(capsys, "--check", repository)
    assert code == 0 and "pre: backend python: no ONNX model" in printed.err


def test_a_repository_of_other_making(tmp_path, capsys):
    """Inputs with fixed sizes, no batch, several versions, a platform in place of a backend, and no warm-up."""
    version = tmp_path / "repo" / "add" / "3"
    version.mkdir(parents=True)
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, "n"]) for name in ("x", "y", "z")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "y"], ["z"])], "add", ports[:2], ports[2:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), version / "model.onnx"
    )
    entry = '{{ name: "{}" data_type: TYPE_FP32 dims: [ {} ] }}'
    config = version.parent / "config.pbtxt"

    def write(x: str, batch: int = 0) -> None:
        inputs = ", ".join([entry.format("x", x), entry.format("y", "2, 5")])
        config.write_text(
            f'platform: "onnxruntime_onnx" max_batch_size: {batch} input [ {inputs} ] output [ {entry.format("z", "2, -1")} ]'
        )

    write("2, -1")
    assert make(capsys, "--check", tmp_path / "repo")[0] == 0
    write("-1, -1")
    assert "input[0].dims is [-1, -1], which does not fit [2, -1] of the graph" in refused(
        capsys, "--check", tmp_path / "repo"
    )
    write("2, -1", batch=4)
    assert "the first dimension of x is fixed" in refused(capsys, "--check", tmp_path / "repo")


def test_weights_that_a_request_may_replace(repository, capsys):
    """Files of before ONNX IR 4 name their weights among the inputs; a request need not bring them."""
    file = repository / "tiny" / "1" / "model.onnx"
    model = onnx.load(file)
    weight = next(tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT)
    model.graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    file.unlink()  # it may be the bundle's own file under another name
    onnx.save(model, file)
    assert make(capsys, "--check", repository)[0] == 0


def test_half_precision_belongs_on_a_gpu(bundle_copy, tmp_path, capsys):
    with_its_checksums(bundle_copy, precision="bf16")
    for options, is_said in (((), True), (("--gpus", 1), False)):
        out = tmp_path / f"repo{len(options)}"
        code, printed = make(capsys, f"m={bundle_copy}", "--out", out, *options)
        assert code == 0 and ("give --gpus 1" in printed.err) == is_said


@needs_triton
def test_a_real_triton_accepts_what_is_written(tiny_bundle, tmp_path, capsys):
    out = tmp_path / "repo"
    assert make(capsys, f"cpu={tiny_bundle}", f"other={tiny_bundle}", "--out", out, "--instances", 2)[0] == 0
    judge = oracle()
    assert judge.verdicts(out, Path(SERVER)) == dict.fromkeys(("cpu", "other"), judge.ACCEPTED)
    gpu = tmp_path / "gpu"
    assert make(capsys, f"one={tiny_bundle}", "--out", gpu, "--gpus", 1, "--max-batch", 1)[0] == 0
    assert judge.verdicts(gpu, Path(SERVER)) == {"one": judge.ACCEPTED}


@needs_triton
@pytest.mark.parametrize("what", CHANGES)
def test_a_real_triton_agrees_on_faults(repository, what):
    """As far as it looks before a backend has the model: the rest is why the graph is compared here."""
    change(repository, *CHANGES[what][:2])
    judge = oracle()
    (said,) = judge.verdicts(repository, Path(SERVER)).values()
    if what in TRITON_SEES:
        assert TRITON_SEES[what] in said
    else:
        assert said == judge.ACCEPTED


SEEN_WITH_A_BACKEND = {
    "a GPU for the CPU": "KIND_CPU but specifies one or more GPUs",
    "a warm-up without data": "to have input_data_type set",
    "a warm-up of another type": "unexpected shape for input",
    "a warm-up file that is short": "expects 512 bytes",
    "labels that are not there": "nowhere.txt: No such file",
}


@needs_triton
def test_a_real_triton_runs_the_warm_up(written, tmp_path):
    """With its python backend in the place of ONNX Runtime's, and the rest of the configuration as it is."""
    folder = real_triton.with_python_backend(written, tmp_path / "repo")
    with (
        real_triton.serving(folder, tmp_path) as (address, _),
        urllib.request.urlopen(f"http://{address}/v2/models/stats", timeout=10) as answer,
    ):
        (counts,) = json.load(answer)["model_stats"]
    assert counts["inference_count"] == 2 * 1 + 2 * 8
    assert [entry["batch_size"] for entry in counts["batch_stats"]] == [1, 8]


@needs_triton
@pytest.mark.parametrize("what", SEEN_WITH_A_BACKEND)
def test_a_real_triton_with_a_backend_sees_more_faults(repository, tmp_path, what):
    change(repository, *CHANGES[what][:2])
    folder = real_triton.with_python_backend(repository, tmp_path / "changed")
    with pytest.raises(AssertionError, match="failed to load all models"), real_triton.serving(folder, tmp_path):
        pass
    assert SEEN_WITH_A_BACKEND[what] in (tmp_path / "triton.log").read_text()


def test_the_seal_names_every_file(written):
    sealed = json.loads((written / "seal.json").read_text())
    assert set(sealed) == set(contents(written)) - {"seal.json"}
