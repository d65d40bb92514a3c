"""The whole chain as a user runs it: optimize, export, check, bench; killed and interrupted runs; a process without axform."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from axform.core.bounds import keeps_bound, smallest_accepted
from axform.exporters.export import export
from axform.runtime import load_session
from axform.runtime.bundle import Bundle
from axform.runtime.check_data import CheckData
from axform.runtime.latency import bench_bundle, ratio_interval
from axform.runtime.parity import check_bundle, numeric_parity
from axform.toolchain.run_folder import RunFolder
from support import run_command

SLOW_CLI = """
import time
from axform.cli import main
from axform.toolchain.evaluation import Evaluator

measure = Evaluator.measure_trial
Evaluator.measure_trial = lambda *arguments: (time.sleep(0.1), measure(*arguments))[1]
main()
"""
"""The same command with trials slow enough to be stopped in time on a busy machine; it measures the same."""


def test_the_finished_run_kept_its_promises(finished):
    run, _ = finished
    record = RunFolder(run).read_record()
    assert record.report.before > 0.8, "the tiny task must be learnable for this test to mean anything"
    assert record.round >= 1 and keeps_bound(record.acceptance, record.options.max_drop, record.options.focus)
    assert RunFolder(run).read_plan().changes() > 0
    before, after = (
        (decided + judged.metric) / 2
        for decided, judged in ((record.acceptance.before, record.baseline), (record.acceptance.after, record.final))
    )
    assert after >= smallest_accepted(before, record.options.max_drop, record.options.focus)


def test_bundle_files_and_sizes(finished):
    bundle = Bundle(finished[1])
    names = {path.name for path in finished[1].iterdir()}
    assert {"model.onnx", "baseline.onnx", "axform.json", "check.npz", "config.json", "tokenizer.json"} <= names
    assert bundle.manifest.model_size.parameters < bundle.manifest.baseline_size.parameters
    removed = sum(rewrite.parameters_removed for rewrite in bundle.manifest.rewrites)
    assert bundle.manifest.baseline_size.parameters - bundle.manifest.model_size.parameters == removed
    for name in ("model.onnx", "baseline.onnx"):
        onnx.checker.check_model(str(finished[1] / name), full_check=True)


def test_check_passes_and_is_recorded(finished, tmp_path):
    folder = Path(shutil.copytree(finished[1], tmp_path / "bundle"))
    report = check_bundle(Bundle(folder))
    assert report.passed and report.numeric.samples == 64 and report.task.samples == 80
    assert report.task.baseline == pytest.approx(RunFolder(finished[0]).read_record().report.before)
    assert Bundle(folder).manifest.results["check"]["passed"] is True


def test_check_fails_on_a_wrong_model(finished, tmp_path):
    data = CheckData.load(finished[1] / "check.npz")
    data.references[3].outputs["logits"][1] += 0.01
    parity = numeric_parity(onnxruntime.InferenceSession(finished[1] / "model.onnx"), data)
    assert not parity.passed and parity.max_abs_error == pytest.approx(0.01, abs=1e-4)
    assert parity.worst_sample == data.references[3].indices[1]


def test_reference_batches_are_mixed(finished):
    data = CheckData.load(finished[1] / "check.npz")
    lengths = data.split.lengths
    sizes = {len(reference.indices) for reference in data.references}
    assert {1, 2, 3, 8, 17, 32} == sizes
    seen = np.concatenate([reference.indices for reference in data.references])
    assert lengths[seen].min() == lengths.min() and lengths[seen].max() == lengths.max()
    assert any(np.ptp(lengths[reference.indices]) > 0 for reference in data.references)


def test_bench_reports_every_shape(finished, tmp_path):
    folder = Path(shutil.copytree(finished[1], tmp_path / "bundle"))
    report = bench_bundle(Bundle(folder), [1, 2], [8, 16], runs=10, threads=1)
    assert [(s.batch, s.sequence, s.runs) for s in report.shapes] == [(1, 8, 10), (1, 16, 10), (2, 8, 10), (2, 16, 10)]
    for shape in report.shapes:
        assert shape.model.p10 <= shape.model.median <= shape.model.p90 <= shape.model.p99
        assert shape.ratio_low <= shape.ratio <= shape.ratio_high
    assert Bundle(folder).manifest.results["bench"]["threads"] == 1


def test_ratio_interval_covers_the_true_ratio():
    noise = np.random.default_rng(1)
    low, high = ratio_interval(2 * noise.lognormal(0, 0.1, 400), noise.lognormal(0, 0.1, 400))
    assert low < 2 < high and high - low < 0.1


def test_plain_onnxruntime_without_axform_runs_the_model(finished, tmp_path):
    session = load_session(finished[1], "cpu")
    feeds = {entry.name: np.ones((2, 5), dtype=np.int64) for entry in session.get_inputs()}
    wanted = session.run(None, feeds)[0]
    script = """
