"""One suite of requests against `axform serve` and against a real Triton that computes the same.

Where AXFORM_TRITON_SERVER names no tritonserver (samples/triton_oracle.py says how to get one), only ours is asked: the
table then says what Triton 2.51 was seen to answer. Where the two differ, both answers stand there.
"""

from __future__ import annotations

import gzip
import http.client
import json
import shutil
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import real_triton
from axform.runtime.bundle import OpLibrary
from axform.serving.triton.repository import write_repository
from axform.serving.triton.settings import TritonSettings
from bundles import with_its_checksums
from onnx import TensorProto, helper
from serving_process import serving

httpclient = pytest.importorskip("tritonclient.http")
grpcclient = pytest.importorskip("tritonclient.grpc")
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
EXPECTED = [18.0, -18.0]
"""Of ids 5, 6, 7."""


@dataclass(frozen=True)
class Target:
    """A server under test."""

    kind: str
    http: str
    grpc: str


def sums_bundle(bundle: Path, folder: Path) -> Path:
    """A bundle whose model says the sum of its tokens, and its negative."""
    shutil.copytree(bundle, folder)
    ports = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in INPUTS]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])
    axis = onnx.numpy_helper.from_array(np.array([1], np.int64), "axis")
    nodes = [
        helper.make_node("Mul", INPUTS[:2], ["masked"]),
        helper.make_node("Add", ["masked", INPUTS[2]], ["added"]),
        helper.make_node("ReduceSum", ["added", "axis"], ["sum"], keepdims=1),
        helper.make_node("Cast", ["sum"], ["total"], to=TensorProto.FLOAT),
        helper.make_node("Neg", ["total"], ["negative"]),
        helper.make_node("Concat", ["total", "negative"], ["logits"], axis=1),
    ]
    graph = helper.make_graph(nodes, "sums", ports, [logits], [axis])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    with_its_checksums(folder, op_library=OpLibrary())
    return folder


