"""The latency gate: how often it is wrong, what it compares, and what a user sees of it."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from itertools import pairwise
from math import log
from pathlib import Path

import numpy as np
import onnx
import pytest
from axform import cli
from axform.errors import AxformError
from axform.runtime import gate as gates
from axform.runtime.bundle import Bundle
from axform.runtime.gate import gate
from axform.runtime.gate_history import append_verdict, read_verdicts
from axform.runtime.latency import bench_bundle
from axform.runtime.verdicts import bounds_of, judge, worst
from support import run_command

pytest_plugins = ["pytester"]
IS_INSTALLED = any(entry.value == "axform.pytest_plugin" for entry in entry_points(group="pytest11"))
PLUGIN = () if IS_INSTALLED else ("-p", "axform.pytest_plugin")
QUIET, NOISY = 0.001, -0.1
"""How far the reference is from itself."""


def chain(path: Path, products: int) -> Path:
    """A model that multiplies by a matrix so many times."""
    sides = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["batch", 128]) for n in ("x0", "y")]
    weights = np.random.default_rng(0).normal(size=(128, 128)).astype(np.float32) / 12
    names = [f"x{number}" for number in range(products)] + ["y"]
    nodes = [onnx.helper.make_node("MatMul", [a, "w"], [b]) for a, b in pairwise(names)]
    tensors = [onnx.numpy_helper.from_array(weights, "w")]
    graph = onnx.helper.make_graph(nodes, "chain", sides[:1], sides[1:], tensors)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10), path)
    return path


# Statistics


@pytest.mark.parametrize("spread", [0.002, 0.02])
def test_verdicts_at_the_edge_are_wrong_no_more_often_than_promised(spread):
    """The true change is exactly what is tolerated: both PASS and FAIL are wrong, each in alpha of the cases at most."""
    random, alpha, cases = np.random.default_rng(5), 0.02, 4000
    found = [judge(bounds_of(random.normal(log(1.05), spread, 12), alpha), QUIET, 0.05) for _ in range(cases)]
    limit = alpha * cases + 3 * np.sqrt(alpha * cases)
    assert 0.2 * alpha * cases < found.count("FAIL") < limit and 0.2 * alpha * cases < found.count("PASS") < limit


@pytest.mark.parametrize(("change", "verdict"), [(-0.1, "PASS"), (0.0, "PASS"), (0.1, "FAIL"), (0.3, "FAIL")])
def test_clear_changes_are_told(change, verdict):
    logs = np.random.default_rng(0).normal(log(1 + change), 0.01, 12)
    assert judge(bounds_of(logs, 0.005), QUIET, 0.05) == verdict


def test_a_machine_that_does_not_agree_with_itself_judges_nothing():
    for change in (-0.5, 0.0, 0.5):
        assert judge(bounds_of(np.full(12, change), 0.01), NOISY, 0.05) == "UNDECIDED"


def test_how_a_session_lies_in_memory_is_in_the_bounds(monkeypatch):
    """Slower by exactly what is tolerated, in sessions that are 5 % faster or slower for as long as they live: with one
    session for a look, every other verdict would be wrong."""
    clock, random = [0], np.random.default_rng(0)
    monkeypatch.setattr(gates.time, "perf_counter_ns", lambda: clock[0])
    monkeypatch.setattr(gates.time, "perf_counter", lambda: clock[0] / 1e9)

    def opened(slower=1.0):
        luck = slower * np.exp(random.normal(0, 0.05))

        def run():
            clock[0] += int(1e6 * luck * np.exp(random.normal(0, 0.01)))

        return run

    sides = [lambda: opened(1.05), opened, opened]
    found = [gates.judge_runners(sides, (1, 8), seconds=0.1, seed=seed).verdict for seed in range(200)]
    assert found.count("FAIL") <= 6 and found.count("PASS") <= 6


def test_bounds_are_student_s():
    """Against the closed form for two blocks, whose t distribution is Cauchy's."""
    bounds = bounds_of(np.array([1.0, 3.0]), 0.05)
    assert bounds.mean == 2 and bounds.high - 2 == pytest.approx(np.tan(np.pi * 0.45)) == 2 - bounds.low


def test_the_worst_verdict_counts():
    assert worst(["PASS", "UNDECIDED", "PASS"]) == "UNDECIDED" and worst(["UNDECIDED", "FAIL", "PASS"]) == "FAIL"
    assert worst(["PASS"]) == "PASS"


# What is compared


