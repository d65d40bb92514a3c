"""Requests that are none: each is refused as the client's mistake, and the next one is answered."""

from __future__ import annotations

import gzip
import http.client
import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from serving_process import Server, inputs_of, serving

pytest.importorskip("uvicorn")
grpcclient = pytest.importorskip("tritonclient.grpc")
from tritonclient.grpc import service_pb2, service_pb2_grpc  # noqa: E402

INFER = "/v2/models/tiny/infer"
CLASSIFY = "/v1/models/tiny/classify"
LENGTH = 4
HUGE = 10**400
DEEP = "[" * 100_000
MB = 0.2


@pytest.fixture(scope="module")
def server(tiny_bundle, tmp_path_factory) -> Iterator[Server]:
    from serving_process import with_tokenizer

    bundle = with_tokenizer(tiny_bundle, tmp_path_factory.mktemp("malformed") / "tiny")
    with serving(bundle, "--max-body-mb", MB, "--read-timeout", 3, "--log-requests") as running:
        yield running
        assert running.process.poll() is None
        assert not [line for line in running.events() if line["event"] == "failed"]
        assert all(line.isascii() and line[:-1].isprintable() for line in running.log)


@pytest.fixture(scope="module")
def stub(server) -> Iterator[Any]:
    import grpc

    with grpc.insecure_channel(server.grpc) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def good() -> dict[str, Any]:
    return {
        "inputs": [
            {"name": name, "shape": [1, LENGTH], "datatype": "INT64", "data": value.ravel().tolist()}
            for name, value in inputs_of([LENGTH]).items()
        ]
    }


def ask(server: Server, path: str, body: bytes | None, headers: dict[str, str], method: str) -> tuple[int, bytes]:
    host, port = server.http.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def check_next(server: Server) -> None:
    status, answer = ask(server, INFER, json.dumps(good()).encode(), {}, "POST")
    assert status == 200, answer


def with_input(index: int = 0, **values: Any) -> dict[str, Any]:
    request = good()
    request["inputs"][index] |= values
    return request


def without(key: str) -> dict[str, Any]:
    request = good()
    del request["inputs"][0][key]
    return request


def with_inputs(change: Callable[[list[Any]], Any]) -> dict[str, Any]:
    request = good()
    request["inputs"] = change(request["inputs"])
    return request


def binary(size: object, raw: bytes, told: object | None = None, **values: Any) -> tuple[bytes, dict[str, str]]:
    """A request whose first input is raw bytes: (body, headers)."""
    request = without("data")
    request["inputs"][0] |= {"parameters": {"binary_data_size": size}, **values}
    head = json.dumps(request).encode()
    return head + raw, {"Inference-Header-Content-Length": str(len(head) if told is None else told)}


