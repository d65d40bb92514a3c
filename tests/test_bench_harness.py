"""What stands around a timing: the warm-up, memory in processes of their own, bound inputs, CUDA graphs, energy."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from axform.errors import AxformError
from axform.runtime.bundle import Bundle
from axform.runtime.calls import bound_call, random_runner
from axform.runtime.energy import Rapl, find_meter, joules_per_run
from axform.runtime.feeds import ANY_TOKENS, random_feeds
from axform.runtime.footprint import footprint
from axform.runtime.interleaved import time_interleaved, warm_up
from axform.runtime.latency import bench_bundle
from axform.runtime.session import create_session
from axform.summaries import bench_tables
from support import run_command

has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
needs_gpu = pytest.mark.skipif(not has_cuda, reason="onnxruntime-gpu is not installed, or there is no GPU")


# Warm-up


class Simulated:
    """A runner and the clock that it moves on: call ``n`` takes ``seconds(n)``."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.seconds = seconds
        self.now, self.calls = 0.0, 0

    def __call__(self) -> None:
        self.now += self.seconds(self.calls)
        self.calls += 1

    def clock(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("seconds", "calls"),
    [
        (lambda n: 0.01, 6),  # as fast as before at once: two windows
        (lambda n: (0.05, 0.03, 0.02, 0.01, 0.01)[n // 3], 15),  # ever faster up to the fourth window
        (lambda n: 0.01 * 1.1 ** -(n // 3), 30),  # never agrees: ten windows
        (lambda n: 1.0 + n, 3),  # slow: the time is over after one window
    ],
)
def test_the_warm_up_ends_when_calls_are_as_fast_as_before(seconds, calls):
    run = Simulated(seconds)
    assert warm_up([run], run.clock) == run.calls == calls


def test_the_warm_up_waits_for_the_slowest_to_settle():
    shared = Simulated(lambda n: 0.01 if n % 2 == 0 else (0.04, 0.02, 0.01, 0.01)[n // 6])
    assert warm_up([shared, shared], shared.clock) == 12  # the first of both settles after 6


def test_runs_are_counted_after_the_warm_up():
    calls = [0, 0]

    def runner(index: int) -> Callable[[], None]:
        def run() -> None:
            calls[index] += 1

        return run

    times = time_interleaved([runner(0), runner(1)], runs=7)
    assert [one.shape for one in times] == [(7,), (7,)] and calls[0] == calls[1] >= 7 + 3
    assert len(time_interleaved([runner(0)], seconds=60, most=25)[0]) == 25


# Memory


def weights_of(path: Path, megabytes: int) -> Path:
    """A model whose weights take that much."""
    info = onnx.helper.make_tensor_value_info
    values = np.ones((megabytes * 256, 1024), np.float32)
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    sides = info("x", onnx.TensorProto.FLOAT, ["b", len(values)]), info("y", onnx.TensorProto.FLOAT, ["b", 1024])
    graph = onnx.helper.make_graph([node], "g", [sides[0]], [sides[1]], [onnx.numpy_helper.from_array(values, "w")])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from Linux's /proc")
def test_memory_is_that_of_the_file_alone(tmp_path):
    small, large = (footprint(weights_of(tmp_path / f"{size}.onnx", size)) for size in (1, 50))
    assert 45 < large.megabytes - small.megabytes < 170  # the weights, and at most what reading and packing them takes
    assert small.megabytes < 60 and small.seconds > 0
    assert footprint(tmp_path / "none.onnx") is None


def test_bench_shows_and_records_memory(bundle_copy, capsys):
    code, captured = run_command(capsys, "bench", bundle_copy, "--batch", 1, "--seq", 4, "--runs", 1, "--threads", 1)
    recorded = Bundle(bundle_copy).manifest.results["bench"]["resident"]
    text = " ".join(captured.out.split())
    if recorded is None:
        pytest.skip("resident memory is not known here")
    assert code == 0 and len(recorded) == 2 and f"into {recorded[0]:.0f} MB, model in" in text


# Energy


def fake_powercap(folder: Path, largest: int = 10**9) -> Path:
    """Two processors, a part of the first, the machine as a whole, and one that is counted by another interface."""
    names = {"0": "package-0", "1": "package-1", "0:0": "core", "2": "psys"}
    for number, name in names.items():
        domain = folder / f"intel-rapl:{number}"
        domain.mkdir(parents=True)
        (domain / "name").write_text(f"{name}\n")
        (domain / "max_energy_range_uj").write_text(f"{largest}\n")
        (domain / "energy_uj").write_text("0\n")
    (folder / "intel-rapl-mmio:0").mkdir()
    return folder


def spend(folder: Path, number: str, joules: float, largest: int = 10**9) -> None:
    counter = folder / f"intel-rapl:{number}" / "energy_uj"
    counter.write_text(str((int(counter.read_text()) + int(1e6 * joules)) % largest))


def test_energy_is_that_of_all_processors_also_where_a_counter_starts_again(tmp_path):
    largest = 40_000_000
    folder = fake_powercap(tmp_path, largest)

    def run(first: float, second: float) -> None:
        for number, joules in (("0", first), ("1", second), ("0:0", 5), ("2", 7)):
            spend(folder, number, joules, largest)

    meter = Rapl(folder)
    found = joules_per_run([lambda: run(3, 0.5), lambda: run(1, 0.25)], meter, seconds=0)
    assert found == pytest.approx([3.5, 1.25])
    for _ in range(20):  # more than once round, read in between
        run(30, 30)
        last = meter.joules()
    assert last == pytest.approx(3 * (3.5 + 1.25) + 20 * 60)


@pytest.mark.parametrize("content", [None, "no processor", "unreadable", "not a number"])
def test_no_counter_no_column(tmp_path, monkeypatch, content):
    folder = tmp_path / "powercap"
    if content is not None:
        fake_powercap(folder)
        for domain in folder.glob("intel-rapl:*"):
            if content == "no processor":
                (domain / "name").write_text("psys")
            elif content == "unreadable":
                (domain / "energy_uj").unlink()
                (domain / "energy_uj").mkdir()  # tests may run as root, who may read anything else
            else:
                (domain / "energy_uj").write_text("?")
    monkeypatch.setattr("axform.runtime.energy._POWERCAP", folder)
    assert find_meter("CPU") is None


def test_bench_has_a_column_of_energy_where_it_is_counted(bundle_copy, tmp_path, monkeypatch):
    monkeypatch.setattr("axform.runtime.energy._POWERCAP", tmp_path / "none")
    report = bench_bundle(Bundle(bundle_copy), [1], [4], runs=1, threads=1)
    assert report.energy_of is None and len(bench_tables(report)[0].columns) == 7
    monkeypatch.setattr("axform.runtime.energy._POWERCAP", fake_powercap(tmp_path / "powercap"))
    monkeypatch.setattr("axform.runtime.energy._BLOCK_SECONDS", 0)
    report = bench_bundle(Bundle(bundle_copy), [1], [4], runs=1, threads=1)
    assert report.energy_of == "processor (RAPL)" and report.shapes[0].joules == (0, 0)
    (table, *_) = bench_tables(report)
    assert [column.header for column in table.columns[-2:]] == ["baseline J", "model J"]
    assert "all that the processor (RAPL) does" in table.caption


class FakeNvml:
    """pynvml as far as it is used, of a GPU that has used ``millijoules``."""

    millijoules = 5000

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: int) -> int:  # noqa: N802
        assert gpu == 0
        return self.millijoules


def test_energy_of_a_gpu(monkeypatch):
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    meter = find_meter("CUDA")
    fake.millijoules += 1500
    assert meter.what == "GPU (NVML)" and meter.joules() == 1.5
    monkeypatch.setitem(sys.modules, "pynvml", None)  # importing it fails
    assert find_meter("CUDA") is None


# Inputs and outputs in a device's memory


def test_a_bound_call_gives_what_a_run_gives(tiny_bundle):
    session = create_session(tiny_bundle / "model.onnx", "cpu", 1)
    for shape in ((1, 4), (3, 9)):
        feeds = random_feeds(session, *shape, ANY_TOKENS)
        call = bound_call(session, feeds, "cpu")
        for _ in range(2):
            (output,) = call()
            np.testing.assert_array_equal(output.numpy(), session.run(None, feeds)[0])


def test_a_bound_call_that_fails_is_a_message(tiny_bundle):
    session = create_session(tiny_bundle / "model.onnx", "cpu", 1)
    feeds = random_feeds(session, 1, 4, ANY_TOKENS) | {"input_ids": np.full((1, 4), 10**6)}
    with pytest.raises(AxformError, match="cannot run the model on inputs of 1 x 4"):
        bound_call(session, feeds, "cpu")


def test_cuda_graphs_without_cuda(bundle_copy, capsys):
    for provider in ("cpu", *([] if has_cuda else ["auto"])):
        command = ["bench", bundle_copy, "--cuda-graph", "--provider", provider, "--runs", 1, "--seq", 4]
        code, captured = run_command(capsys, *command)
        assert code == 2 and "does not run on CUDA; leave it out" in " ".join(captured.err.split())
    assert Bundle(bundle_copy).manifest.results == {}


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_on_cuda_bound_calls_give_what_runs_give(tiny_bundle, cuda_graph):
    session = create_session(tiny_bundle / "baseline.onnx", "cuda", 1, cuda_graph=cuda_graph)
    plain = create_session(tiny_bundle / "baseline.onnx", "cuda", 1)
    calls = {}
    for shape in ((1, 4), (3, 9)):
        feeds = random_feeds(session, *shape, ANY_TOKENS)
        calls[shape] = bound_call(session, feeds, "cuda"), plain.run(None, feeds)[0]
    for _ in range(4):  # one graph for each shape, replayed in turn
        for call, wanted in calls.values():
            np.testing.assert_allclose(call()[0].numpy(), wanted, rtol=0, atol=1e-4)


@pytest.mark.gpu
@needs_gpu
def test_on_cuda_bench_replays_graphs(bundle_copy):
    report = bench_bundle(Bundle(bundle_copy), [1], [4, 8], runs=3, threads=1, provider="cuda", cuda_graph=True)
    assert report.provider == "CUDA" and len(report.shapes) == 2 and callable(random_runner)
    assert json.loads(report.model_dump_json())
