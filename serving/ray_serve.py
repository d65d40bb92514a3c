"""``axform serve --ray``: replicas of the REST application under Ray Serve, which places and scales them.

Ray's usage statistics and dashboard are off. Without RAY_ADDRESS a cluster of this machine's loopback is started and ends
with the command; with it the replicas run on that cluster, whose nodes must see the bundles under the same paths.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from ..core.cores import usable_cores
from ..errors import AxformError
from .logs import log
from .model import ServedModel, load_model
from .ray_board import STOP, Board
from .ray_replica import BOARD, NAMESPACE, ReplicaApplication
from .replicas import Replicas, check_ray
from .settings import ServeSettings
from .worker import DRAIN_SECONDS

__all__ = ["serve_with_ray"]

_APPLICATION = "axform"
_OBJECT_STORE = 100_000_000
"""Bytes of shared memory; requests do not go through it."""
_NOBODY = -1
"""Who tells all replicas and is none of them."""
_UNTIL_SEEN = 1.5
"""Seconds in which every replica has looked at the board."""


def serve_with_ray(
    settings: ServeSettings, replicas: Replicas, on_ready: Callable[[list[dict[str, str]], str], None]
) -> None:
    """Serve until SIGTERM or SIGINT, then answer what was asked.

    Args:
        on_ready: called with (models, HTTP address) when the first replicas serve.

    Raises:
        AxformError: no ray, a bundle that cannot be served, a port that is taken, or replicas that do not start.
    """
    check_ray()
    described = [_described(load_model(name, path, settings)) for name, path in settings.bundles.items()]
    port = _free_port(settings)
    stop = threading.Event()
    hurry = threading.Event()
    serve = _start_ray(settings.host, port)
    try:
        import ray

        board = ray.remote(Board).options(name=BOARD, namespace=NAMESPACE, num_cpus=0).remote()
        _listen(stop, hurry)  # Ray's own handlers would end this process at once
        try:
            serve.run(_application(serve, settings, replicas), name=_APPLICATION, route_prefix="/")
        except Exception as error:  # what Ray raises has no base class that is documented
            raise AxformError(
                f"the replicas do not start ({_last_line(error)}); Ray's logs in /tmp/ray/session_latest/logs/serve say why."
            ) from error
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        on_ready(described, f"http://{host}:{port}")
        stop.wait()
        log("stopping", drain_delay=settings.drain_delay)
        ray.get(board.post.remote(_NOBODY, STOP, ""))
        hurry.wait(max(settings.drain_delay, _UNTIL_SEEN))
        serve.delete(_APPLICATION)  # waits for each replica, which waits for its requests
    finally:
        serve.shutdown()
        import ray

        ray.shutdown()


def _start_ray(host: str, port: int) -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    alone = not os.environ.get("RAY_ADDRESS")
    if alone:
        # As Ray does on Windows and macOS: its own ports are bound to the loopback address, not to all of this machine.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray
    from ray import serve

    options: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": "warning"}
    if alone:
        options |= {
            "address": "local",
            "num_cpus": usable_cores(),
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE,
        }
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    # Replicas import what this process can, whether it is installed or on its path only.
    paths = os.pathsep.join(filter(None, sys.path))
    ray.init(**options, runtime_env={"env_vars": {"PYTHONPATH": paths, "ORT_DISABLE_TELEMETRY": "1"}})
    serve.start(
        http_options={"host": host, "port": port, "request_timeout_s": None}, logging_config={"log_level": "WARNING"}
    )
    return serve


def _application(serve: Any, settings: ServeSettings, replicas: Replicas) -> Any:
    cores = max(1, usable_cores() // replicas.upper)
    share = min(1.0, int(100 * usable_cores() / replicas.upper) / 100)
    resources = {"num_cpus": float(cores) if share == 1.0 else share}
    if settings.provider == "cuda":
        resources["num_gpus"] = 1
    options: dict[str, Any] = {
        "name": "axform",
        "ray_actor_options": resources,
        # The queue of a replica is its models' own, which knows rows and says 429; Ray only bounds what is under way.
        "max_ongoing_requests": 2 * settings.max_queue,
        "graceful_shutdown_timeout_s": DRAIN_SECONDS,
        "graceful_shutdown_wait_loop_s": 0.2,
        "logging_config": {"log_level": "WARNING", "enable_access_log": False},
    }
    if replicas.most is None:
        options["num_replicas"] = replicas.lower
    else:
        options["autoscaling_config"] = {
            "min_replicas": replicas.lower,
            "max_replicas": replicas.most,
            "target_ongoing_requests": max(1, settings.max_batch // 2),
        }
    application = ReplicaApplication(settings.model_dump_json(), cores)
    return serve.deployment(**options)(serve.ingress(application)()).bind()


def _described(model: ServedModel) -> dict[str, str]:
    return {
        "name": model.name,
        "provider": model.provider,
        "precision": model.manifest.precision,
        "mixing": model.signature.mixing,
    }


def _free_port(settings: ServeSettings) -> int:
    """The port, which Ray would only find to be taken after half a minute.

    Raises:
        AxformError: it is taken.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise AxformError(
            f"--host {settings.host}: no such address ({error}); give one of this machine, or 0.0.0.0."
        ) from None
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise AxformError(
                f"--port {settings.port}: cannot be listened on at {settings.host} ({error.strerror}); name another one."
            ) from None
        port: int = probe.getsockname()[1]
    return port


def _listen(stop: threading.Event, hurry: threading.Event) -> None:
    def on_signal(*_: object) -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