RAW = bytes(8 * LENGTH)
JSON_BODIES: list[object] = [
    None,
    1,
    "x",
    [],
    True,
    {},
    *({"inputs": value} for value in (None, {}, "x", 1, [], [1], [[]], [None], [{}])),
]
NAMES = [
    None,
    1,
    [],
    {},
    "",
    "x",
    "input_ids\0",
    "input_ids ",
    "INPUT_IDS",
    "a" * 5000,
    "\x1b[31m\n",
    "\ud800",
    "../../x",
]
DATATYPES = [None, 1, [], "", "INT32", "BYTES", "FP32", "int64", "TYPE_INT64", "X" * 5000]
SHAPES = [
    None, 1, "x", {}, [], [1], [LENGTH], [1, LENGTH, 1], [1, -LENGTH], [-1, -LENGTH], [0, LENGTH], [1, 0], [1, 4.0], [1, "4"],
    [1, None], [1, True], [2**31, LENGTH], [2**63, LENGTH], [10**30, 1], [HUGE, 1], [1] * 9, [LENGTH, 1], [2, 2], [1, 5], [1, 3],
    [33, LENGTH], [1, 67], [[1, LENGTH]],
]  # fmt: skip
DATA = [
    None, 1, "x", {}, [], [1], [1] * 3, [1] * 5, [[1] * 3], [[1] * 5], [[[1] * 4]], [[1] * 4] * 2, [1, 2, [3], 4],
    [[1, 2], [3, 4]], [1.5] * 4, ["1"] * 4, [True] * 4, [None] * 4, [2**63] * 4, [-(2**63) - 1] * 4, [HUGE] * 4, [-1] * 4,
    [64] * 4, [[]], [{}] * 4, [1e3] * 4,
]  # fmt: skip
PARAMETERS = [
    [], "x", 1, {"binary_data_size": 4}, {"shared_memory_region": "x"}, {"binary_data_size": -1}, {"binary_data_size": "x"},
]  # fmt: skip
REQUESTS: list[dict[str, Any]] = [
    {"id": 5}, {"id": []}, {"id": {}}, {"parameters": []}, {"parameters": "x"}, {"parameters": {"timeout": "x"}},
    {"parameters": {"timeout": -1}}, {"parameters": {"timeout": 1.5}}, {"parameters": {"timeout": 2**63}},
    {"parameters": {"timeout": True}}, {"parameters": {"priority": 1}}, {"parameters": {"sequence_id": 7}},
    {"parameters": {"binary_data_output": 1}}, {"parameters": {"binary_data_output": "yes"}}, {"outputs": 1}, {"outputs": "x"},
    {"outputs": {"a": 1}}, {"outputs": [1]}, {"outputs": [{}]}, {"outputs": [{"name": 1}]}, {"outputs": [{"name": "x"}]},
    {"outputs": [{"name": "logits"}] * 2}, {"outputs": [{"name": "logits"}] * 65},
    {"outputs": [{"name": "logits", "parameters": {"binary_data": 1}}]},
    {"outputs": [{"name": "logits", "parameters": {"classification": 2}}]},
    {"outputs": [{"name": "logits", "parameters": {"shared_memory_region": "x"}}]},
]  # fmt: skip
TEXTS: list[object] = [
    None, 1, [], {}, {"texts": None}, {"texts": []}, {"texts": "x"}, {"texts": {}}, {"texts": [1]}, {"texts": [None]},
    {"texts": [["a"]]}, {"texts": [["a", "b", "c"]]}, {"texts": [["a", 1]]}, {"texts": [[["a", "b"]]]}, {"texts": ["a"] * 300},
    {"texts": ["a"], "timeout": "x"}, {"texts": ["a"], "timeout": -1},
]  # fmt: skip
BODIES: list[tuple[bytes, dict[str, str]]] = [
    (b"", {}), (b"{", {}), (b"\xff\xfe", {}), (json.dumps(good()).encode("utf-16"), {}), (b'{"inputs": NaN}', {}),
    (b'{"inputs": [-Infinity]}', {}), (DEEP.encode(), {}), (b'{"inputs": ' + DEEP.encode() + b"}", {}), (b"\0" * 100, {}),
    (b'{"inputs": 1} x', {}), (b"9" * 100_000, {}), (b"x" * 300_000, {}),
    binary(32, RAW[:-1]), binary(32, RAW + b"x"), binary(31, RAW[:-1]), binary(40, RAW + bytes(8)), binary(-1, RAW),
    binary("32", RAW), binary(32.0, RAW), binary(True, RAW), binary(None, RAW), binary(2**70, RAW), binary(32, RAW, "x"),
    binary(32, RAW, -1), binary(32, RAW, "1e3"), binary(32, RAW, 10**9), binary(32, RAW, 10**30), binary(32, RAW, 0),
    binary(32, RAW, 5), binary(32, RAW, ""), binary(32, RAW, data=[1] * 4),
    binary(32, b"\xff" * 32), binary(0, b"", shape=[1, 0]),
    (json.dumps(good()).encode(), {"Content-Encoding": "br"}), (json.dumps(good()).encode(), {"Content-Encoding": "gzip"}),
    (json.dumps(good()).encode(), {"Content-Encoding": "deflate"}), (gzip.compress(b"{}"), {"Content-Encoding": "gzip, gzip"}),
    (gzip.compress(json.dumps(good()).encode())[:-9], {"Content-Encoding": "gzip"}),
    (gzip.compress(json.dumps(good()).encode()) + b"x", {"Content-Encoding": "gzip"}),
    (gzip.compress(gzip.compress(json.dumps(good()).encode())), {"Content-Encoding": "gzip"}),
    (zlib.compress(json.dumps(good()).encode())[2:-4], {"Content-Encoding": "deflate"}), (b"", {"Content-Encoding": "gzip"}),
    (gzip.compress(bytes(50_000_000)), {"Content-Encoding": "gzip"}),
    (zlib.compress(bytes(50_000_000)), {"Content-Encoding": "deflate"}),
    (b"x", {"Content-Encoding": "\x1b[31m"}),
]  # fmt: skip
ADDRESSES = [
    ("POST", "/v2/models/unknown/infer"), ("POST", "/v2/models/tiny/versions/2/infer"),
    ("POST", "/v2/models/tiny/versions/-1/infer"),
    ("POST", "/v2/models/tiny/versions/%2e%2e/infer"), ("POST", "/v2/models/..%2f..%2fetc/infer"), ("POST", "/v2/models//infer"),
    ("POST", "/v2/models/tiny%00/infer"), ("POST", "/v2/models/%ff%fe/infer"), ("POST", "/v2/models/TINY/infer"),
    ("POST", "/v2/models/tiny/infer/"), ("POST", f"/v2/models/{'a' * 20_000}/infer"), ("POST", "/v2/models/%1b%5b31m%0a/infer"),
    ("GET", INFER), ("PUT", INFER), ("DELETE", INFER), ("PATCH", INFER), ("POST", "/v2/health/live"), ("POST", "/v2"),
    ("GET", "/"), ("GET", "/../../etc/passwd"), ("GET", "/%2e%2e/%2e%2e/etc/passwd"), ("GET", "//v2"),
    ("GET", "/v2/"), ("GET", "/v3"),
    ("GET", "/v2/models/unknown"), ("GET", "/v2/models/unknown/ready"), ("GET", "/v2/models/unknown/stats"),
    ("GET", "/v2/models/tiny/versions/2/config"), ("POST", "/v2/repository/models/unknown/load"),
    ("POST", "/v2/repository/models/..%2f..%2fetc/load"), ("POST", "/v2/repository/models/unknown/unload"),
    ("POST", "/v1/models/unknown/classify"), ("GET", CLASSIFY), ("GET", "/v2/systemsharedmemory/status"),
]  # fmt: skip
COMMANDS: list[tuple[str, object]] = [
    ("/v2/repository/index", []), ("/v2/repository/index", {"ready": 1}), ("/v2/repository/index", "x"),
    ("/v2/repository/models/tiny/load", {"parameters": {"config": "{}"}}), ("/v2/repository/models/tiny/load", [1]),
    ("/v2/repository/models/tiny/load", {"parameters": {"file:1/model.onnx": "x"}}), ("/v2/repository/models/tiny/unload", 7),
]  # fmt: skip
ANSWERED = json.dumps(good())
LINES = [
    b"x\r\n\r\n", b"\0\0\0\0\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
    b"get /v2 HTTP/1.1\r\n\r\n", b"GET /v2 HTTP/1.1\r\nbad header\r\n\r\n", b"GET /v2 HTTP/1.1\r\nA\0B: c\r\n\r\n",
    b"GET /v2 HTTP/1.1\r\n: c\r\n\r\n", b"GET \xff\xfe HTTP/1.1\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n\r\n",
    b"GET /v2 HTTP/1.1\r\nA: " + b"a" * 100_000 + b"\r\n\r\n", b"GET /v2 HTTP/1.1\r\n" + b"A: b\r\n" * 20_000,
    b"GET /" + b"a" * 100_000, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    *(
        f"POST {INFER} HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n{ANSWERED}".encode()
        for header in (
            "Content-Length: -1", "Content-Length: x", "Content-Length: 1\r\nContent-Length: 2", "Content-Length: " + "9" * 30,
            "Content-Length: 300000", f"Content-Length: {len(ANSWERED) - 1}", f"Content-Length: {len(ANSWERED) + 9}",
            "Content-Length: 5\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked", "Transfer-Encoding: gzip",
            "Transfer-Encoding: chunked\r\n\r\nzz\r\n", "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
            "Content-Length:",
            "Content-Encoding: gzip\r\nContent-Length: 3",
        )
    ),
]  # fmt: skip


