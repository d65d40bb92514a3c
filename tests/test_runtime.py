"""Sessions, check and bench on bundles of all kinds: what runs is what was asked for, and nothing measured is lost."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from axform import custom_ops
from axform.core.batches import EncodedSplit
from axform.errors import AxformError
from axform.runtime import latency, load_session
from axform.runtime.bundle import Bundle
from axform.runtime.check_data import CheckData, ReferenceBatch
from axform.runtime.latency import LatencyReport, bench_bundle, bench_files, ratio_interval
from axform.runtime.parity import ParityReport, check_bundle, numeric_parity
from axform.runtime.session import create_session
from axform.summaries import bench_tables, check_tables
from bundles import with_its_checksums
from support import run_command

CPU, CUDA, OPENVINO = "CPUExecutionProvider", "CUDAExecutionProvider", "OpenVINOExecutionProvider"


def folded(text: str) -> str:
    return " ".join(text.split())


def shown(tables: list[Any]) -> str:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=200)
    for table in tables:
        console.print(table)
    return folded(console.file.getvalue())


def strict_json(path: Path) -> Any:
    def refuse(name: str) -> float:
        raise AssertionError(f"{path} holds {name}, which is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


needs_library = pytest.mark.skipif(not custom_ops.is_available(), reason="the op library was not built")


# Providers


@pytest.fixture(params=["silently", "with an error"])
def no_driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime-gpu on a machine without a driver: CUDA is offered and does not start, in either of its two ways."""
    open_session = onnxruntime.InferenceSession

    def start(path: str, options: Any, providers: list[str], enable_fallback: int = 1, **_: Any) -> Any:
        if CUDA in providers and request.param == "with an error":
            if not enable_fallback:
                raise RuntimeError("CUDA failure 100: no CUDA-capable device is detected")
            print("*************** EP Error ***************")
        return open_session(path, options, providers=[CPU])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", start)


def test_cuda_that_does_not_start_is_an_error_and_not_the_cpu(capsys, bundle_copy, no_driver):
    for command in (["check"], ["bench", "--seq", "4", "--runs", "1"]):
        code, captured = run_command(capsys, command[0], bundle_copy, *command[1:], "--provider", "cuda")
        assert code == 2 and "see that nvidia-smi finds the GPU" in captured.err and "take provider cpu" in captured.err
    assert Bundle(bundle_copy).manifest.results == {}


def test_auto_falls_back_to_the_cpu_and_says_so(capsys, bundle_copy, no_driver):
    checked = check_bundle(Bundle(bundle_copy))
    timed = bench_bundle(Bundle(bundle_copy), [1], [4], runs=1)
    assert checked.provider == timed.provider == "CPU"
    assert "EP Error" not in capsys.readouterr().out
    assert {name: result["provider"] for name, result in Bundle(bundle_copy).manifest.results.items()} == {
        "check": "CPU",
        "bench": "CPU",
    }
    assert "CPU" in shown(check_tables(checked))


def test_openvino_that_is_not_installed(capsys, bundle_copy):
    for command in (["check"], ["bench", "--seq", "4", "--runs", "1"]):
        code, captured = run_command(capsys, command[0], bundle_copy, *command[1:], "--provider", "openvino")
        assert code == 2 and "install the package onnxruntime-openvino" in folded(captured.err)
    assert Bundle(bundle_copy).manifest.results == {}


