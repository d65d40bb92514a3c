"""Requests a second, and how long they take, of `axform serve` beside two servers that anybody would write first.

All answer the same texts of mixed lengths on the loopback address, in turn and in random order:

axform      axform serve BUNDLE, as it comes
naive       one ONNX Runtime session of the same file with all cores, a request at a time in each of uvicorn's threads
pipeline    transformers' pipeline on the unpruned architecture of the bundle in PyTorch, with untrained weights

    python samples/benchmarks/serving.py bundles/sst2 --clients 1 8 32 128 --seconds 10 --rounds 3

Clients keep their connection and send the next request when the last is answered. They share the machine with the servers.
So beside what clients see stands the processor time of the server for a request, which does not depend on who else computes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from axform.console import out, run_app, showing_progress, table
from axform.core.progress import Progress
from axform.errors import AxformError
from axform.files import write_json
from axform.runtime.bundle import Bundle
from axform.runtime.latency import machine_name
from axform.runtime.session import load_session
from axform.runtime.texts import Tokenization, probabilities
from http_clients import Answers, closed_loop, post

KINDS = ("axform", "naive", "pipeline")
CLIENTS, SECONDS, ROUNDS = (1, 8, 32, 128), 10.0, 3
START_SECONDS, REQUEST_SECONDS = 120, 60
WORDS = (
    "a",
    "the",
    "film",
    "is",
    "was",
    "very",
    "great",
    "dull",
    "plot",
    "with",
    "and",
    "of",
    "slow",
    "warm",
    "one",
    "story",
)
Figures = dict[str, Any]
Predict = Callable[[list[str]], list[str]]


@dataclass(frozen=True)
class Server:
    port: int
    process: psutil.Process

    def processor_seconds(self) -> float:
        """Of all its processes, so far."""
        processes = [self.process, *self.process.children(recursive=True)]
        return float(sum(sum(process.cpu_times()[:2]) for process in processes))


@dataclass(frozen=True)
class Load:
    answers: Answers
    processor: float
    """Seconds that the server computed meanwhile."""


def texts(count: int = 500) -> list[str]:
    """Sentences of 3 to 60 words, most of them short."""
    chance = random.Random(0)
    lengths = [min(60, max(3, int(chance.lognormvariate(2.5, 0.7)))) for _ in range(count)]
    return [" ".join(chance.choices(WORDS, k=length)) for length in lengths]


def naive(bundle: Bundle) -> Predict:
    session = load_session(bundle.path, "cpu")
    tokenization = Tokenization(bundle, [entry.name for entry in session.get_inputs()])

    def predict(given: list[str]) -> list[str]:
        labels = []
        for index in range(len(given)):
            feeds = {name: rows[0][None] for name, rows in tokenization.encode(given[index : index + 1]).items()}
            labels.append(int(probabilities(session.run(None, feeds)[0], bundle.manifest.labels).argmax()))
        return [bundle.manifest.labels[label] for label in labels]

    return predict


def pipeline(bundle: Bundle) -> Predict:
    import transformers

    config = transformers.AutoConfig.from_pretrained(bundle.path)
    config.num_labels = max(1, len(bundle.manifest.labels))
    classify = transformers.pipeline(
        "text-classification",
        model=transformers.AutoModelForSequenceClassification.from_config(config).eval(),
        tokenizer=transformers.AutoTokenizer.from_pretrained(bundle.path),
        device="cpu",
    )
    length = bundle.manifest.max_length
    return lambda given: [answer["label"] for answer in classify(given, truncation=True, max_length=length)]


def serve(kind: str, path: Path) -> None:
    """Be one of the servers to compare with; prints the port."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    bundle = Bundle(path)
    predict = naive(bundle) if kind == "naive" else pipeline(bundle)

    async def answer(request: Any) -> Any:
        given = await request.json()
        return JSONResponse({"labels": await run_in_threadpool(predict, given["texts"])})

    application = Starlette(routes=[Route(f"/v1/models/{kind}/classify", answer, methods=["POST"])])
    made = socket.create_server(("127.0.0.1", 0), backlog=1024)
    # By its descriptor a socket learns that it is TCP, without which asyncio would leave Nagle's delay of 40 ms in.
    listener = socket.socket(fileno=made.detach())
    print(f"serving http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(application, log_level="error")).run([listener])


@contextmanager
def running(kind: str, bundle: Path) -> Iterator[Server]:
    """A server, which ends with the block."""
    own = "import sys; from axform.cli import main; sys.argv[0] = 'axform'; main()"
    command = (
        ["-c", own, "serve", f"axform={bundle}", "--port", "0", "--grpc-port", "0", "--drain-delay", "0"]
        if kind == "axform"
        else [__file__, str(bundle), "--serve", kind]
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True, env=environment)
    guard = threading.Timer(START_SECONDS, process.kill)
    guard.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("serving "):
                guard.cancel()
                yield Server(int(line.split("127.0.0.1:")[1].split()[0]), psutil.Process(process.pid))
                return
        raise AxformError(f"{kind}: the server did not start; its messages are above.")
    finally:
        guard.cancel()
        process.terminate()
        process.wait(60)


def load(kind: str, server: Server, clients: int, seconds: float, given: Sequence[str]) -> Load:
    path = f"/v1/models/{kind}/classify"
    requests = [post(path, json.dumps({"texts": [text]}).encode()) for text in given]
    before = server.processor_seconds()
    answers = closed_loop(server.port, requests, clients, seconds, REQUEST_SECONDS)
    return Load(answers, server.processor_seconds() - before)


def compare(
    bundle: Path, kinds: Sequence[str], clients: Sequence[int], seconds: float, rounds: int, progress: Progress
) -> list[Figures]:
    given = texts()
    found: dict[tuple[int, str], list[Load]] = {}
    cells = [(count, kind) for count in clients for kind in kinds]
    with ExitStack() as stack:
        progress.stage("starting servers")
        servers = {kind: stack.enter_context(running(kind, bundle)) for kind in kinds}
        for kind in kinds:
            load(kind, servers[kind], 4, min(seconds, 2.0), given)
        progress.stage("serving")
        for number in range(rounds):
            for step, (count, kind) in enumerate(random.Random(number).sample(cells, len(cells)), 1):
                found.setdefault((count, kind), []).append(load(kind, servers[kind], count, seconds, given))
                progress.step(number * len(cells) + step, rounds * len(cells))
    return [figures(count, kind, found[count, kind]) for count, kind in cells]


def figures(clients: int, kind: str, runs: Sequence[Load]) -> Figures:
    times = np.array([second for run in runs for second in run.answers.times] or [np.nan]) * 1000
    return {
        "clients": clients,
        "server": kind,
        "per_second": statistics.median(len(run.answers.times) / run.answers.seconds for run in runs),
        **{f"p{level}_ms": float(np.percentile(times, level)) for level in (50, 95, 99)},
        "processor_ms": statistics.median(1000 * run.processor / max(1, len(run.answers.times)) for run in runs),
        "requests": sum(len(run.answers.times) for run in runs),
        "failed": sum(run.answers.failed for run in runs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--clients", nargs="+", type=int, default=list(CLIENTS))
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each round, server and number of clients")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", choices=KINDS[1:], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        return serve(given.serve, given.bundle)
    with showing_progress() as progress:
        rows = compare(given.bundle, given.kinds, given.clients, given.seconds, given.rounds, progress)
    columns = ("clients", "server", "requests/s", "p50 ms", "p95 ms", "p99 ms", "processor ms", "requests", "no answer")
    cells = []
    for row in rows:
        times = [f"{row[f'p{level}_ms']:.1f}" for level in (50, 95, 99)]
        cells.append(
            [
                str(row["clients"]),
                row["server"],
                f"{row['per_second']:.1f}",
                *times,
                f"{row['processor_ms']:.2f}",
                str(row["requests"]),
                str(row["failed"]),
            ]
        )
    out.print(table(f"{given.bundle.name} on {machine_name()}", columns, cells))
    if given.json is not None:
        write_json(given.json, rows)


if __name__ == "__main__":
    run_app(main)