def as_cases() -> list[tuple[str, str, bytes | None, dict[str, str]]]:
    """(method, path, body, headers)."""
    requests: list[object] = [*JSON_BODIES]
    requests += [with_input(name=name) for name in NAMES] + [with_input(datatype=value) for value in DATATYPES]
    requests += [with_input(shape=value) for value in SHAPES] + [with_input(data=value) for value in DATA]
    requests += [with_input(parameters=value) for value in PARAMETERS] + [{**good(), **values} for values in REQUESTS]
    requests += [without(key) for key in ("name", "shape", "datatype", "data")]
    requests += [
        with_input(1, data=[0] * 4),
        with_input(1, data=[2] * 4),
        with_input(2, data=[5] * 4),
        with_input(1, shape=[2, 2]),
        with_inputs(lambda inputs: inputs[:2]),
        with_inputs(lambda inputs: [*inputs, inputs[0]]),
        with_inputs(lambda inputs: [*inputs, inputs[0] | {"name": "more"}]),
        with_inputs(lambda inputs: inputs * 30),
    ]
    cases: list[tuple[str, str, bytes | None, dict[str, str]]] = []
    cases += [("POST", INFER, json.dumps(request).encode(), {}) for request in requests]
    cases += [("POST", INFER, body, headers) for body, headers in BODIES]
    cases += [("POST", CLASSIFY, json.dumps(request).encode(), {}) for request in TEXTS]
    cases += [(method, path, b"{}" if method == "POST" else None, {}) for method, path in ADDRESSES]
    cases += [("POST", path, json.dumps(request).encode(), {}) for path, request in COMMANDS]
    return cases