@pytest.fixture(scope="module", params=["axform", pytest.param("triton", marks=real_triton.needs_triton)])
def target(request, tiny_bundle, tmp_path_factory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp(request.param)
    bundle = sums_bundle(tiny_bundle, folder / "tiny")
    if request.param == "axform":
        with serving(bundle) as running:
            yield Target("axform", running.http, running.grpc)
        return
    write_repository({"tiny": str(bundle)}, folder / "written", TritonSettings())
    repository = real_triton.with_python_backend(folder / "written", folder / "repository")
    with real_triton.serving(repository, folder) as (http_address, grpc_address):
        yield Target("triton", http_address, grpc_address)


def ask(target: Target, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any, bytes]:
    """(status, headers, body) of one request as it is, without a client's help."""
    connection = http.client.HTTPConnection(target.http, timeout=10)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def tensor(name: str, shape: list[int] | None = None, data: Any = None, datatype: str = "INT64", **more: Any) -> Any:
    values = {"input_ids": [5, 6, 7], "attention_mask": [1, 1, 1], "token_type_ids": [0, 0, 0]}
    chosen = {"data": values.get(name, [0, 0, 0]) if data is None else data} if "parameters" not in more else {}
    return {"name": name, "shape": shape or [1, 3], "datatype": datatype, **chosen, **more}


def asking(*changed: Any, **more: Any) -> bytes:
    """A request whose first inputs are ``changed``, the others as they should be."""
    names = [entry.get("name") for entry in changed]
    others = [tensor(name) for name in INPUTS if name not in names]
    return json.dumps({"inputs": [*changed, *others], **more}).encode()


def without(key: str) -> bytes:
    entry = tensor("input_ids")
    del entry[key]
    return asking(entry) if key != "name" else json.dumps({"inputs": [entry, *map(tensor, INPUTS[1:])]}).encode()


def binary_request(first: int = 24) -> tuple[bytes, bytes]:
    """(JSON, raw bytes)."""
    sizes = dict(zip(INPUTS, (first, 24, 24), strict=True))
    head = asking(*(tensor(name, parameters={"binary_data_size": sizes[name]}) for name in INPUTS))
    raw = np.array([5, 6, 7, 1, 1, 1, 0, 0, 0], np.int64).tobytes()
    return head, raw[24 - first :]


def infer(body: bytes, **headers: str) -> tuple[str, str, bytes, dict[str, str]]:
    return "POST", "/v2/models/tiny/infer", body, headers


def get(path: str) -> tuple[str, str, None, dict[str, str]]:
    return "GET", path, None, {}


HEAD, RAW = binary_request()
LENGTH = {"Inference_Header_Content_Length": str(len(HEAD))}
GOOD = asking()
MANY = asking(*(tensor(name, [40, 1], [1] * 40) for name in INPUTS))
REQUESTS: dict[str, tuple[tuple[str, str, bytes | None, dict[str, str]], int, int]] = {
    "server metadata": (get("/v2"), 200, 200),
    "a slash too many": (get("/v2/"), 404, 404),
    "an unknown path": (get("/nowhere"), 404, 404),
    "live": (get("/v2/health/live"), 200, 200),
    "ready": (get("/v2/health/ready"), 200, 200),
    "metadata": (get("/v2/models/tiny"), 200, 200),
    "metadata of the version": (get("/v2/models/tiny/versions/1"), 200, 200),
    "metadata of another version": (get("/v2/models/tiny/versions/2"), 404, 404),
    "metadata of a version that is no number": (get("/v2/models/tiny/versions/x"), 404, 404),
    "metadata of an unknown model": (get("/v2/models/other"), 404, 404),
    "a model is ready": (get("/v2/models/tiny/ready"), 200, 200),
    "an unknown model is not ready": (get("/v2/models/other/ready"), 404, 400),
    "another version is not ready": (get("/v2/models/tiny/versions/2/ready"), 404, 400),
    "config": (get("/v2/models/tiny/config"), 200, 200),
    "config of an unknown model": (get("/v2/models/other/config"), 404, 404),
    "statistics": (get("/v2/models/tiny/stats"), 200, 200),
    "statistics of all": (get("/v2/models/stats"), 200, 200),
    "statistics of an unknown model": (get("/v2/models/other/stats"), 404, 400),
    "index": (("POST", "/v2/repository/index", b"", {}), 200, 200),
    "index by GET": (get("/v2/repository/index"), 405, 405),
    "index that is no JSON": (("POST", "/v2/repository/index", b"{", {}), 400, 500),
    "infer by GET": (get("/v2/models/tiny/infer"), 405, 405),
    "an unknown model is loaded": (("POST", "/v2/repository/models/other/load", b"", {}), 404, 500),
    "an unknown model is unloaded": (("POST", "/v2/repository/models/other/unload", b"", {}), 404, 200),
    "infer": (infer(GOOD), 200, 200),
    "infer of the version": (("POST", "/v2/models/tiny/versions/1/infer", GOOD, {}), 200, 200),
    "infer of another version": (("POST", "/v2/models/tiny/versions/2/infer", GOOD, {}), 404, 404),
    "infer of an unknown model": (("POST", "/v2/models/other/infer", GOOD, {}), 404, 404),
    "an id": (infer(asking(id="mine")), 200, 200),
    "an id that is no text": (infer(asking(id=7)), 400, 500),
    "an output by name": (infer(asking(outputs=[{"name": "logits"}])), 200, 200),
    "no outputs named": (infer(asking(outputs=[])), 200, 200),
    "an unknown output": (infer(asking(outputs=[{"name": "other"}])), 400, 400),
    "an output twice": (infer(asking(outputs=[{"name": "logits"}] * 2)), 400, 200),
    "an input is missing": (infer(json.dumps({"inputs": [tensor("input_ids")]}).encode()), 400, 400),
    "an input too many": (infer(asking(tensor("more"))), 400, 400),
    "an input twice": (infer(asking(tensor("input_ids"), tensor("input_ids"))), 400, 400),
    "no inputs": (infer(b'{"inputs": []}'), 400, 400),
    "inputs are not given": (infer(b"{}"), 400, 500),
    "nothing": (infer(b""), 400, 400),
    "no JSON": (infer(b"{"), 400, 500),
    "a list": (infer(b"[]"), 400, 500),
    "another datatype": (infer(asking(tensor("input_ids", datatype="INT32"))), 400, 400),
    "a datatype that is none": (infer(asking(tensor("input_ids", datatype="INT65"))), 400, 400),
    "a larger shape than data": (infer(asking(tensor("input_ids", [1, 4]))), 400, 500),
    "more data than shape": (infer(asking(tensor("input_ids", data=[1, 2, 3, 4]))), 400, 500),
    "a shape without batch": (infer(asking(tensor("input_ids", [3]))), 400, 400),
    "a negative shape": (infer(asking(tensor("input_ids", [-1, 3]))), 400, 500),
    "nested data": (infer(asking(tensor("input_ids", data=[[5, 6, 7]]))), 200, 200),
    "fractions": (infer(asking(tensor("input_ids", data=[5.5, 6, 7]))), 400, 500),
    "texts": (infer(asking(tensor("input_ids", data=["5", 6, 7]))), 400, 500),
    "booleans": (infer(asking(tensor("input_ids", data=[True, 6, 7]))), 400, 500),
    "no datatype": (infer(without("datatype")), 400, 500),
    "no shape": (infer(without("shape")), 400, 500),
    "no name": (infer(without("name")), 400, 500),
    "no data": (infer(without("data")), 400, 400),
    "more rows than the largest batch": (infer(MANY), 400, 400),
    "binary data": (infer(HEAD + RAW, **LENGTH), 200, 200),
    "binary data that ends early": (infer(HEAD + RAW[:-1], **LENGTH), 400, 400),
    "binary data that goes on": (infer(HEAD + RAW + b"x", **LENGTH), 400, 400),
    "binary data of no whole number": (
        infer(
            b"".join(binary_request(first=23)),
            Inference_Header_Content_Length=str(len(binary_request(first=23)[0])),
        ),
        400,
        400,
    ),
    "a header longer than the body": (infer(HEAD + RAW, Inference_Header_Content_Length="99999"), 400, 400),
    "a header length that is none": (infer(HEAD + RAW, Inference_Header_Content_Length="x"), 400, 400),
    "a negative header length": (infer(HEAD + RAW, Inference_Header_Content_Length="-1"), 400, 400),
    "binary data without a header length": (infer(HEAD + RAW), 400, 500),
    "gzip": (infer(gzip.compress(GOOD), Content_Encoding="gzip"), 200, 200),
    "deflate": (infer(zlib.compress(GOOD), Content_Encoding="deflate"), 200, 200),
    "no gzip that is called so": (infer(GOOD, Content_Encoding="gzip"), 400, 400),
    "gzip without its checksum": (infer(gzip.compress(GOOD)[:-8], Content_Encoding="gzip"), 400, 200),
    "another packing": (infer(GOOD, Content_Encoding="br"), 415, 501),
    "a parameter of the client's own": (infer(asking(parameters={"mine": 3})), 200, 200),
    "a parameter that Triton keeps for itself": (infer(asking(parameters={"triton_x": 3})), 200, 400),
    "a priority": (infer(asking(parameters={"priority": 1})), 400, 200),
    "a sequence": (infer(asking(parameters={"sequence_id": 3})), 400, 200),
    "a timeout that passes": (infer(asking(parameters={"timeout": 1})), 504, 200),
    "classes": (infer(asking(outputs=[{"name": "logits", "parameters": {"classification": 2}}])), 400, 200),
    "a content type": (infer(GOOD, Content_Type="text/plain"), 200, 200),
}
"""What -> (the request, the status of ours, that of Triton 2.51)."""


@pytest.mark.parametrize("what", REQUESTS)
def test_statuses(target, what):
    (method, path, body, headers), ours, theirs = REQUESTS[what]
    status, _, content = ask(target, method, path, body, **headers)
    assert status == (ours if target.kind == "axform" else theirs), content
    if status >= 400:
        assert isinstance(json.loads(content)["error"], str)


@pytest.mark.parametrize(
    ("more", "extra"),
    [
        ({}, {}),
        ({"id": "mine"}, {"id": "mine"}),
        ({"outputs": [{"name": "logits"}]}, {}),
        ({"parameters": {"x": 1}}, {}),
    ],
)
def test_an_answer_in_json(target, more, extra):
    status, headers, content = ask(target, *infer(asking(**more))[:3])
    assert status == 200 and headers["Content-Type"] == "application/json"
    output = {"name": "logits", "datatype": "FP32", "shape": [1, 2], "data": EXPECTED}
    assert json.loads(content) == {"model_name": "tiny", "model_version": "1", "outputs": [output], **extra}


@pytest.mark.parametrize(
    "more",
    [
        {"parameters": {"binary_data_output": True}},
        {"outputs": [{"name": "logits", "parameters": {"binary_data": True}}]},
    ],
)
def test_an_answer_in_bytes(target, more):
    status, headers, content = ask(target, *infer(asking(**more))[:3])
    assert status == 200 and headers["Content-Type"] == "application/octet-stream"
    end = int(headers["Inference-Header-Content-Length"])
    (output,) = json.loads(content[:end])["outputs"]
    assert output == {"name": "logits", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
    assert np.frombuffer(content[end:], np.float32).tolist() == EXPECTED


def test_one_output_in_json_where_the_others_are_bytes(target):
    """An output's own word counts. Of one that says nothing the extension leaves the request's; Triton takes JSON."""
    for parameters, is_json in (({"binary_data": False}, True), ({}, target.kind == "triton")):
        body = asking(parameters={"binary_data_output": True}, outputs=[{"name": "logits", "parameters": parameters}])
        _, headers, _ = ask(target, *infer(body)[:3])
        assert ("Inference-Header-Content-Length" not in headers) == is_json


@pytest.mark.parametrize(("packing", "unpack"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
def test_a_packed_answer(target, packing, unpack):
    """Ours packs what is worth it, Triton everything."""
    large = 2**40  # so that the answer has more than a kilobyte
    rows = {"input_ids": [large] * 32, "attention_mask": [1] * 32, "token_type_ids": [0] * 32}
    body = asking(*(tensor(name, [32, 1], values) for name, values in rows.items()))
    status, headers, content = ask(target, *infer(body)[:3], Accept_Encoding=packing)
    assert status == 200 and headers["Content-Encoding"] == packing
    assert json.loads(unpack(content))["outputs"][0]["data"] == [float(large), -float(large)] * 32


@pytest.mark.parametrize("packed", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_the_client_over_http(target, binary, packed):
    inputs = []
    for name in INPUTS:
        inputs.append(httpclient.InferInput(name, [2, 3], "INT64"))
        inputs[-1].set_data_from_numpy(np.array([tensor(name)["data"]] * 2, np.int64), binary_data=binary)
    with httpclient.InferenceServerClient(target.http) as client:
        answer = client.infer(
            "tiny",
            inputs,
            outputs=[httpclient.InferRequestedOutput("logits", binary_data=binary)],
            request_id="mine",
            request_compression_algorithm=packed,
            response_compression_algorithm=packed,
        )
    assert answer.as_numpy("logits").tolist() == [EXPECTED] * 2 and answer.get_response()["id"] == "mine"


def test_what_a_model_tells_of_itself(target):
    metadata = json.loads(ask(target, *get("/v2/models/tiny")[:2])[2])
    assert isinstance(metadata.pop("platform"), str)
    assert metadata == {
        "name": "tiny",
        "versions": ["1"],
        "inputs": [{"name": name, "datatype": "INT64", "shape": [-1, -1]} for name in INPUTS],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 2]}],
    }
    config = json.loads(ask(target, *get("/v2/models/tiny/config")[:2])[2])
    assert (config["name"], config["max_batch_size"]) == ("tiny", 32)
    for entry, name in zip(config["input"], INPUTS, strict=True):
        assert (entry["name"], entry["data_type"], entry["dims"]) == (name, "TYPE_INT64", [-1])
    assert config["output"][0]["dims"] == [2] and config["instance_group"][0]["kind"] == "KIND_CPU"
    assert isinstance(config["dynamic_batching"]["max_queue_delay_microseconds"], int)
    assert all(set(value) == {"string_value"} for value in config["parameters"].values())
    server = json.loads(ask(target, *get("/v2")[:2])[2])
    assert set(server) == {"name", "version", "extensions"} and "binary_tensor_data" in server["extensions"]


def statistics(target: Target) -> dict[str, Any]:
    (entry,) = json.loads(ask(target, *get("/v2/models/tiny/stats")[:2])[2])["model_stats"]
    return dict(entry)


def shape_of(value: Any) -> Any:
    """Which keys and types a value has."""
    if isinstance(value, dict):
        return {key: shape_of(part) for key, part in value.items()}
    return type(value)


def test_statistics(target):
    body = asking(*(tensor(name, [2, 1], [1, 1]) for name in INPUTS))
    assert ask(target, *infer(body)[:3])[0] == 200
    before = statistics(target)
    assert ask(target, *infer(body)[:3])[0] == 200
    after = statistics(target)
    assert after["inference_count"] - before["inference_count"] == 2
    assert after["execution_count"] - before["execution_count"] == 1
    parts = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")
    assert shape_of(after["inference_stats"]) == {part: {"count": int, "ns": int} for part in parts}
    assert after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"] == 1
    assert after["inference_stats"]["success"]["ns"] > before["inference_stats"]["success"]["ns"]
    times = {part: {"count": int, "ns": int} for part in ("compute_input", "compute_infer", "compute_output")}
    assert {entry["batch_size"] for entry in after["batch_stats"]} >= {2}
    assert all(shape_of(entry) == {"batch_size": int, **times} for entry in after["batch_stats"])
    keys = {"inference_stats", "batch_stats", "response_stats", "memory_usage"}
    assert set(after) == keys | {"name", "version", "last_inference", "inference_count", "execution_count"}
    assert abs(after["last_inference"] / 1000 - time.time()) < 60


def test_unloading_and_loading(target):
    with httpclient.InferenceServerClient(target.http) as client:
        assert client.get_model_repository_index() == [{"name": "tiny", "version": "1", "state": "READY"}]
        client.unload_model("tiny")
        gone = {"name": "tiny", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
        deadline = time.monotonic() + 20  # Triton answers before it has done it
        while client.get_model_repository_index() != [gone] and time.monotonic() < deadline:
            time.sleep(0.1)
        assert client.get_model_repository_index() == [gone]
        assert not client.is_model_ready("tiny") and client.is_server_ready()
        assert json.loads(ask(target, "POST", "/v2/repository/index", b'{"ready": true}')[2]) == []
        assert ask(target, *infer(GOOD)[:3])[0] == (503 if target.kind == "axform" else 404)
        client.unload_model("tiny")
        client.load_model("tiny")
        client.load_model("tiny")
        assert client.is_model_ready("tiny")
    assert ask(target, *infer(GOOD)[:3])[0] == 200


def message(
    names: tuple[str, ...] = INPUTS,
    datatype: str = "INT64",
    shape: tuple[int, ...] = (1, 3),
    field: str | None = "int64_contents",
    raw: int | None = None,
    outputs: tuple[str, ...] = (),
    parameters: dict[str, int] | None = None,
    **more: str,
) -> Any:
    """A ``ModelInferRequest``; ``raw`` is how many bytes of each input."""
    request = grpcclient.service_pb2.ModelInferRequest(**{"model_name": "tiny", **more})
    for name in names:
        entry = request.inputs.add(name=name, datatype=datatype, shape=shape)
        if field is not None:
            getattr(entry.contents, field).extend(tensor(name)["data"])
        if raw is not None:
            request.raw_input_contents.append(np.array(tensor(name)["data"], np.int64).tobytes()[:raw])
    for name in outputs:
        request.outputs.add(name=name)
    for name, value in (parameters or {}).items():
        request.parameters[name].int64_param = value
    return request


CALLS: dict[str, tuple[dict[str, Any], str, str]] = {
    "numbers": ({}, "OK", "OK"),
    "bytes": ({"field": None, "raw": 24}, "OK", "OK"),
    "both": ({"raw": 24}, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
    "neither": ({"field": None}, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
    "too few bytes": ({"field": None, "raw": 23}, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
    "an unknown model": ({"model_name": "other"}, "NOT_FOUND", "NOT_FOUND"),
    "another version": ({"model_version": "2"}, "NOT_FOUND", "NOT_FOUND"),
    "a version that is no number": ({"model_version": "x"}, "NOT_FOUND", "INVALID_ARGUMENT"),
    "an input is missing": ({"names": INPUTS[:2]}, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
    "an input too many": ({"names": (*INPUTS, "more")}, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
    "an input twice": ({"names": (INPUTS[0], *INPUTS)}, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
    "no inputs": ({"names": ()}, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
    "another datatype": ({"datatype": "INT32", "field": "int_contents"}, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
    "a datatype that is none": ({"datatype": "INT65"}, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
    "numbers in another field": ({"field": "fp32_contents"}, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
    "a larger shape": ({"shape": (1, 4)}, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
    "a shape without batch": ({"shape": (3,)}, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
    "a negative shape": ({"shape": (-1, 3)}, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
    "more rows than the largest batch": ({"shape": (40, 3), "field": None, "raw": 24}, *["INVALID_ARGUMENT"] * 2),
    "an output by name": ({"outputs": ("logits",)}, "OK", "OK"),
    "an unknown output": ({"outputs": ("other",)}, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
    "an output twice": ({"outputs": ("logits", "logits")}, "INVALID_ARGUMENT", "OK"),
    "a parameter of the client's own": ({"parameters": {"mine": 1}}, "OK", "OK"),
    "a parameter that Triton keeps for itself": ({"parameters": {"triton_x": 1}}, "OK", "INVALID_ARGUMENT"),
    "a timeout that passes": ({"parameters": {"timeout": 1}}, "DEADLINE_EXCEEDED", "OK"),
}
"""What -> (the request, the status of ours, that of Triton 2.51)."""


@pytest.fixture(scope="module")
def stub(target) -> Iterator[Any]:
    with grpcclient.InferenceServerClient(target.grpc) as client:
        yield client._client_stub


def status_of(method: Any, request: Any) -> tuple[str, Any]:
    import grpc

    try:
        return "OK", method(request, timeout=10)
    except grpc.RpcError as error:
        return error.code().name, error.details()


@pytest.mark.parametrize("what", CALLS)
def test_statuses_over_grpc(target, stub, what):
    values, ours, theirs = CALLS[what]
    status, answer = status_of(stub.ModelInfer, message(id="mine", **values))
    assert status == (ours if target.kind == "axform" else theirs), answer
    if status == "OK":
        assert (answer.model_name, answer.model_version, answer.id) == ("tiny", "1", "mine")
        (output,) = answer.outputs
        assert (output.name, output.datatype, list(output.shape)) == ("logits", "FP32", [1, 2])
        assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == EXPECTED
    else:
        assert answer


def test_models_over_grpc(target, stub):
    schema = grpcclient.service_pb2
    for name, version, ready in (("tiny", "", True), ("tiny", "1", True), ("tiny", "2", False), ("other", "", False)):
        assert stub.ModelReady(schema.ModelReadyRequest(name=name, version=version)).ready is ready
        status, answer = status_of(stub.ModelMetadata, schema.ModelMetadataRequest(name=name, version=version))
        assert status == ("OK" if ready else "NOT_FOUND")
        if ready:
            assert [(entry.name, entry.datatype, list(entry.shape)) for entry in (*answer.inputs, *answer.outputs)] == [
                *((name, "INT64", [-1, -1]) for name in INPUTS),
                ("logits", "FP32", [-1, 2]),
            ]
        assert status_of(stub.ModelConfig, schema.ModelConfigRequest(name=name, version=version))[0] == status
    assert stub.ServerLive(schema.ServerLiveRequest()).live and stub.ServerReady(schema.ServerReadyRequest()).ready
    (entry,) = stub.RepositoryIndex(schema.RepositoryIndexRequest()).models
    assert (entry.name, entry.version, entry.state, entry.reason) == ("tiny", "1", "READY", "")
    (counts,) = stub.ModelStatistics(schema.ModelStatisticsRequest(name="tiny")).model_stats
    assert counts.inference_count > 0 and counts.inference_stats.success.count > 0


def test_what_is_not_offered_over_grpc_says_so(target, stub):
    if target.kind == "triton":
        pytest.skip("Triton offers these")
    schema = grpcclient.service_pb2
    status, details = status_of(stub.SystemSharedMemoryStatus, schema.SystemSharedMemoryStatusRequest())
    assert status == "UNIMPLEMENTED" and "is not offered here" in details
    status, details = status_of(lambda request, timeout: list(stub.ModelStreamInfer(iter([request]))), message())
    assert status == "UNIMPLEMENTED" and "is not offered here" in details


@real_triton.needs_triton
def test_labels_of_the_repository_reach_the_client(target):
    """Triton's classification extension reads the file that `label_filename` names."""
    if target.kind != "triton":
        pytest.skip("ours has /v1/models/NAME/classify")
    body = asking(outputs=[{"name": "logits", "parameters": {"classification": 2}}])
    (output,) = json.loads(ask(target, *infer(body)[:3])[2])["outputs"]
    assert output["data"] == ["18.000000:0:0", "-18.000000:1:1"]