def test_a_model_of_twice_the_work_fails_and_the_same_one_passes(tmp_path):
    work, double = chain(tmp_path / "a.onnx", 40), chain(tmp_path / "b.onnx", 80)
    options = {"batches": [16], "sequences": [1], "threads": 1, "seconds": 1.0, "max_regression": 0.4}
    slower = gate(double, work, **options)
    assert slower.verdict == "FAIL" and 0.5 < slower.shapes[0].slowdown < 1.6
    assert gate(work, double, **options).verdict == gate(work, work, **options).verdict == "PASS"


@pytest.fixture
def measured(monkeypatch):
    """What each look at a shape measures is given: (log of candidate over reference, log of reference over itself)."""

    def give(*looks):
        left = list(looks)

        def blocks(runners, seconds, seed):
            change, noise = left.pop(0)
            wobble = np.resize([0.0001, -0.0001], 12)
            return 60, np.exp(np.stack([change + wobble, np.zeros(12), noise + wobble]))

        monkeypatch.setattr(gates, "_blocks", blocks)
        return left

    return give


def test_an_undecided_look_is_followed_by_one_fresh_one(measured, tiny_bundle):
    at_the_edge = (log(1.05), 0.0)
    for looks, verdict, taken in (
        ([(0.0, 0.0)], "PASS", 1),
        ([at_the_edge, (0.0, 0.0)], "PASS", 2),
        ([at_the_edge, (0.2, 0.0)], "FAIL", 2),
        ([at_the_edge, at_the_edge], "UNDECIDED", 2),
        ([(0.0, 0.3), (0.0, 0.3)], "UNDECIDED", 2),
    ):
        left = measured(*looks)
        report = gate(tiny_bundle, tiny_bundle, sequences=[8], threads=1)
        assert (report.verdict, report.shapes[0].looks, left) == (verdict, taken, [])


def test_a_bundle_alone_may_not_lose_what_was_recorded(measured, bundle_copy):
    recorded = bench_bundle(Bundle(bundle_copy), [1], [8], runs=6, threads=1).shapes[0].ratio
    for shrunk, verdict in ((1.0, "PASS"), (1.2, "FAIL")):
        measured((log(shrunk / recorded), 0.0))
        report = gate(bundle_copy, sequences=[8], threads=1)
        assert report.verdict == verdict and report.shapes[0].slowdown == pytest.approx(shrunk - 1, abs=1e-3)


def test_what_the_gate_cannot_compare(tiny_bundle, bundle_copy, tmp_path, capsys):
    bench_bundle(Bundle(bundle_copy), [1], [8], runs=1, threads=1)
    file = chain(tmp_path / "a.onnx", 2)
    plot, history = tmp_path / "p.svg", tmp_path / "history.jsonl"
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{}\n")
    for words, message in (
        (
            (tiny_bundle, "--threads", 1),
            "no latency is recorded at batch 1 and 128 tokens; record it with `axform bench",
        ),
        ((bundle_copy, "--seq", 8, "--threads", 2), "was recorded with 1 threads, asked for are 2; give --threads 1"),
        ((file,), "a file alone has nothing to be compared with; give --reference"),
        ((file, "--reference", tmp_path / "none.onnx"), "no such file; name a bundle folder or an .onnx file"),
        ((tiny_bundle, "--reference", tmp_path), "not a bundle"),
        ((tiny_bundle, "--max-regression", 0), "--max-regression 0: give a share above 0, e.g. 0.05 for 5 %"),
        ((tiny_bundle, "--alpha", 1), "--alpha 1: give the chance of a wrong verdict, between 0 and 0.5"),
        ((tiny_bundle, "--seconds", 0), "--seconds 0: give a time above 0"),
        ((tiny_bundle, "--plot", plot), "draws a history; name its file with --history"),
        (
            (tiny_bundle, "--reference", tiny_bundle, "--history", history, "--plot", tmp_path / "p.docx"),
            "name a file that ends in .svg, .png or .pdf",
        ),
        ((tiny_bundle, "--reference", tiny_bundle, "--history", history, "--plot", tmp_path / "p"), "name a file that"),
        ((tiny_bundle, "--history", broken), "broken.jsonl, line 1: not a verdict of axform gate"),
        ((tiny_bundle, "--history", tmp_path / "no" / "h.jsonl"), "there is no folder"),
    ):
        code, captured = run_command(capsys, "gate", *words, app=cli)
        assert code == 2 and message in " ".join(captured.err.split()), captured.err
    assert broken.read_text() == "{}\n" and not plot.exists() and not history.exists()


