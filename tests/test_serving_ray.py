"""Replicas under Ray Serve: what reaches one reaches all, and, where ray is installed, two of them on this machine."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from axform.errors import AxformError
from axform.serving.ray_board import STOP, Board, BoardPeers
from axform.serving.replicas import Replicas
from bundles import with_its_checksums
from serving_process import with_tokenizer
from support import run_command

pytest.importorskip("uvicorn")
pytest.importorskip("tritonclient.grpc")
HAS_RAY = importlib.util.find_spec("ray") is not None
TEXTS = {"texts": ["a good film", "bad"]}


class Replica:
    """A replica that only remembers what it was told."""

    def __init__(self, board: Board) -> None:
        async def call(method: str, *arguments: Any) -> Any:
            return json.loads(json.dumps(getattr(board, method)(*arguments)))  # as between processes

        async def obey(command: str, model: str) -> dict[str, Any]:
            if command == "counts":
                return {"worker": self.peers.worker}
            if model == "damaged":
                return {"error": "is damaged"}
            self.told.append((command, model))
            return {}

        self.told: list[tuple[str, str]] = []
        self.peers = BoardPeers(call)
        self.peers.obey = obey
        asyncio.run(self.peers.join())

    def ask(self, *what: str) -> list[dict[str, Any]]:
        return asyncio.run(self.peers.ask(*what))

    def look(self) -> None:
        asyncio.run(self.peers.look())


def test_a_command_reaches_every_replica_once():
    board = Board()
    first, second = Replica(board), Replica(board)
    first.ask("unload", "a")
    second.ask("load", "b")
    assert "error" in first.ask("load", "damaged")[0]
    for _ in range(2):
        first.look()
        second.look()
    assert first.told == [("unload", "a"), ("load", "b")]
    assert second.told == [("load", "b"), ("unload", "a")]
    late = Replica(board)
    assert late.peers.unloaded == ["a"]
    late.look()
    assert late.told == []
    board.post(-1, STOP, "")
    for replica in (first, second, late):
        replica.look()
        assert replica.told[-1] == (STOP, "")


def test_the_last_command_for_a_model_holds_in_every_replica():
    board = Board()
    first, second = Replica(board), Replica(board)
    first.ask("unload", "a")
    second.ask("load", "a")
    second.ask("unload", "b")
    first.ask("unload", "a")
    first.ask("load", "a")
    for replica in (first, second):
        replica.look()
    assert first.told == [("unload", "a"), ("unload", "a"), ("load", "a"), ("unload", "b")]
    assert second.told == [("load", "a"), ("unload", "b"), ("load", "a")]
    second.ask("unload", "a")
    first.ask("load", "a")
    for replica in (first, second):
        replica.look()
    assert first.told[-1] == second.told[-1] == ("load", "a")


def test_counts_are_of_all_replicas_that_are_there(monkeypatch):
    board = Board()
    replicas = [Replica(board) for _ in range(3)]
    for _ in range(2):
        for replica in replicas:
            replica.look()
    assert sorted(counts["worker"] for counts in replicas[1].ask("counts")) == [0, 1, 2]
    later = time.monotonic() + 60
    monkeypatch.setattr(time, "monotonic", lambda: later)
    replicas[0].look()
    replicas[1].look()
    replicas[0].look()
    assert sorted(counts["worker"] for counts in replicas[0].ask("counts")) == [0, 1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "--replicas 0: give a whole number from 1 on"),
        ({"count": 2, "most": 4}, "leave it out"),
        ({"least": 2}, "--min-replicas needs --max-replicas"),
        ({"least": 3, "most": 2}, "--max-replicas 2: give at least --min-replicas, 3"),
    ],
)
def test_replicas_that_cannot_be(values, message):
    with pytest.raises(AxformError, match=message):
        Replicas(**values).check()


def test_bounds_become_ray_serves_own(tiny_bundle, monkeypatch):
    from axform.serving import ray_serve
    from axform.serving.settings import ServeSettings

    asked: dict[str, Any] = {}

    class Serve:
        def deployment(self, **options: Any) -> Any:
            asked.clear()
            asked.update(options)
            return lambda made: made

        def ingress(self, application: Any) -> Any:
            class Bound:
                bind = staticmethod(lambda: application)

            return lambda: Bound

    monkeypatch.setattr(ray_serve, "usable_cores", lambda: 4)
    settings = ServeSettings(bundles={"tiny": str(tiny_bundle)}, max_queue=100, max_batch=16)
    ray_serve._application(Serve(), settings, Replicas(least=1, most=2))
    assert asked["autoscaling_config"] == {"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 8}
    assert asked["ray_actor_options"] == {"num_cpus": 2.0} and "num_replicas" not in asked
    assert asked["graceful_shutdown_timeout_s"] == 30 and asked["max_ongoing_requests"] > settings.max_queue
    ray_serve._application(Serve(), settings, Replicas(count=6))
    assert asked["num_replicas"] == 6 and 6 * asked["ray_actor_options"]["num_cpus"] <= 4
    assert "autoscaling_config" not in asked


def test_the_command_says_what_is_missing_or_goes_with_ray_only(tiny_bundle, capsys):
    def refusal(*options: str) -> str:
        code, printed = run_command(capsys, "serve", tiny_bundle, *options)
        assert code == 2 and printed.err.count("\n") == 1
        return printed.err

    assert "give --ray" in refusal("--replicas", "2")
    if HAS_RAY:
        assert "give --replicas" in refusal("--ray", "--workers", "2")
    else:
        assert "pip install 'axform[cpu,serve,ray]'" in refusal("--ray")


@pytest.mark.skipif(not HAS_RAY, reason="ray is not installed: pip install 'axform[ray]'")
def test_two_replicas_answer_reload_and_drain(tiny_bundle, tmp_path):
    bundle = Path(shutil.copytree(with_tokenizer(tiny_bundle, tmp_path / "made"), tmp_path / "tiny"))
    script = "import sys; from axform.cli import main; sys.argv[0] = 'axform'; main()"
    arguments = ["serve", str(bundle), "--ray", "--replicas", "2", "--port", "0", "--watch", "--drain-delay", "0"]
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        announced = ""
        while line := process.stdout.readline():
            announced += line
            if line.startswith("serving "):
                break
        assert "there is no gRPC under Ray" in announced, process.stderr and process.stderr.read()
        address = announced.split("serving ")[1].split(";")[0]

        def ask(path: str, body: Any = None) -> Any:
            content = None if body is None else json.dumps(body).encode()
            with urllib.request.urlopen(urllib.request.Request(address + path, content), timeout=30) as answer:
                return answer.read()

        def labels() -> set[str]:
            return set(json.loads(ask("/v1/models/tiny/classify", TEXTS))["predictions"][0]["scores"])

        def eventually(condition: Any) -> None:
            deadline = time.monotonic() + 60
            while not condition():
                assert time.monotonic() < deadline
                time.sleep(0.3)

        def answered() -> list[str]:
            lines = ask("/metrics").decode().splitlines()
            return [line for line in lines if line.startswith("axform_requests_total") and not line.endswith(" 0.0")]

        eventually(lambda: labels() == {"0", "1"} and len(answered()) == 2)  # two replicas have answered
        assert json.loads(ask("/v2/models/stats"))["model_stats"][0]["inference_count"] > 2

        new = Path(shutil.copytree(bundle, tmp_path / "new"))
        with_its_checksums(new, labels=["no", "yes"])
        bundle.rename(tmp_path / "old")
        new.rename(bundle)
        eventually(lambda: all(labels() == {"no", "yes"} for _ in range(20)))

        ask("/v2/repository/models/tiny/unload", {})

        def unloaded() -> bool:
            try:
                ask("/v2/models/tiny/ready")
            except urllib.error.HTTPError as error:
                return error.code == 503
            return False

        eventually(lambda: all(unloaded() for _ in range(10)))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            process.kill()