@pytest.fixture
def openvino(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """onnxruntime-openvino as far as its Python side goes; the list gets the arguments of each session."""
    open_session, calls = onnxruntime.InferenceSession, []

    def start(path: str, options: Any, **given: Any) -> Any:
        calls.append(given)
        session = open_session(path, options, providers=[CPU])
        session.get_providers = lambda: given["providers"]
        return session

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [OPENVINO, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", start)
    return calls


def test_openvino_is_told_its_device_and_threads_and_never_chosen_by_itself(bundle_copy, openvino):
    timed = bench_bundle(Bundle(bundle_copy), [1], [4], runs=1, threads=2, provider="openvino")
    assert timed.provider == "OpenVINO"
    for call in openvino:
        assert call["providers"] == [OPENVINO, CPU]
        assert call["provider_options"] == [{"device_type": "CPU", "num_of_threads": "2"}, {}]
    openvino.clear()
    create_session(bundle_copy / "model.onnx")
    assert openvino[0]["providers"] == [CPU]


def test_an_operator_that_openvino_lacks_names_the_older_opset(bundle_copy, openvino, monkeypatch):
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("OpenVINO does not support the following ONNX operations: Attention")

    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    with pytest.raises(AxformError, match=r"Attention.*export again with --opset 22, or take provider cpu"):
        create_session(bundle_copy / "model.onnx", "openvino")


@pytest.mark.parametrize("provider", ["CUDA", "tpu", "", None])
def test_unknown_provider(tiny_bundle, provider):
    with pytest.raises(AxformError, match=r"not known; known are auto, cpu, cuda, openvino\."):
        load_session(tiny_bundle, provider=provider)


# The op library and the function bodies


@needs_library
def test_check_proves_the_kernels_and_the_function_bodies(bundle_copy):
    report = check_bundle(Bundle(bundle_copy))
    assert report.passed and report.bodies is not None and report.bodies.passed
    assert shown(check_tables(report)).count("passed") == 3
    assert Bundle(bundle_copy).manifest.results["check"]["bodies"]["samples"] == 24


@needs_library
def test_a_wrong_function_body_fails_the_check(bundle_copy):
    model = onnx.load(bundle_copy / "model.onnx")
    (function,) = model.functions
    last = next(node for node in function.node if function.output[0] in node.output)
    last.output[0] = "right"
    function.node.append(onnx.helper.make_node("Neg", ["right"], [function.output[0]]))
    onnx.save(model, bundle_copy / "model.onnx")
    report = check_bundle(with_its_checksums(bundle_copy))
    assert report.numeric.passed and report.task.passed
    assert not report.bodies.passed and not report.passed
    assert "without the op library" in shown(check_tables(report))
    assert Bundle(bundle_copy).manifest.results["check"]["passed"] is False


def test_without_the_library_the_bodies_are_the_numbers(bundle_copy, monkeypatch):
    monkeypatch.setattr(custom_ops, "is_available", lambda: False)
    report = check_bundle(Bundle(bundle_copy))
    assert report.passed and report.bodies is None


def test_a_library_that_cannot_be_loaded_leaves_the_function_bodies(capsys, tiny_bundle, tmp_path, monkeypatch, caplog):
    feeds = CheckData.load(tiny_bundle / "check.npz").split.batch([0, 1])
    wanted = create_session(tiny_bundle / "model.onnx", op_library=False).run(None, feeds)[0]
    (tmp_path / "wrong.so").write_text("text")
    monkeypatch.setenv("AXFORM_OPS_LIBRARY", str(tmp_path / "wrong.so"))
    for _ in range(2):
        np.testing.assert_array_equal(load_session(tiny_bundle).run(None, feeds)[0], wanted)
    assert len(caplog.records) == 1 and "wrong.so cannot be loaded" in caplog.text
    code, captured = run_command(capsys, "ops")
    assert code == 0 and "no op library:" in captured.out and "wrong.so cannot be loaded" in captured.out


def test_the_accuracy_focus_may_not_lose_within_max_drop(bundle_copy):
    bundle = Bundle(bundle_copy)
    plan = bundle.manifest.plan
    lenient = check_bundle(bundle)
    assert lenient.task.model < lenient.task.baseline and lenient.passed
    strict = check_bundle(with_its_checksums(bundle_copy, plan=plan.model_copy(update={"focus": "accuracy"})))
    assert strict.numeric.passed and not strict.task.passed and not strict.passed
    assert strict.task.bound == strict.task.baseline


# Recording results


@pytest.mark.parametrize("refusing", ["filelock.FileLock.acquire", "tempfile.mkstemp"])
@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_bundle_that_may_only_be_read_is_checked_and_timed(capsys, bundle_copy, monkeypatch, refusing, number):
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))  # tests may run as root, who may write anywhere

    before = (bundle_copy / "axform.json").read_bytes()
    monkeypatch.setattr(refusing, refuse)
    for command in (["check"], ["bench", "--batch", "1", "--seq", "4", "--runs", "1"]):
        code, captured = run_command(capsys, command[0], bundle_copy, *command[1:])
        assert code == 0 and "not recorded in the bundle" in folded(captured.out)
        assert os.strerror(number) in folded(captured.out)
    assert (bundle_copy / "axform.json").read_bytes() == before