def test_a_gain_recorded_elsewhere_is_nothing_to_compare_with(measured, bundle_copy):
    bundle = Bundle(bundle_copy)
    bench_bundle(bundle, [1], [8], runs=6, threads=1)
    recorded = bundle.manifest.results["bench"]
    for result, message in (
        (
            recorded | {"provider": "CUDA"},
            "was recorded on CUDA, and this is CPU; give --provider cuda, or record it anew",
        ),
        ({"shapes": "of another version"}, "no latency is recorded at batch 1 and 8 tokens"),
    ):
        bundle.save_result("bench", result)
        measured((0.0, 0.0))
        with pytest.raises(AxformError, match=message):
            gate(bundle_copy, sequences=[8], threads=1)


# What a user sees


@pytest.mark.parametrize(
    ("change", "code", "verdict"), [(0.0, 0, "PASS"), (0.3, 1, "FAIL"), (log(1.05), 3, "UNDECIDED")]
)
def test_the_command_ends_with_the_verdict(measured, tiny_bundle, tmp_path, capsys, change, code, verdict):
    files = {
        flag: tmp_path / name for flag, name in (("--json", "g.json"), ("--history", "h.jsonl"), ("--plot", "h.svg"))
    }
    words = ["gate", tiny_bundle, "--reference", tiny_bundle, "--seq", "8,16", "--threads", 1]
    for run in (1, 2):
        measured(*[(change, 0.0)] * 4)
        found, captured = run_command(capsys, *words, *(word for pair in files.items() for word in pair), app=cli)
        assert found == code and captured.out.count(verdict) >= 2
        assert len(read_verdicts(files["--history"])) == run
    assert json.loads(files["--json"].read_text())["verdict"] == verdict
    assert read_verdicts(files["--history"])[1].report.verdict == verdict
    assert "1 x 16" in files["--plot"].read_text() or files["--plot"].stat().st_size > 5000


def test_a_history_keeps_what_is_there(measured, tiny_bundle, tmp_path):
    measured((0.0, 0.0))
    report = gate(tiny_bundle, tiny_bundle, sequences=[8], threads=1)
    file = tmp_path / "h.jsonl"
    append_verdict(report, file)
    before = file.read_text()
    append_verdict(report, file)
    assert file.read_text().startswith(before) and [past.report for past in read_verdicts(file)] == [report, report]
    file.write_text(before.rstrip("\n"))
    append_verdict(report, file)
    assert [past.report for past in read_verdicts(file)] == [report, report]
    for wrong in (b"no json\n", b"\x96\xff\n", b"[" * 100_000):
        file.write_bytes(before.encode() + wrong)
        with pytest.raises(AxformError, match=r"h\.jsonl, line 2: not a verdict"):
            read_verdicts(file)


SUITE = """
import pytest
from axform.runtime import gate

@pytest.mark.parametrize("change", [0.0, 0.3, 0.0488])
def test_latency(axform_gate, monkeypatch, change):
    import numpy as np
    monkeypatch.setattr(gate, "_blocks", lambda *_, **__: (60, np.exp(np.stack(
        [change + np.resize([1e-4, -1e-4], 12), np.zeros(12), np.resize([1e-4, -1e-4], 12)]))))
    axform_gate({bundle!r}, reference={bundle!r}, seq=8, threads=1)
"""


def test_a_suite_gates_latency(pytester, tiny_bundle):
    pytester.makepyfile(SUITE.replace("{bundle!r}", repr(str(tiny_bundle))))
    result = pytester.runpytest_inprocess(*PLUGIN, "--junitxml", "j.xml", "-rs")
    result.assert_outcomes(passed=1, failed=1, skipped=1)
    result.stdout.fnmatch_lines(["*latency gate*", "*PASS at 1 x 8*", "*FAIL at 1 x 8*", "*UNDECIDED at 1 x 8*"])
    assert "axform_gate 1x8" in (pytester.path / "j.xml").read_text()


def test_the_plugin_costs_nothing_while_it_is_not_used(pytester):
    pytester.makepyfile(
        """
        import sys
        def test_nothing_heavy():
            assert not {"onnxruntime", "torch", "scipy", "axform.runtime.gate", "rich"} & set(sys.modules)
        """
    )
    result = pytester.runpytest_subprocess(*PLUGIN)
    result.assert_outcomes(passed=1)
