"""A server as a user starts it: a process of its own, bounded in time, that ends with the test."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from axform.runtime import load_session
from bundles import with_its_checksums

START_SECONDS = 30


class Server:
    """A running server.

    Attributes:
        http, grpc: HOST:PORT.
        announced: what it said on stdout.
        log: its lines so far, as they were written.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        timer = threading.Timer(START_SECONDS, process.kill)
        timer.start()
        self.announced = ""
        while line := process.stdout.readline():
            self.announced += line
            if line.startswith("serving "):
                break
        timer.cancel()
        found = re.search(r"serving http://(\S+) and gRPC (\S+);", self.announced)
        if found is None:
            process.wait(10)
            self._reader.join(10)
            raise AssertionError(self.announced + "".join(self.log))
        self.http, self.grpc = found.groups()

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log]

    def wait_for(self, event: str, seconds: float = 15, **values: Any) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for line in self.events():
                if line["event"] == event and values.items() <= line.items():
                    return line
            time.sleep(0.02)
        raise AssertionError(f"no {event} {values} in {self.log}")

    def raw(self, content: bytes, seconds: float = 10) -> bytes:
        """What comes back for these bytes, until the server hangs up or nothing comes for a while."""
        host, port = self.http.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=seconds) as connection:
            try:
                connection.sendall(content)
                connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it has hung up already
            parts = []
            try:
                while part := connection.recv(65536):
                    parts.append(part)
            except OSError:
                pass
            return b"".join(parts)

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        self._reader.join(5)
        return code

    def _read(self) -> None:
        for line in self.process.stderr:
            self.log.append(line)


@contextmanager
def serving(*arguments: object) -> Iterator[Server]:
    """A server of ``axform serve`` on free ports, ended with the block."""
    process = start(*arguments)
    try:
        yield Server(process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def start(*arguments: object) -> subprocess.Popen[str]:
    command = "import sys; from axform.cli import main; sys.argv[0] = 'axform'; main()"
    ports: tuple[str, ...] = () if "--port" in arguments else ("--port", "0")
    ports += () if "--grpc-port" in arguments else ("--grpc-port", "0")
    delay = () if "--drain-delay" in arguments else ("--drain-delay", "0")
    return subprocess.Popen(
        [sys.executable, "-c", command, "serve", *map(str, (*arguments, *ports, *delay))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def with_tokenizer(bundle: Path, folder: Path) -> Path:
    """A copy of a bundle that also takes texts: one token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    shutil.copytree(bundle, folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "a"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    with_its_checksums(folder)
    return folder


def inputs_of(lengths: list[int], seed: int = 0) -> dict[str, np.ndarray]:
    """Rows of these lengths, padded to the longest, as the tiny bundle takes them."""
    random = np.random.default_rng(seed)
    mask = (np.arange(max(lengths))[None] < np.array(lengths)[:, None]).astype(np.int64)
    ids = random.integers(4, 60, mask.shape) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def alone(bundle: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """What the model answers without a server."""
    return load_session(bundle, "cpu", 1).run(None, inputs)[0]