CASES = as_cases()


@pytest.mark.parametrize("case", range(len(CASES)))
def test_rest(server, case):
    method, path, body, headers = CASES[case]
    status, answer = ask(server, path, body, headers, method)
    assert 400 <= status < 500, (CASES[case], status, answer)
    if answer == b"Invalid HTTP request received.":
        return check_next(server)  # of uvicorn's own parser
    error = json.loads(answer)["error"]
    assert error.isascii() and error.isprintable() and len(error) < 1000
    check_next(server)


@pytest.mark.parametrize("case", range(len(LINES)))
def test_http(server, case):
    answer = server.raw(LINES[case])
    assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), (LINES[case][:200], answer)
    check_next(server)


def message(change: Callable[[Any], Any] = lambda _: None, raw: bool = False) -> Any:
    request = service_pb2.ModelInferRequest(model_name="tiny")
    for name, value in inputs_of([LENGTH]).items():
        entry = request.inputs.add(name=name, datatype="INT64", shape=value.shape)
        if raw:
            request.raw_input_contents.append(value.tobytes())
        else:
            entry.contents.int64_contents.extend(value.ravel().tolist())
    change(request)
    return request


def set_shape(shape: list[int]) -> Callable[[Any], None]:
    def change(request: Any) -> None:
        del request.inputs[0].shape[:]
        request.inputs[0].shape.extend(shape)

    return change


