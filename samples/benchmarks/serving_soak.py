"""Does the server grow? Half an hour of everything that clients do, and the memory of each worker meanwhile.

Clients ask with texts of mixed lengths, send what is no request, leave before their answer comes, and send large bodies;
the bundle is loaded again every so often. Memory is read from /metrics. What is reported is the slope over the second
half: what a server needs in the first, it has then. The exit code is 1 where a request that was one was not answered,
or where a worker grows by more than --limit.

    python samples/benchmarks/serving_soak.py bundles/sst2 --minutes 30 --serve '--workers 2'
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from axform.console import run_app
from http_clients import post

from serving import texts as mixed_texts

PATH = "/v1/models/served/classify"
SERVE = "import sys; from axform.cli import main; sys.argv[0] = 'axform'; main()"
RELOAD_SECONDS = 20.0
BROKEN = [b"", b"{", b"[1, 2]", b'{"texts": 3}', b'{"texts": []}', b"\xff\xfe", b'{"texts": ["a"], "timeout": -1}']


@contextmanager
def running(bundle: Path, *options: str) -> Iterator[int]:
    """The port of a server on the loopback address, which ends with the block."""
    ports = ("--port", "0", "--grpc-port", "0", "--drain-delay", "0")
    command = [sys.executable, "-c", SERVE, "serve", f"served={bundle}", *ports, *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                yield int(found[1])
                return
        sys.exit("the server did not start; its messages are above")
    finally:
        process.terminate()
        process.wait(60)


class Connection:
    """A client of HTTP/1.1 that costs little beside the server."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, body: bytes, path: str = PATH) -> int:
        """The status of the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(post(path, body))
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = re.search(r"content-length: (\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        if "connection: close" in head:
            self.close()
        return int(head.split(" ", 2)[1])

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def client(port: int, texts: list[str], end: float, seed: int, counts: Counter[str]) -> None:
    """One client until ``end``; what became of its requests is counted."""
    generator, connection = random.Random(seed), Connection(port)
    while time.monotonic() < end:
        kind = generator.choices(["texts", "broken", "leaves", "large"], [90, 5, 4, 1])[0]
        if kind == "leaves":
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            body = json.dumps({"texts": generator.choices(texts, k=8)}).encode()
            writer.write(post(PATH, body))
            await asyncio.sleep(generator.random() / 100)
            writer.close()
            counts["left"] += 1
            continue
        if kind == "broken":
            body = generator.choice(BROKEN)
        elif kind == "large":
            body = json.dumps({"texts": ["a"], "ignored": "x" * 2_000_000}).encode()
        else:
            body = json.dumps({"texts": generator.choices(texts, k=generator.choice([1, 1, 1, 4]))}).encode()
        status = await connection.post(body)
        wanted = 400 if kind == "broken" else 200
        counts["answered" if status == wanted else f"{kind}: {status}"] += 1
    connection.close()


def memory(port: int) -> dict[str, float]:
    """Worker -> its resident bytes."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode()
    found = re.findall(r'^axform_worker_resident_bytes\{worker="(\d+)"\} (\S+)$', lines, re.MULTILINE)
    return {worker: float(size) for worker, size in found}


async def soak(port: int, texts: list[str], seconds: float, clients: int) -> tuple[Counter[str], list[tuple]]:
    """What became of requests, and (seconds, worker, bytes) all along."""
    counts: Counter[str] = Counter()
    seen: list[tuple] = []
    began = time.monotonic()
    end = began + seconds

    async def watch() -> None:
        while time.monotonic() < end:
            sizes = await asyncio.to_thread(memory, port)
            seen.extend((time.monotonic() - began, worker, size) for worker, size in sizes.items())
            await asyncio.sleep(min(5.0, seconds / 40))

    async def reload() -> None:
        connection = Connection(port)
        while time.monotonic() + RELOAD_SECONDS / 2 < end:
            await asyncio.sleep(min(RELOAD_SECONDS, seconds / 4))
            status = await connection.post(b"", "/v2/repository/models/served/load")
            counts["reloads" if status == 200 else f"reload: {status}"] += 1
        connection.close()

    await asyncio.gather(watch(), reload(), *(client(port, texts, end, seed, counts) for seed in range(clients)))
    return counts, seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--limit", type=float, default=5.0, help="MB that a worker may grow by in the second half")
    parser.add_argument("--serve", default="", help="options for axform serve, such as '--workers 2'")
    options = parser.parse_args()
    with running(options.bundle, *options.serve.split()) as port:
        counts, seen = asyncio.run(soak(port, mixed_texts(), options.minutes * 60, options.clients))

    print(", ".join(f"{name} {count:,}" for name, count in counts.most_common()))
    grows = False
    for worker in sorted({worker for _, worker, _ in seen}):
        points = np.array([(at, size) for at, name, size in seen if name == worker])
        late = points[points[:, 0] >= options.minutes * 30]
        slope = np.polyfit(late[:, 0], late[:, 1], 1)[0] if len(late) > 2 else float("nan")
        growth = slope * options.minutes * 30 / 1e6
        grows = grows or not growth <= options.limit
        print(
            f"worker {worker}: {points[0, 1] / 1e6:.0f} MB at first, {points[-1, 1] / 1e6:.0f} MB at last, at most "
            f"{points[:, 1].max() / 1e6:.0f} MB; {growth:+.1f} MB over the second half ({slope * 3600 / 1e6:+.1f} MB/h)"
        )
    lost = [name for name in counts if ":" in name]
    sys.exit(1 if grows or lost else 0)


if __name__ == "__main__":
    run_app(main)