def test_concurrent_results_are_all_kept(bundle_copy):
    def record(number: int) -> str | None:
        return Bundle(bundle_copy).save_result(f"result {number}", {"number": number})

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(record, range(24))) == [None] * 24
    assert len(Bundle(bundle_copy).manifest.results) == 24


def test_results_of_others_survive(bundle_copy):
    opened_early = Bundle(bundle_copy)
    assert check_bundle(Bundle(bundle_copy)).not_recorded is None
    assert opened_early.save_result("bench", {"shapes": []}) is None
    assert set(Bundle(bundle_copy).manifest.results) == {"check", "bench"}


def test_a_result_is_not_recorded_for_another_export(bundle_copy):
    opened_early = Bundle(bundle_copy)
    (bundle_copy / "config.json").write_text("{}")
    with_its_checksums(bundle_copy)
    assert "was exported anew meanwhile" in opened_early.save_result("check", {})
    assert Bundle(bundle_copy).manifest.results == {}


def test_infinity_is_written_and_read_back(bundle_copy):
    data = CheckData.load(bundle_copy / "check.npz")
    data.references[0].outputs["logits"][:] = np.nan
    data.save(bundle_copy / "check.npz")
    bundle = with_its_checksums(bundle_copy, run={"loss": float("nan")})
    report = check_bundle(bundle)
    assert report.numeric.max_abs_error == np.inf and not report.passed
    assert strict_json(bundle_copy / "axform.json")["run"] == {"loss": "NaN"}
    recorded = Bundle(bundle_copy).manifest.results["check"]
    assert ParityReport.model_validate(recorded).numeric.max_abs_error == np.inf
    assert json.loads(report.model_dump_json())["numeric"]["max_abs_error"] == "Infinity"


def test_hidden_states_are_compared_in_every_precision():
    random = np.random.default_rng(0)
    samples = [np.arange(length) for length in (3, 5, 9)]
    split = EncodedSplit({"input_ids": samples}, np.zeros(3, np.int64), {"input_ids": 0})
    batches = [np.array([0]), np.array([1, 2])]
    hidden = [random.normal(0, 2, (len(batch), length, 400)) for batch, length in zip(batches, (3, 9), strict=True)]
    references = [ReferenceBatch(batch, {"hidden_states.0": each}) for batch, each in zip(batches, hidden, strict=True)]

    class Session:
        def run(self, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [hidden[0 if len(feeds["input_ids"]) == 1 else 1] + 0.25]

    for precision, share in (("int8", 0.5), ("fp16", 0.1), ("float32", 0.0)):
        numeric = numeric_parity(Session(), CheckData(split, references), precision)
        assert numeric.tolerance == pytest.approx(2 * share, abs=0.1) and numeric.max_abs_error == pytest.approx(0.25)
        assert numeric.passed == (precision == "int8")


@pytest.mark.parametrize(("error", "passes"), [(0.05, True), (3.0, False)])
def test_a_single_row_has_a_tolerance_in_int8_too(error, passes):
    split = EncodedSplit({"input_ids": [np.arange(3)]}, np.zeros(1, np.int64), {"input_ids": 0})
    answers = np.array([[2.0, -1.0]])

    class Session:
        def run(self, *_: object) -> list[np.ndarray]:
            return [answers + error]

    references = [ReferenceBatch(np.arange(1), {"logits": answers})]
    assert numeric_parity(Session(), CheckData(split, references), "int8").passed == passes


@pytest.mark.parametrize(
    ("size", "error", "passes"), [(1.0, 9e-5, True), (1.0, 2e-4, False), (2e4, 0.1, True), (2e4, 0.3, False)]
)
def test_a_regression_may_answer_in_thousands(size, error, passes):
    """float32 has seven digits, whatever the numbers are."""
    split = EncodedSplit({"input_ids": [np.arange(3)] * 2}, np.zeros(2, np.float32), {"input_ids": 0})
    answers = size * np.array([[0.5], [-1.0]])

    class Session:
        def run(self, *_: object) -> list[np.ndarray]:
            return [answers + error]

    references = [ReferenceBatch(np.arange(2), {"logits": answers})]
    numeric = numeric_parity(Session(), CheckData(split, references))
    assert numeric.passed == passes and numeric.changed is None


# Options


@pytest.mark.parametrize("threads", [0, -1, 100_000, 2.5, True, "2"])
def test_threads_out_of_range(tiny_bundle, threads):
    for call in (load_session, lambda path, threads: check_bundle(Bundle(path), threads=threads)):
        with pytest.raises(AxformError, match=f"threads {threads!r}: give "):
            call(tiny_bundle, threads=threads)
    with pytest.raises(AxformError, match=f"threads {threads!r}: give "):
        bench_bundle(Bundle(tiny_bundle), [1], [4], threads=threads)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runs": 0}, "runs 0: give a whole number from 1 on"),
        ({"runs": -5}, "runs -5: give a whole number from 1 on"),
        ({"batches": []}, "give at least one batch size and one sequence length"),
        ({"sequences": []}, "give at least one batch size and one sequence length"),
        ({"batches": [1, 0]}, "--batch 0: give a whole number from 1 on"),
        ({"sequences": [-1]}, "--seq -1: give a whole number from 1 on"),
        ({"sequences": [4, 65]}, "--seq 65: the model takes at most 64 tokens"),
        ({"batches": [10**30]}, r"one activation alone takes .* GB, but this machine has"),
    ],
)
def test_bench_options_out_of_range(tiny_bundle, options, message):
    with pytest.raises(AxformError, match=message):
        bench_bundle(Bundle(tiny_bundle), **{"batches": [1], "sequences": [4], **options})