MESSAGES: list[tuple[Callable[[Any], Any], bool]] = [
    *(
        (set_shape(shape), raw)
        for raw in (True, False)
        for shape in ([], [1], [4], [4, 1], [1, 5], [-1, -4], [0, 4], [2**62, 4], [1, 67], [1] * 9)
    ),
    (lambda r: r.ClearField("inputs"), False),
    (lambda r: r.inputs.pop(), False),
    (lambda r: r.inputs.add(name="more"), False),
    (lambda r: r.inputs.append(r.inputs[0]), False),
    (lambda r: setattr(r.inputs[0], "name", "x\x1b[31m\n"), False),
    (lambda r: setattr(r.inputs[0], "name", ""), False),
    (lambda r: setattr(r.inputs[0], "datatype", "INT32"), False),
    (lambda r: setattr(r.inputs[0], "datatype", "x" * 5000), False),
    (lambda r: setattr(r.inputs[0], "datatype", "FP16"), False),
    (lambda r: r.inputs[0].contents.fp32_contents.append(1.0), False),
    (lambda r: r.inputs[0].contents.int64_contents.append(1), False),
    (lambda r: r.inputs[0].contents.int64_contents.pop(), False),
    (lambda r: r.inputs[0].contents.int64_contents.__setitem__(0, -1), False),
    (lambda r: r.inputs[0].contents.int64_contents.__setitem__(0, 2**62), False),
    (lambda r: r.inputs[0].ClearField("contents"), False),
    (lambda r: r.raw_input_contents.pop(), True),
    (lambda r: r.raw_input_contents.append(b"x"), True),
    (lambda r: r.raw_input_contents.__setitem__(0, b""), True),
    (lambda r: r.raw_input_contents.__setitem__(0, b"\xff" * 32), True),
    (lambda r: r.inputs[0].contents.int64_contents.append(1), True),
    (lambda r: r.outputs.add(name="x"), False),
    (lambda r: [r.outputs.add(name="logits") for _ in range(2)], False),
    (lambda r: r.outputs.add(), False),
    (lambda r: r.parameters["timeout"].MergeFrom(service_pb2.InferParameter(string_param="x")), False),
    (lambda r: r.parameters["timeout"].MergeFrom(service_pb2.InferParameter(int64_param=-1)), False),
    (lambda r: r.parameters["sequence_id"].MergeFrom(service_pb2.InferParameter(int64_param=5)), False),
    (lambda r: r.inputs[0].parameters["shared_memory_region"].MergeFrom(service_pb2.InferParameter(string_param="x")), False),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(MESSAGES)))
def test_grpc(stub, case):
    change, raw = MESSAGES[case]
    assert status_of(stub.ModelInfer, message(change, raw)) == "INVALID_ARGUMENT"
    assert status_of(stub.ModelInfer, message()) == "OK"


def test_grpc_names(stub):
    for name, version in (("unknown", ""), ("", ""), ("../../etc", ""), ("tiny", "2"), ("\x1b[31m\n", "")):
        request = message(
            lambda r, name=name, version=version: (setattr(r, "model_name", name), setattr(r, "model_version", version))
        )
        assert status_of(stub.ModelInfer, request) == "NOT_FOUND"
    load = service_pb2.RepositoryModelLoadRequest(model_name="tiny")
    load.parameters["config"].string_param = "{}"
    assert status_of(stub.RepositoryModelLoad, load) == "INVALID_ARGUMENT"
    assert status_of(stub.ModelInfer, message()) == "OK"


@pytest.mark.parametrize("content", [b"\xff", b"\x0a\xff", b"\0" * 9, b"\x0a\x01\xff", b"x" * 1000], ids=range(5))
def test_grpc_bytes_that_are_no_message(server, stub, content):
    import grpc

    with grpc.insecure_channel(server.grpc) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        assert status_of(call, content) == "INVALID_ARGUMENT"
    assert status_of(stub.ModelInfer, message()) == "OK"


def test_grpc_too_large_and_packed(server, stub):
    import grpc

    large = message(lambda r: r.raw_input_contents.append(bytes(300_000)), True)
    assert status_of(stub.ModelInfer, large) == "RESOURCE_EXHAUSTED"
    assert status_of(
        lambda request, timeout: stub.ModelInfer(request, timeout=timeout, compression=grpc.Compression.Gzip), large
    ) in (
        "RESOURCE_EXHAUSTED",
        "INVALID_ARGUMENT",
    )
    assert server.raw(b"GET / HTTP/1.1\r\n\r\n") is not None
    assert status_of(stub.ModelInfer, message()) == "OK"


def status_of(call: Callable[..., Any], request: Any) -> str:
    import grpc

    try:
        call(request, timeout=10)
    except grpc.RpcError as error:
        details = error.details()
        assert details.isascii() and details.isprintable() and len(details) < 1000
        return str(error.code().name)
    return "OK"
