"""The server over REST, as unmodified clients and plain HTTP see it."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axform.runtime import load
from bundles import with_its_checksums
from serving_process import Server, alone, inputs_of, serving, start, with_tokenizer
from support import run_command

httpclient = pytest.importorskip("tritonclient.http")
CLOSE = 1e-5
"""Other batches make ONNX Runtime add in another order; logits are of the order of 1."""


@pytest.fixture(scope="module")
def bundle(tiny_bundle, tmp_path_factory) -> Path:
    return with_tokenizer(tiny_bundle, tmp_path_factory.mktemp("served") / "tiny")


@pytest.fixture(scope="module")
def server(bundle) -> Iterator[Server]:
    with serving(bundle, f"other={bundle}", "--log-requests") as running:
        yield running


@pytest.fixture
def client(server) -> Iterator[Any]:
    with httpclient.InferenceServerClient(server.http, concurrency=1) as made:
        yield made


def tensors(inputs: dict[str, np.ndarray], binary: bool = True) -> list[Any]:
    made = []
    for name, value in inputs.items():
        made.append(httpclient.InferInput(name, value.shape, "INT64"))
        made[-1].set_data_from_numpy(value, binary_data=binary)
    return made


def ask(
    server: Server, path: str, body: object = None, headers: dict[str, str] | None = None, seconds: float = 10
) -> tuple[int, Any, Any]:
    """(status, JSON, headers)."""
    content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{server.http}{path}", content, headers or {})
    try:
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            return answer.status, json.loads(answer.read() or b"null"), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read()), error.headers


def as_json(inputs: dict[str, np.ndarray], **more: Any) -> dict[str, Any]:
    return {
        "inputs": [
            {"name": name, "shape": list(value.shape), "datatype": "INT64", "data": value.tolist()}
            for name, value in inputs.items()
        ],
        **more,
    }


def test_it_tells_of_itself_and_its_models(client):
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("tiny", "1")
    assert client.get_server_metadata()["name"] == "axform"
    metadata = client.get_model_metadata("tiny")
    assert [entry["name"] for entry in metadata["inputs"]] == ["input_ids", "attention_mask", "token_type_ids"]
    assert metadata["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 2]}]
    config = client.get_model_config("tiny", "1")
    assert config["max_batch_size"] == 32 and config["input"][0]["dims"] == [-1]
    assert not client.is_model_ready("tiny", "2") and not client.is_model_ready("unknown")


@pytest.mark.parametrize("packed", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_tensors_in_every_form(client, bundle, binary_in, binary_out, packed):
    inputs = inputs_of([9, 5, 20])
    outputs = None if binary_out is None else [httpclient.InferRequestedOutput("logits", binary_data=binary_out)]
    answer = client.infer(
        "tiny",
        tensors(inputs, binary_in),
        outputs=outputs,
        request_id="mine",
        request_compression_algorithm=packed,
        response_compression_algorithm=packed,
    )
    np.testing.assert_allclose(answer.as_numpy("logits"), alone(bundle, inputs), atol=CLOSE)
    assert answer.get_response()["id"] == "mine"


def test_a_long_answer_is_packed_and_right(server, bundle):
    inputs = inputs_of([6] * 32)
    status, answer, _ = ask(server, "/v2/models/tiny/infer", as_json(inputs))
    assert status == 200
    for name, unpack in (("gzip", gzip.decompress), ("deflate", zlib.decompress)):
        request = urllib.request.Request(
            f"http://{server.http}/v2/models/tiny/infer",
            json.dumps(as_json(inputs)).encode(),
            {"Accept-Encoding": name},
        )
        with urllib.request.urlopen(request, timeout=10) as packed:
            assert packed.headers["Content-Encoding"] == name
            assert json.loads(unpack(packed.read())) == answer


def test_an_answer_does_not_depend_on_its_neighbours(server, bundle):
    requests = [inputs_of([1 + number * 7 % 60], seed=number) for number in range(40)]

    def one(inputs: dict[str, np.ndarray]) -> np.ndarray:
        status, answer, _ = ask(server, "/v2/models/tiny/infer", as_json(inputs))
        assert status == 200, answer
        return np.array(answer["outputs"][0]["data"], np.float32).reshape(answer["outputs"][0]["shape"])

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(one, requests))
    for inputs, answer in zip(requests, answers, strict=True):
        np.testing.assert_allclose(answer, alone(bundle, inputs), atol=CLOSE)


def test_texts_are_answered_as_the_client_answers_them(server, bundle):
    texts = ["a good film", "bad", ("a film", "good good"), "", "good " * 200]
    status, answer, _ = ask(server, "/v1/models/tiny/classify", {"texts": texts})
    assert status == 200
    for prediction, expected in zip(answer["predictions"], load(bundle)(texts), strict=True):
        assert prediction["label"] == expected.label
        assert prediction["score"] == pytest.approx(expected.score, abs=CLOSE)
        assert prediction["scores"][expected.label] == prediction["score"]


def test_an_answer_that_is_no_number_is_an_error_in_json(bundle, tmp_path):
    import onnx

    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    proto = onnx.load(copy / "model.onnx")
    bias = next(tensor for tensor in proto.graph.initializer if tensor.name.endswith("classifier.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(bias.dims, np.nan, np.float32), bias.name))
    onnx.save(proto, copy / "model.onnx")
    with_its_checksums(copy)
    with serving(copy) as running:
        for path, body in (
            ("v1/models/copy/classify", {"texts": ["a"]}),
            ("v2/models/copy/infer", as_json(inputs_of([4]))),
        ):
            status, answer, _ = ask(running, f"/{path}", body)
            assert status == 500 and "binary_data" in answer["error"]


def test_it_counts(client, server):
    before = client.get_inference_statistics("other")["model_stats"][0]
    client.infer("other", tensors(inputs_of([4, 4])))
    with pytest.raises(httpclient.InferenceServerException):
        client.infer("other", tensors({"input_ids": inputs_of([4])["input_ids"]}))
    after = client.get_inference_statistics("other", "1")["model_stats"][0]
    assert after["inference_count"] - before["inference_count"] == 2
    assert after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"] == 1
    assert after["inference_stats"]["fail"]["count"] - before["inference_stats"]["fail"]["count"] == 1
    assert {entry["name"] for entry in client.get_inference_statistics()["model_stats"]} == {"tiny", "other"}
    with urllib.request.urlopen(f"http://{server.http}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    families = pytest.importorskip("prometheus_client.parser").text_string_to_metric_families(text)
    samples = {(s.name, s.labels.get("model"), s.labels.get("outcome")): s.value for f in families for s in f.samples}
    assert samples["axform_requests_total", "other", "success"] == after["inference_stats"]["success"]["count"]
    assert samples["axform_requests_total", "other", "invalid"] == after["inference_stats"]["fail"]["count"]
    assert samples["axform_request_seconds_count", "other", None] == after["inference_stats"]["success"]["count"]
    assert samples["axform_worker_resident_bytes", None, None] > 1e7


def test_models_are_unloaded_and_loaded_again(client):
    client.unload_model("other")
    assert not client.is_model_ready("other") and client.is_model_ready("tiny")
    index = {entry["name"]: entry for entry in client.get_model_repository_index()}
    assert (index["other"]["state"], index["tiny"]["state"]) == ("UNAVAILABLE", "READY")
    with pytest.raises(httpclient.InferenceServerException, match="not loaded"):
        client.infer("other", tensors(inputs_of([4])))
    client.load_model("other")
    client.infer("other", tensors(inputs_of([4])))
    with pytest.raises(httpclient.InferenceServerException, match="not known"):
        client.load_model("../../etc")
    with pytest.raises(httpclient.InferenceServerException, match="takes no parameters"):
        client.load_model("other", config="{}")


def test_a_bundle_that_broke_leaves_the_old_one_in_place(bundle, tmp_path):
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    with serving(copy) as running, httpclient.InferenceServerClient(running.http) as client:
        good = (copy / "model.onnx").read_bytes()
        (copy / "model.onnx").write_bytes(good[:-10])
        with pytest.raises(httpclient.InferenceServerException, match="cannot load copy"):
            client.load_model("copy")
        client.infer("copy", tensors(inputs_of([4])))
        (copy / "model.onnx").write_bytes(good)
        with_its_checksums(copy, labels=["no", "yes"])
        client.load_model("copy")
        assert set(ask(running, "/v1/models/copy/classify", {"texts": ["a"]})[1]["predictions"][0]["scores"]) == {
            "no",
            "yes",
        }


def test_only_who_has_a_key_is_answered(bundle, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# ours\n0123456789abcdef0123\nfedcba98765432100123\n")
    with serving(bundle, "--api-key-file", keys) as running:
        assert ask(running, "/v2/health/live")[0] == ask(running, "/v2/health/ready")[0] == 200
        for headers in ({}, {"Authorization": "Bearer 0123456789abcdef012"}, {"Authorization": "0123456789abcdef0123"}):
            for path in ("/v2", "/v2/models/tiny", "/metrics", "/v2/models/stats"):
                assert ask(running, path, headers=headers)[0] == 401
            assert ask(running, "/v2/models/tiny/infer", as_json(inputs_of([4])), headers)[0] == 401
        allowed = {"Authorization": "Bearer fedcba98765432100123"}
        assert ask(running, "/v2/models/tiny/infer", as_json(inputs_of([4])), allowed)[0] == 200


def test_what_is_too_much_too_slow_or_too_late_is_refused(bundle):
    options = ("--max-body-mb", 0.01, "--read-timeout", 0.5, "--max-batch", 4, "--max-queue", 4, "--max-delay-ms", 400)
    with serving(bundle, *options) as running:
        infer = "/v2/models/tiny/infer"
        assert ask(running, infer, b"x" * 20_000)[0] == 413
        assert ask(running, infer, gzip.compress(b" " * 10_000_000), {"Content-Encoding": "gzip"})[0] == 413
        assert ask(running, infer, as_json(inputs_of([4] * 5)))[0] == 400
        assert ask(running, infer, as_json(inputs_of([4]), parameters={"timeout": 10_000}))[0] == 504
        started = time.monotonic()
        head = f"POST {infer} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n".encode()
        connections = [raw_open(running, part) for part in (head + b"{", head[:30], b"")]
        assert [connection.recv(100)[:12] for connection in connections] == [b"HTTP/1.1 408"] * 3
        assert time.monotonic() - started < 5
        for connection in connections:
            connection.close()
        lengths = [4, 18, 22, 28, 36, 45, 56]  # too different to run together, so that they wait
        with ThreadPoolExecutor(len(lengths)) as pool:
            found = list(pool.map(lambda length: ask(running, infer, as_json(inputs_of([length]))), lengths))
        assert {status for status, _, _ in found} == {200, 429}
        assert {headers["Retry-After"] for status, _, headers in found if status == 429} == {"1"}
        assert ask(running, infer, as_json(inputs_of([4])))[0] == 200


def raw_open(running: Server, content: bytes) -> Any:
    import socket

    host, port = running.http.rsplit(":", 1)
    connection = socket.create_connection((host, int(port)), timeout=8)
    connection.sendall(content)
    return connection


def test_who_has_left_is_not_computed_for(bundle):
    with serving(bundle, "--max-delay-ms", 600) as running:
        body = json.dumps(as_json(inputs_of([4]))).encode()
        head = f"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        raw_open(running, head + body).close()
        time.sleep(0.9)
        statistics = ask(running, "/v2/models/stats")[1]["model_stats"][0]
        assert statistics["inference_count"] == 0


def test_sigterm_loses_nothing_that_was_accepted(bundle):
    with serving(bundle, "--drain-delay", 0.6) as running:
        body = as_json(inputs_of([30]))
        statuses: list[object] = []
        ready: list[int] = []
        ended = threading.Event()

        def client() -> None:
            while not ended.is_set():
                try:
                    statuses.append(ask(running, "/v2/models/tiny/infer", body)[0])
                except OSError as error:
                    reason = getattr(error, "reason", error)
                    if not isinstance(reason, ConnectionRefusedError):
                        statuses.append(reason)
                    return

        threads = [threading.Thread(target=client) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        os.kill(running.process.pid, signal.SIGTERM)
        time.sleep(0.3)
        ready.append(ask(running, "/v2/health/ready")[0])
        assert running.process.wait(20) == 0
        ended.set()
        for thread in threads:
            thread.join(10)
        assert ready == [503]
        assert len(statuses) > 20 and set(statuses) == {200}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-queue", "1", "{}"], "--max-queue 1: give at least"),
        (["--port", "70000", "{}"], "--port 70000"),
        (["--port", "9000", "--grpc-port", "9000", "{}"], "are both 9000"),
        (["--threads", "0", "{}"], "threads 0"),
        (["--workers", "0", "{}"], "--workers 0"),
        (["--max-delay-ms", "nan", "{}"], "--max-delay-ms nan"),
        (["--max-body-mb", "3000", "{}"], "--max-body-mb 3000: give a number from 0.001 to 2000"),
        (["--read-timeout", "1e8", "{}"], "--read-timeout 1e+08: give a number from 0.1 to 86400"),
        (
            ["--max-batch", "3000000000", "--max-queue", "3000000000", "{}"],
            "--max-batch 3000000000: give at most 65536",
        ),
        (["--host", "no.such.host.invalid", "{}"], "--host no.such.host.invalid"),
        (["a b={}"], "cannot be a model's name"),
        (["x={}", "x={}"], "there is a model x already"),
    ],
)
def test_a_mistake_in_the_command_is_one_error(bundle, capsys, arguments, message):
    code, printed = run_command(capsys, "serve", *(argument.format(bundle) for argument in arguments))
    assert code == 2 and printed.out == ""
    assert printed.err.startswith("error: ") and message in printed.err and printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "not a bundle"),
        (["--api-key-file", "nowhere", "{}"], "--api-key-file nowhere: cannot be read"),
        (["--provider", "openvino", "{}"], "provider openvino"),
    ],
)
def test_what_cannot_be_served_is_one_error(bundle, arguments, message):
    process = start(*(argument.format(bundle) for argument in arguments))
    out, err = process.communicate(timeout=30)
    last = err.strip().splitlines()[-1]
    assert process.returncode == 2 and out == "" and last.startswith("error: ") and message in last


def test_an_address_that_is_taken(server, bundle):
    process = start(bundle, "--port", server.http.rpartition(":")[2])
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2 and "cannot be listened on at 127.0.0.1" in err


def test_the_log_is_json_and_escapes(server):
    ask(server, "/v2/models/%0Aforged%1b[31m%E2%80%AE")
    line = server.wait_for("request", status=404, path="/v2/models/\nforged\x1b[31m\u202e")
    raw = next(text for text in server.log if "forged" in text)
    assert line["method"] == "GET" and raw.isascii() and raw[:-1].isprintable()
