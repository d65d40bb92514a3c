"""The Triton server of nvidia-pytriton's wheel with a model of its python backend, on free ports of this machine."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SERVER = os.environ.get("AXFORM_TRITON_SERVER")
"""Path of its tritonserver; see samples/triton_oracle.py."""
needs_triton = pytest.mark.skipif(not SERVER, reason="AXFORM_TRITON_SERVER names no tritonserver")
START_SECONDS = 60
MODEL = """
import sys

sys.path.insert(0, {site_packages!r})  # the stub knows its own interpreter only
import numpy as np
import triton_python_backend_utils as utils


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            ids, mask, types = (
                utils.get_input_tensor_by_name(request, name).as_numpy()
                for name in ("input_ids", "attention_mask", "token_type_ids")
            )
            total = (ids * mask + types).sum(axis=1).astype(np.float32)
            answers.append(utils.InferenceResponse([utils.Tensor("logits", np.stack([total, -total], axis=1))]))
        return answers
"""


def oracle() -> Any:
    """The script samples/triton_oracle.py as a module."""
    path = Path(__file__).parents[1] / "samples" / "triton_oracle.py"
    spec = importlib.util.spec_from_file_location("triton_oracle", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def with_python_backend(repository: Path, folder: Path) -> Path:
    """A copy of a repository whose models are computed by `MODEL`; all else of their configurations stays."""
    shutil.copytree(repository, folder)
    for config in folder.glob("*/config.pbtxt"):
        config.write_text(config.read_text().replace('backend: "onnxruntime"', 'backend: "python"'))
        text = MODEL.format(site_packages=str(oracle().site_packages_of(Path(SERVER))))
        (config.parent / "1" / "model.py").write_text(text)
    return folder


@contextmanager
def serving(repository: Path, scratch: Path) -> Iterator[tuple[str, str]]:
    """A server of a repository: (HOST:PORT of HTTP, HOST:PORT of gRPC)."""
    script, server = oracle(), Path(SERVER)
    http, grpc = _free_ports(2)
    command = [
        str(server),
        f"--model-repository={repository}",
        f"--backend-directory={_backends(scratch)}",
        *("--model-control-mode=explicit", "--load-model=*", "--allow-metrics=0"),
        *("--http-address=127.0.0.1", f"--http-port={http}", "--grpc-address=127.0.0.1", f"--grpc-port={grpc}"),
    ]
    log = scratch / "triton.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            env=script.environment_of(server),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_until_ready(process, http, log)
        yield f"127.0.0.1:{http}", f"127.0.0.1:{grpc}"
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()


def _backends(scratch: Path) -> Path:
    """The wheel keeps the stubs of each Python elsewhere than its backend looks for one."""
    script, server = oracle(), Path(SERVER)
    version = re.search(r"python(3\.\d+)", str(script.site_packages_of(server)))[1]
    folder = Path(shutil.copytree(script.backends_of(server), scratch / "backends"))
    stub = server.parent.parent / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, folder / "python")
    return folder


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [listener.getsockname()[1] for listener in sockets]
    finally:
        for listener in sockets:
            listener.close()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=2):
                return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(log.read_text()[-4000:])
