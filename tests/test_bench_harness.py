"""What stands around a timing: the warm-up, memory in processes of their own, bound inputs, CUDA graphs, energy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from axform.errors import AxformError
from axform.runtime.bundle import Bundle
from axform.runtime.calls import bound_call, random_runner
from axform.runtime.feeds import ANY_TOKENS, random_feeds
from axform.runtime.footprint import footprint
from axform.runtime.interleaved import time_interleaved, warm_up
from axform.runtime.latency import bench_bundle
from axform.runtime.session import create_session
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
    small, large = (footprint(weights_of(tmp_path / f"{size}.onnx", size)) for size in (1, 100))
    assert 90 < large.megabytes - small.megabytes < 320  # the weights, and at most what reading and packing them takes
    assert small.megabytes < 60 and small.seconds > 0
    assert footprint(tmp_path / "none.onnx") is None


def test_bench_shows_and_records_memory(bundle_copy, capsys):
    code, captured = run_command(capsys, "bench", bundle_copy, "--batch", 1, "--seq", 4, "--runs", 1, "--threads", 1)
    recorded = Bundle(bundle_copy).manifest.results["bench"]["resident"]
    text = " ".join(captured.out.split())
    if recorded is None:
        pytest.skip("resident memory is not known here")
    assert code == 0 and len(recorded) == 2 and f"into {recorded[0]:.0f} MB, model in" in text


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
