"""The command ``axform serve``."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from ..console import note, out
from ..errors import AxformError
from ..runtime.session import DEFAULT_PROVIDER, Provider
from .replicas import Replicas, check_ray
from .settings import DEFAULTS, ServeSettings, check_installed, named_bundles

__all__ = ["serve_command"]

_LOAD = "Load and limits"
_OPERATION = "Operation"
_RAY = "Ray Serve"
_MIXING = {
    "lengths": "texts of similar lengths share a batch",
    "shapes": "requests of one shape share a batch",
    "none": "each request runs by itself",
}


def serve_command(
    bundles: Annotated[
        list[str],
        typer.Argument(
            metavar="BUNDLE...",
            help="Bundle folders made by axform-export; a model is called as its folder, or NAME=FOLDER.",
        ),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all of this machine.")] = DEFAULTS.host,
    port: Annotated[int, typer.Option(help="Of HTTP; 0 for any that is free.")] = DEFAULTS.port,
    grpc_port: Annotated[int, typer.Option(help="Of gRPC; 0 for any that is free.")] = DEFAULTS.grpc_port,
    provider: Annotated[Provider, typer.Option(help="auto, cpu, cuda or openvino.")] = DEFAULT_PROVIDER,
    workers: Annotated[
        int,
        typer.Option(
            help="Processes behind one address, each on cores of its own; more than one where HTTP and JSON keep a core busy.",
            rich_help_panel=_LOAD,
        ),
    ] = DEFAULTS.workers,
    threads: Annotated[
        int,
        typer.Option(
            help="Threads inside one operator. 1 lets as many batches run at once as there are cores, which answers most "
            "requests; more answer a single one sooner.",
            rich_help_panel=_LOAD,
        ),
    ] = DEFAULTS.threads,
    max_batch: Annotated[
        int, typer.Option(help="Rows that run together, and rows of one request.", rich_help_panel=_LOAD)
    ] = DEFAULTS.max_batch,
    max_delay_ms: Annotated[
        float,
        typer.Option(
            help="How long a request waits for others while a core is free; 0 batches what waits for a core anyway.",
            rich_help_panel=_LOAD,
        ),
    ] = DEFAULTS.max_delay_ms,
    max_queue: Annotated[
        int,
        typer.Option(help="Rows that wait in each worker, for each model; then 429.", rich_help_panel=_LOAD),
    ] = DEFAULTS.max_queue,
    max_body_mb: Annotated[
        float, typer.Option(help="Largest request, packed and unpacked.", rich_help_panel=_LOAD)
    ] = DEFAULTS.max_body_mb,
    read_timeout: Annotated[
        float, typer.Option(help="Seconds in which a request must have come.", rich_help_panel=_LOAD)
    ] = DEFAULTS.read_timeout,
    api_key_file: Annotated[
        str | None,
        typer.Option(
            help="File of keys, one a line; clients send Authorization: Bearer KEY. Health stays open.",
            rich_help_panel=_OPERATION,
        ),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Load a bundle again when it has changed on disk.", rich_help_panel=_OPERATION),
    ] = False,
    drain_delay: Annotated[
        float,
        typer.Option(
            help="Seconds between not being ready and taking nothing more, after SIGTERM; longer than a load balancer looks.",
            rich_help_panel=_OPERATION,
        ),
    ] = DEFAULTS.drain_delay,
    log_requests: Annotated[
        bool, typer.Option("--log-requests", help="A line of JSON for each HTTP request.", rich_help_panel=_OPERATION)
    ] = False,
    ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="Run replicas under Ray Serve, on this machine or the cluster of RAY_ADDRESS; HTTP only. "
            "Needs `pip install 'axform[ray]'`.",
            rich_help_panel=_RAY,
        ),
    ] = False,
    replicas: Annotated[
        int | None, typer.Option(help="Replicas, each with its own sessions; default 1.", rich_help_panel=_RAY)
    ] = None,
    min_replicas: Annotated[
        int | None, typer.Option(help="Fewest that Ray keeps; default 1.", rich_help_panel=_RAY)
    ] = None,
    max_replicas: Annotated[
        int | None,
        typer.Option(
            help="Most that Ray starts: more where replicas have over half of --max-batch requests under way.",
            rich_help_panel=_RAY,
        ),
    ] = None,
) -> None:
    """Serve bundles over HTTP and gRPC: the Open Inference Protocol (as Triton and KServe speak it), and texts to classify.

    Requests of different clients and lengths share batches; a full queue says so at once. SIGTERM and Ctrl-C answer what
    was asked, then stop. The log is JSON on stderr; Prometheus reads /metrics.

    Example: axform serve bundles/sst2, then
    curl localhost:8000/v1/models/sst2/classify -d '{"texts": ["a gripping film"]}'
    """
    check_installed()
    settings = ServeSettings(
        bundles=named_bundles(bundles),
        host=host,
        port=port,
        grpc_port=grpc_port,
        workers=workers,
        threads=threads,
        provider=provider,
        max_batch=max_batch,
        max_delay_ms=max_delay_ms,
        max_queue=max_queue,
        max_body_mb=max_body_mb,
        api_key_file=api_key_file,
        watch=watch,
        drain_delay=drain_delay,
        read_timeout=read_timeout,
        log_requests=log_requests,
    )
    settings.check()
    if ray:
        check_ray()
        if workers != DEFAULTS.workers:
            raise AxformError(f"--workers {workers}: with --ray there are replicas in their place; give --replicas.")
        wanted = Replicas(count=replicas, least=min_replicas, most=max_replicas)
        wanted.check()
    else:
        for flag, value in (
            ("--replicas", replicas),
            ("--min-replicas", min_replicas),
            ("--max-replicas", max_replicas),
        ):
            if value is not None:
                raise AxformError(f"{flag} {value}: replicas are Ray's; give --ray, or --workers in their place.")

    def on_ready(models: list[dict[str, str]], http: str, grpc: str | None) -> None:
        for model in models:
            out.print(
                f"{model['name']}: {model['provider']}, {model['precision']}, {_MIXING[model['mixing']]}",
                soft_wrap=True,
            )
        also = "; there is no gRPC under Ray" if grpc is None else f" and gRPC {grpc}"
        out.print(f"serving {http}{also}; Ctrl-C stops", soft_wrap=True)
        if settings.host not in ("127.0.0.1", "::1", "localhost") and settings.api_key_file is None:
            note(
                f"--host {settings.host}: whoever reaches this address may ask and unload; give --api-key-file to ask for a key."
            )

    if ray:
        from .ray_serve import serve_with_ray

        serve_with_ray(settings, wanted, lambda models, http: on_ready(models, http, None))
        return

    from .supervisor import Supervisor

    async def run() -> int:
        return await Supervisor(settings, on_ready).run()

    raise typer.Exit(asyncio.run(run()))