def test_a_tolerance_is_shown_as_exactly_as_what_it_bounds(bundle_copy):
    report = check_bundle(Bundle(bundle_copy))
    report.numeric.max_abs_error, report.numeric.tolerance = 1.4, 1.46
    assert "1.4e+00 │ 1.5e+00" in shown(check_tables(report))


def test_check_in_batches_of_nothing(tiny_bundle):
    with pytest.raises(AxformError, match="batch_size 0: give a whole number from 1 on"):
        check_bundle(Bundle(tiny_bundle), batch_size=0)


@pytest.mark.parametrize(("runs", "has_interval"), [(1, False), (5, False), (6, True)])
def test_an_interval_only_of_enough_runs(bundle_copy, tmp_path, runs, has_interval):
    report = bench_bundle(Bundle(bundle_copy), [1], [4], runs=runs, threads=1)
    (shape,) = report.shapes
    assert shape.runs == runs and (shape.ratio_low is not None) == (shape.ratio_high is not None) == has_interval
    assert ("too few runs" in shown(bench_tables(report))) != has_interval
    assert LatencyReport.model_validate(Bundle(bundle_copy).manifest.results["bench"]) == report


def test_an_interval_of_many_runs_takes_little_memory(monkeypatch):
    monkeypatch.setattr(latency, "_BOOTSTRAP_SAMPLES", 400)
    random = np.random.default_rng(0)
    baseline, model = random.gamma(5, 0.12, 20_000), random.gamma(5, 0.1, 20_000)
    tracemalloc.start()
    low, high = ratio_interval(baseline, model)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 1.17 < low < 1.2 < high < 1.23 and peak < 50e6


def test_a_bundle_of_schema_1_is_read_with_its_plan(bundle_copy):
    path, plan = bundle_copy / "axform.json", Bundle(bundle_copy).manifest.plan
    raw = json.loads(path.read_text())
    del raw["plan"]["parts"]
    raw["plan"] |= {"schema_version": 1, "layers": [{"attention": {"sign_matching": {"k": 2}}, "feed_forward": {}}]}
    path.write_text(json.dumps(raw | {"schema_version": 1, "step": 1, "round": {}, "run": {}}))
    assert Bundle(bundle_copy).manifest.plan == plan and check_bundle(Bundle(bundle_copy)).numeric.passed
    raw["plan"]["layers"][0]["attention"]["skipped"] = True
    path.write_text(json.dumps(raw))
    with pytest.raises(
        AxformError, match=r"damaged \(plan: layer.0.attn: remove and layer.0.attn: attention .* contradict"
    ):
        Bundle(bundle_copy)


