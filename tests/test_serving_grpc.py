"""The server over gRPC, as an unmodified client sees it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from serving_process import Server, alone, inputs_of, serving

grpcclient = pytest.importorskip("tritonclient.grpc")
CLOSE = 1e-5


@pytest.fixture(scope="module")
def server(tiny_bundle) -> Iterator[Server]:
    with serving(f"tiny={tiny_bundle}", f"other={tiny_bundle}") as running:
        yield running


@pytest.fixture
def client(server) -> Iterator[Any]:
    with grpcclient.InferenceServerClient(server.grpc) as made:
        yield made


def tensors(inputs: dict[str, np.ndarray]) -> list[Any]:
    made = []
    for name, value in inputs.items():
        made.append(grpcclient.InferInput(name, value.shape, "INT64"))
        made[-1].set_data_from_numpy(value)
    return made


def test_it_tells_of_itself_and_its_models(client):
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("tiny", "1")
    assert not client.is_model_ready("unknown")
    assert client.get_server_metadata().name == "axform"
    metadata = client.get_model_metadata("tiny")
    assert [entry.name for entry in metadata.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    config = client.get_model_config("tiny", as_json=True)["config"]
    assert config["max_batch_size"] == 32
    with pytest.raises(grpcclient.InferenceServerException) as error:
        client.get_model_metadata("unknown")
    assert error.value.status() == "StatusCode.NOT_FOUND"


@pytest.mark.parametrize("packed", [None, "gzip", "deflate"])
def test_tensors(client, tiny_bundle, packed):
    inputs = inputs_of([9, 5, 20])
    wanted = [grpcclient.InferRequestedOutput("logits")]
    for outputs in (None, wanted):
        answer = client.infer(
            "tiny", tensors(inputs), outputs=outputs, request_id="mine", compression_algorithm=packed, client_timeout=10
        )
        np.testing.assert_allclose(answer.as_numpy("logits"), alone(tiny_bundle, inputs), atol=CLOSE)
        assert answer.get_response().id == "mine"


def test_numbers_in_their_own_fields(client, tiny_bundle):
    from tritonclient.grpc import service_pb2

    inputs = inputs_of([7, 3])
    request = service_pb2.ModelInferRequest(model_name="tiny")
    for name, value in inputs.items():
        entry = request.inputs.add(name=name, datatype="INT64", shape=value.shape)
        entry.contents.int64_contents.extend(value.ravel().tolist())
    answer = grpcclient.InferResult(client._client_stub.ModelInfer(request, timeout=10))
    np.testing.assert_allclose(answer.as_numpy("logits"), alone(tiny_bundle, inputs), atol=CLOSE)


def test_many_at_once(client, tiny_bundle):
    import queue

    answers: queue.Queue[Any] = queue.Queue()
    requests = [inputs_of([1 + number * 5 % 60], seed=number) for number in range(30)]
    for number, inputs in enumerate(requests):
        client.async_infer(
            "tiny", tensors(inputs), lambda result, error: answers.put((result, error)), request_id=str(number)
        )
    for _ in requests:
        result, error = answers.get(timeout=20)
        assert error is None
        expected = alone(tiny_bundle, requests[int(result.get_response().id)])
        np.testing.assert_allclose(result.as_numpy("logits"), expected, atol=CLOSE)


def test_statistics_loading_and_unloading(client):
    client.infer("other", tensors(inputs_of([4, 4])))
    statistics = client.get_inference_statistics("other").model_stats[0]
    assert statistics.inference_count == 2 and statistics.inference_stats.success.count == 1
    client.unload_model("other")
    assert {entry.name: entry.state for entry in client.get_model_repository_index().models} == {
        "tiny": "READY",
        "other": "UNAVAILABLE",
    }
    with pytest.raises(grpcclient.InferenceServerException) as error:
        client.infer("other", tensors(inputs_of([4])))
    assert error.value.status() == "StatusCode.UNAVAILABLE"
    client.load_model("other")
    client.infer("other", tensors(inputs_of([4])))


def test_keys_limits_and_deadlines(tiny_bundle, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("0123456789abcdef0123\n")
    options = ("--api-key-file", keys, "--max-body-mb", 0.01, "--max-delay-ms", 500, "--max-batch", 8)
    with serving(f"tiny={tiny_bundle}", *options) as running:
        client = grpcclient.InferenceServerClient(running.grpc)
        assert client.is_server_ready()
        for headers in (None, {"authorization": "Bearer 0123456789abcdef012"}):
            assert status_of(client, tensors(inputs_of([4])), headers=headers) == "StatusCode.UNAUTHENTICATED"
        allowed = {"authorization": "Bearer 0123456789abcdef0123"}
        assert status_of(client, tensors(inputs_of([4])), headers=allowed) == "OK"
        assert (
            status_of(client, tensors(inputs_of([4])), headers=allowed, timeout=1000) == "StatusCode.DEADLINE_EXCEEDED"
        )
        assert status_of(client, tensors(inputs_of([60] * 8)), headers=allowed) == "StatusCode.RESOURCE_EXHAUSTED"
        assert status_of(client, tensors(inputs_of([4] * 9)), headers=allowed) == "StatusCode.INVALID_ARGUMENT"
        assert status_of(client, tensors(inputs_of([4])), headers=allowed) == "OK"
        client.close()


def status_of(client: Any, inputs: list[Any], **options: Any) -> str:
    try:
        client.infer("tiny", inputs, client_timeout=10, **options)
    except grpcclient.InferenceServerException as error:
        return str(error.status())
    return "OK"


def test_sigterm_answers_what_was_asked(tiny_bundle):
    import queue

    answers: queue.Queue[Any] = queue.Queue()
    with serving(f"tiny={tiny_bundle}", "--max-delay-ms", 800, "--drain-delay", 0.1) as running:
        client = grpcclient.InferenceServerClient(running.grpc)
        assert client.is_server_ready()
        for _ in range(5):
            client.async_infer("tiny", tensors(inputs_of([4])), lambda result, error: answers.put(error))
        assert status_after_start(running) == 0
        assert [answers.get(timeout=10) for _ in range(5)] == [None] * 5
        client.close()


def status_after_start(running: Server) -> int:
    import time

    time.sleep(0.3)
    return running.stop()
