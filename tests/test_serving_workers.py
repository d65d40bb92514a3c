"""Several workers behind one address: what reaches one reaches all, a killed one comes back, a changed bundle is loaded."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from axform.runtime.bundle import Bundle
from axform.serving.peers import Peers, send_line
from axform.serving.refusals import Refused
from axform.serving.settings import ServeSettings
from axform.serving.sockets import Sockets
from bundles import with_its_checksums
from serving_process import Server, serving, start, with_tokenizer

pytest.importorskip("uvicorn")
pytest.importorskip("tritonclient.grpc")
from axform.serving.supervisor import Supervisor, _Process

TEXTS = {"texts": ["a good film", "bad"]}


@pytest.fixture(scope="module")
def bundle(tiny_bundle, tmp_path_factory) -> Path:
    return with_tokenizer(tiny_bundle, tmp_path_factory.mktemp("served") / "tiny")


@pytest.fixture
def copy(bundle, tmp_path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def ask(server: Server, path: str, body: Any = None) -> Any:
    content = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(f"http://{server.http}{path}", content), timeout=10) as answer:
        return json.loads(answer.read() or b"null")


def labels(server: Server, model: str) -> set[str]:
    return set(ask(server, f"/v1/models/{model}/classify", TEXTS)["predictions"][0]["scores"])


@contextmanager
def under_load(server: Server, model: str) -> Iterator[list[object]]:
    """What three clients met meanwhile: None for each answer, or an error."""
    met: list[object] = []
    ended = threading.Event()

    def client() -> None:
        while not ended.is_set():
            try:
                ask(server, f"/v1/models/{model}/classify", TEXTS)
                met.append(None)
            except OSError as error:
                met.append(error)

    threads = [threading.Thread(target=client) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield met
    finally:
        ended.set()
        for thread in threads:
            thread.join(15)


def eventually(condition: Any, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_workers_are_one_server_and_come_back(bundle):
    with serving(bundle, f"other={bundle}", "--workers", 2) as server:
        first = {line["worker"]: line["pid"] for line in server.events() if line["event"] == "worker ready"}
        assert first.keys() == {0, 1}
        for _ in range(40):
            ask(server, "/v1/models/tiny/classify", TEXTS)
        ask(server, "/v2/repository/models/other/unload", {})
        for _ in range(20):
            assert {row["name"]: row["state"] for row in ask(server, "/v2/repository/index", {})}[
                "other"
            ] == "UNAVAILABLE"
        assert ask(server, "/v2/models/stats")["model_stats"][0]["inference_count"] == 80
        os.kill(first[1], signal.SIGKILL)
        ended = server.wait_for("worker ended", worker=1)
        assert ended["code"] == -signal.SIGKILL
        labels(server, "tiny")
        eventually(lambda: sum(line["event"] == "worker ready" for line in server.events()) == 3)
        for _ in range(20):
            assert {row["name"]: row["state"] for row in ask(server, "/v2/repository/index", {})}[
                "other"
            ] == "UNAVAILABLE"
        ask(server, "/v2/repository/models/other/load", {})
        for _ in range(20):
            labels(server, "other")
        os.kill(first[0], signal.SIGTERM)  # one alone is replaced without a request lost
        with under_load(server, "tiny") as met:
            server.wait_for("worker ended", worker=0, code=0)
            eventually(lambda: sum(line["event"] == "worker ready" for line in server.events()) == 4)
        assert len(met) > 10 and set(met) == {None}
        assert server.stop() == 0


def test_a_changed_bundle_is_loaded_without_a_lost_request(copy):
    with serving(copy, "--workers", 2, "--watch") as server:
        assert labels(server, "copy") == {"0", "1"}
        Bundle(copy).save_result("check", {"passed": True})
        time.sleep(1.3)
        assert not [line for line in server.events() if line["event"] == "load"]
        with under_load(server, "copy") as met:
            with_its_checksums(copy, labels=["no", "yes"])
            new = copy.parent / "new"
            shutil.copytree(copy, new)
            copy.rename(copy.parent / "old")
            time.sleep(0.3)
            new.rename(copy)
            server.wait_for("load", outcome="success")
            time.sleep(0.2)
            assert all(labels(server, "copy") == {"no", "yes"} for _ in range(20))
            (copy / "model.onnx").write_bytes(b"damaged")
            server.wait_for("load", outcome="failure")
            assert labels(server, "copy") == {"no", "yes"}
        assert len(met) > 20 and set(met) == {None}


def test_sigterm_to_all_processes_ends_as_sigterm_to_the_server_alone(bundle):
    """As systemd does it, and a terminal at Ctrl-C; only a second one to the server is in a hurry."""
    with serving(bundle, "--workers", 2, "--drain-delay", 20) as server:
        workers = [line["pid"] for line in server.events() if line["event"] == "worker ready"]
        for pid in (*workers, server.process.pid):
            os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + 2
        while time.monotonic() < until:
            labels(server, "tiny")
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 15


def test_what_cannot_be_served_is_one_error_of_all_workers(copy):
    (copy / "model.onnx").write_bytes(b"damaged")
    process = start(copy, "--workers", 2)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 2 and out == ""
    assert [line for line in err.splitlines() if not line.startswith("{")] == [err.splitlines()[-1]]
    assert "model.onnx" in err.splitlines()[-1]


def test_a_signal_to_a_worker_that_ends_by_itself_leaves_its_exit_code():
    async def codes() -> list[int]:
        found = []
        for _ in range(20):
            process = await asyncio.create_subprocess_exec("sh", "-c", "exit 3")
            worker = _Process(0, process, SimpleNamespace())
            ended = asyncio.create_task(process.wait())
            while not ended.done():
                worker.send(signal.SIGCONT)
                await asyncio.sleep(0)
            worker.send(signal.SIGCONT)
            found.append(await ended)
        return found

    assert asyncio.run(codes()) == [3] * 20


def test_workers_end_with_their_supervisor(bundle):
    with serving(bundle, "--workers", 2) as server:
        workers = [line["pid"] for line in server.events() if line["event"] == "worker ready"]
        server.process.kill()
        server.process.wait(10)
        eventually(lambda: not any(Path(f"/proc/{pid}/stat").exists() for pid in workers))


def test_a_system_without_filters_for_users_does_not_disturb_the_end():
    class Listener:
        def setsockopt(self, *_: object) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

    Sockets("127.0.0.1", Listener(), Listener()).take_no_more()


def test_a_worker_that_cannot_be_started_again_is_tried_again(monkeypatch):
    class Ended:
        pid, returncode = 1 << 30, 0  # no system gives that number

        async def wait(self) -> int:
            return 0

    async def keep() -> list[object]:
        supervisor = Supervisor(ServeSettings(bundles={}), lambda *_: None)
        tried: list[object] = []

        async def spawn(index: int, _: object, is_replacement: bool) -> _Process:
            tried.append(is_replacement)
            if len(tried) in (2, 3):
                raise OSError(errno.ENOMEM, "Cannot allocate memory")
            if len(tried) == 4:
                supervisor._stop.set()
            ours, _ = socket.socketpair()
            worker = _Process(index, Ended(), (await asyncio.open_connection(sock=ours))[1])
            worker.ready.set()
            return worker

        monkeypatch.setattr(supervisor, "_spawn", spawn)
        await asyncio.wait_for(supervisor._keep(0, Sockets("127.0.0.1", socket.socket(), socket.socket())), 30)
        return tried

    assert asyncio.run(keep()) == [False, True, True, True]


def test_what_is_told_while_a_process_starts_reaches_it(monkeypatch):
    async def said() -> dict[str, Any]:
        supervisor = Supervisor(ServeSettings(bundles={"m": "m"}), lambda *_: None)
        lines: list[socket.socket] = []

        async def create(*_: object, pass_fds: tuple[int, int], **__: object) -> SimpleNamespace:
            await supervisor._ask_all("unload", "m")
            lines.append(socket.socket(fileno=os.dup(pass_fds[1])))
            return SimpleNamespace(pid=1, returncode=None)

        monkeypatch.setattr(asyncio, "create_subprocess_exec", create)
        await supervisor._spawn(0, Sockets("127.0.0.1", socket.socket(), socket.socket()), True)
        reader, writer = await asyncio.open_connection(sock=lines[0])
        send_line(writer, type="ready", models=[])
        told: dict[str, Any] = json.loads(await asyncio.wait_for(reader.readline(), 10))
        return told

    told = asyncio.run(said())
    assert (told["command"], told["model"]) == ("unload", "m")


def test_a_worker_whose_supervisor_has_gone_asks_nobody():
    async def ask() -> None:
        ours, theirs = socket.socketpair()
        peers = await Peers.connect(ours)
        theirs.close()

        async def obey(command: str, model: str) -> dict[str, Any]:
            return {}

        await peers.listen(obey)
        await asyncio.wait_for(peers.ask("counts"), 5)

    with pytest.raises(Refused, match="about to stop"):
        asyncio.run(ask())