# Any two files


def one_node(path: Path, *, kind: int = onnx.TensorProto.FLOAT, size: str | int = "width") -> Path:
    """A model without a single word of axform: y = x + x, (batch, size)."""
    sides = [onnx.helper.make_tensor_value_info(name, kind, ["batch", size]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "x"], ["y"])], "add", sides[:1], sides[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_bench_times_any_two_files(tiny_bundle, capsys):
    files = [tiny_bundle / "baseline.onnx", tiny_bundle / "model.onnx"]
    code, captured = run_command(capsys, "bench", *files, "--batch", 2, "--seq", 4, "--runs", 6, "--threads", 1)
    shown_text = folded(captured.out)
    assert code == 0 and "2 x 4" in shown_text
    assert all(file.name in captured.out for file in files)


@pytest.mark.parametrize("size", ["width", 7])
def test_bench_makes_up_inputs_of_any_kind(tmp_path, size):
    for number, kind in enumerate((onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.DOUBLE)):
        file = one_node(tmp_path / f"{number}.onnx", kind=kind, size=size)
        report = bench_files(file, file, [3], [5], runs=1, threads=1)
        assert [(shape.batch, shape.sequence) for shape in report.shapes] == [(3, 5)]


def test_files_of_one_size_are_timed_at_no_other(tmp_path):
    sides = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [2, 16]) for name in ("input_ids", "logits")
    ]
    node = onnx.helper.make_node("Add", ["input_ids", "input_ids"], ["logits"])
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "add", sides[:1], sides[1:]),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=10,
    )
    file = tmp_path / "fixed.onnx"
    onnx.save(model, file)
    for batch, sequence, message in ((8, 16, "--batch 8: .* give --batch 2"), (2, 32, "--seq 32: .* give --seq 16")):
        with pytest.raises(AxformError, match=message):
            bench_files(file, file, [batch], [sequence], runs=1, threads=1)
    assert bench_files(file, file, [2], [16], runs=1, threads=1).shapes[0].sequence == 16


def test_files_that_bench_cannot_compare(tmp_path, capsys):
    file, other = one_node(tmp_path / "a.onnx"), one_node(tmp_path / "b.onnx", kind=onnx.TensorProto.INT64)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    for files, message in (
        ((file,), "one file has nothing to be compared with; name a second one, or a bundle folder"),
        ((file, other), "take different inputs (x: tensor(float); x: tensor(int64))"),
        ((file, tmp_path / "none.onnx"), "no such file; give two .onnx files, or a bundle folder alone"),
        ((file, tmp_path), "no such file; give two .onnx files, or a bundle folder alone"),
        ((file, broken), "onnxruntime cannot load it"),
        ((file, file, "--json", tmp_path), "is a folder; name a file"),
    ):
        code, captured = run_command(capsys, "bench", *files, "--runs", 1)
        assert code == 2 and message in folded(captured.err), captured.err


@pytest.mark.skipif(sys.platform != "linux", reason="where onnxruntime keeps its identifier on Linux is what is known")
def test_onnxruntime_sends_nothing_about_a_session(tiny_bundle, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}

    def left_behind(statement: str, home: Path) -> list[Path]:
        home.mkdir()
        script = f"bundle = {str(tiny_bundle)!r}\n{statement}"
        subprocess.run(
            [sys.executable, "-c", script],
            env=environment | {"HOME": str(home), "XDG_CACHE_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
        )
        return list(home.rglob("*onnxruntime*"))

    assert (
        left_behind("from axform.runtime import load_session; load_session(bundle, 'cpu', 1)", tmp_path / "ours") == []
    )
    by_itself = "import onnxruntime; onnxruntime.InferenceSession(bundle + '/baseline.onnx')"
    if not left_behind(by_itself, tmp_path / "theirs"):
        pytest.skip("this onnxruntime leaves no identifier of its own")