import sys
sys.modules["axform"] = None  # importing it fails, as where it is not installed
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
feeds = {entry.name: numpy.ones((2, 5), dtype=numpy.int64) for entry in session.get_inputs()}
numpy.save(sys.argv[2], session.run(None, feeds)[0])
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script, finished[1] / "model.onnx", tmp_path / "out.npy"], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), wanted)


def test_serving_imports_neither_torch_nor_transformers(finished):
    script = """
import sys
from axform.runtime import load_session
load_session(sys.argv[1])
heavy = {"torch", "transformers", "onnx", "axform.exporters", "datasets", "pandas", "sklearn", "scipy"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", script, finished[1]], check=True)


def test_large_weights_go_beside_the_file(finished, tmp_path):
    bundle, _ = export(finished[0], tmp_path / "bundle", external_data_above=1000)
    assert (tmp_path / "bundle" / "model.onnx.data").stat().st_size > 1000
    assert "model.onnx.data" in bundle.manifest.files
    assert check_bundle(bundle).passed


def test_optimum_finds_the_command():
    pytest.importorskip("optimum.commands.register.register_axform", reason="axform is not installed, only on the path")
    result = subprocess.run(
        [sys.executable, "-c", "from optimum.commands.optimum_cli import main; main()", "export", "axform", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--heads" in result.stdout


@pytest.fixture(scope="module")
def command(finished, sentiment):
    """Arguments of a run with about a hundred trials and no training, without the value of --out."""
    options = "--task text-classification --focus size --final-epochs 0 --group-size 2"
    thresholds = "--prune-threshold 0.001 --approximate-threshold 10 --max-drop 0.1"
    model = str(finished[0] / "baseline")
    return ["optimize", model, "--data", str(sentiment), *options.split(), *thresholds.split(), "--out"]


def wait_for_trials(process: subprocess.Popen, journal: Path, count: int) -> None:
    while not journal.exists() or journal.read_bytes().count(b"\n") <= count:
        assert process.poll() is None, "the search ended before it could be stopped"
        time.sleep(0.002)


def test_an_interrupted_run_says_how_to_continue_and_ends_in_the_same_plan(command, tmp_path, capsys):
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    assert run_command(capsys, *command, undisturbed)[0] == 0
    trials = RunFolder(undisturbed).read_record().trials
    moment = random.Random(time.time_ns()).randrange(2, trials - 20)

    # A test run started in the background ignores interrupts, and so would its children.
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_CLI, *command, disturbed],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for_trials(process, disturbed / "trials.jsonl", moment)
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate()
    assert process.returncode == 130
    assert "interrupted; the state is kept, continue with:" in messages and "--resume" in messages
    assert "Traceback" not in messages
    assert not (disturbed / "run.json").exists()

    assert run_command(capsys, *command, disturbed, "--resume")[0] == 0
    assert RunFolder(undisturbed).read_plan() == RunFolder(disturbed).read_plan(), moment
    for journal in undisturbed.glob("*.jsonl"):  # what goes, and in how few bits the rest is told
        wanted, found = (
            [json.loads(line)["trial"] for line in (run / journal.name).read_text().splitlines()[1:]]
            for run in (undisturbed, disturbed)
        )
        assert found == wanted == list(range(len(found)))
