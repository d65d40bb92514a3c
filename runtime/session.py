"""ONNX Runtime sessions: provider, threads, and the op library where there is one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from .. import custom_ops
from ..errors import AxformError
from .limits import check_threads

__all__ = [
    "DEFAULT_PROVIDER",
    "Provider",
    "create_session",
    "import_onnxruntime",
    "load_session",
    "provider_of",
    "run_session",
    "running",
]

Provider = Literal["auto", "cpu", "cuda", "openvino"]
DEFAULT_PROVIDER: Provider = "auto"

_CPU, _CUDA, _OPENVINO = "CPUExecutionProvider", "CUDAExecutionProvider", "OpenVINOExecutionProvider"
_CUDA_REMEDY = (
    "see that nvidia-smi finds the GPU and that this onnxruntime's CUDA and cuDNN are installed, or take provider cpu"
)
_NO_CUDA_GRAPH = (
    "--cuda-graph: with provider {} this onnxruntime ({}) does not run on CUDA; leave it out, or take --provider cuda where "
    "there is a GPU."
)


def import_onnxruntime() -> Any:
    """The onnxruntime module, loaded so that it tells nobody about the models it runs.

    From 1.29 on its own packages send names and checksums of models, shapes of the machine and an identifier to their
    maker, on Linux, too. ORT_DISABLE_TELEMETRY is read when it is loaded; who wants that sets it to 0.

    Raises:
        AxformError: it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError:
        raise AxformError(
            "onnxruntime is not installed; run `pip install 'axform[cpu]'`, or `pip install 'axform[gpu]'` for CUDA."
        ) from None
    return onnxruntime


def load_session(bundle: str | Path, provider: Provider = DEFAULT_PROVIDER, threads: int | None = None) -> Any:
    """Open the model of a bundle for inference, without torch or transformers.

    Args:
        bundle: the folder made by axform-export.
        provider: ``auto`` takes CUDA where the installed onnxruntime offers it and it starts, else the CPU; ``openvino``
            is OpenVINO inside ONNX Runtime, on the CPU.
        threads: threads inside one operator; None = ONNX Runtime's choice.

    Returns:
        An ``onnxruntime.InferenceSession``; inputs are int64, (batch, sequence).

    Raises:
        AxformError: no such bundle or provider, a provider that does not start, or threads out of range.
    """
    return create_session(Path(bundle) / "model.onnx", provider, threads)


def create_session(
    model: Path,
    provider: Provider = DEFAULT_PROVIDER,
    threads: int | None = None,
    *,
    spinning: bool = True,
    op_library: bool = True,
    cuda_graph: bool = False,
    configure: Callable[[Any], None] = lambda options: None,
) -> Any:
    """Open any ONNX file.

    Args:
        spinning: False lets idle threads sleep, so that sessions do not disturb each other.
        op_library: False runs the function bodies even where the op library is there.
        cuda_graph: True records what a run launches on the GPU and replays it; inputs and outputs have to be bound.
        configure: sets what else is wanted in the session's options.

    Raises:
        AxformError: no onnxruntime, no such provider, one that does not start here, threads out of range, or a file
            that cannot be loaded, or ``cuda_graph`` without CUDA.
    """
    onnxruntime = import_onnxruntime()
    providers = _providers(onnxruntime, provider)
    if cuda_graph and providers[0] != _CUDA:
        raise AxformError(_NO_CUDA_GRAPH.format(provider, ", ".join(onnxruntime.get_available_providers())))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        check_threads(threads)
        options.intra_op_num_threads = threads
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if op_library and custom_ops.is_available():
        custom_ops.register(options)
    configure(options)
    if not model.is_file():
        raise AxformError(f"{model}: no such file; name the --out folder of axform-export.")
    if provider == "auto" and providers[0] == _CUDA and not cuda_graph:
        try:
            return _open(onnxruntime, model, options, providers)
        except AxformError:
            providers = [_CPU]  # what is wrong with the file itself, it says again
    session = _open(onnxruntime, model, options, providers, cuda_graph)
    if session.get_providers()[0] != providers[0]:
        remedy = _CUDA_REMEDY if providers[0] == _CUDA else "take provider cpu"
        raise AxformError(
            f"provider {provider}: the installed onnxruntime offers it, but it does not start on this machine; {remedy}."
        )
    return session


def provider_of(session: Any) -> str:
    """The execution provider that a session really has, such as CPU or CUDA."""
    return str(session.get_providers()[0]).removesuffix("ExecutionProvider")


def run_session(session: Any, names: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs called ``names``.

    Raises:
        AxformError: ONNX Runtime could not, as where the memory of the machine or the GPU ends.
    """
    with running(feeds):
        return list(session.run(names, feeds))


@contextmanager
def running(feeds: Mapping[str, Any]) -> Iterator[None]:
    """Around a run of a session on ``feeds``, arrays or OrtValues by the name of the input.

    Raises:
        AxformError: as `run_session`.
    """
    try:
        yield
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        first = next(iter(feeds.values()))
        shape = " x ".join(map(str, first.shape() if callable(first.shape) else first.shape))
        raise AxformError(
            f"onnxruntime cannot run the model on inputs of {shape} ({_first_line(error)}); see that there is memory for "
            "them, and export the bundle again with axform-export if it fails for every input."
        ) from error


def _open(onnxruntime: Any, model: Path, options: Any, providers: list[str], cuda_graph: bool = False) -> Any:
    try:
        # Without its fallback onnxruntime says what failed, instead of going on without the provider.
        of_each = [_options(name, options.intra_op_num_threads, cuda_graph) for name in providers]
        return onnxruntime.InferenceSession(
            str(model), options, providers=providers, provider_options=of_each, enable_fallback=0
        )
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        remedy = f"; {_CUDA_REMEDY}" if providers[0] == _CUDA else ""
        if cuda_graph:
            remedy += "; or leave out --cuda-graph, which needs a kernel of CUDA's for every node"
        if providers[0] == _OPENVINO:
            remedy = (
                "; where its OpenVINO does not know an operator, export again with --opset 22, or take provider cpu"
            )
        if "NOT_IMPLEMENTED" in str(error):
            remedy = (
                f"; {providers[0]} has no kernel for this operator in the precision of the file: run it with --provider cuda "
                "where there is a GPU, or export it again with --precision float32 or int8"
            )
        raise AxformError(f"{model}: onnxruntime cannot load it ({_first_line(error)}){remedy}.") from error


def _options(provider: str, threads: int, cuda_graph: bool) -> dict[str, str]:
    """What a provider has to be told by itself: OpenVINO has threads of its own."""
    if provider == _CUDA and cuda_graph:
        return {"enable_cuda_graph": "1"}
    if provider != _OPENVINO:
        return {}
    return {"device_type": "CPU", **({"num_of_threads": str(threads)} if threads else {})}


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _providers(onnxruntime: Any, provider: Provider) -> list[str]:
    if provider not in get_args(Provider):
        raise AxformError(f"provider {provider!r}: not known; known are {', '.join(get_args(Provider))}.")
    available = onnxruntime.get_available_providers()
    has_cuda = _CUDA in available
    if provider == "cuda" and not has_cuda:
        raise AxformError(
            f"provider cuda: the installed onnxruntime offers {', '.join(available)}; "
            "install `axform[gpu]` in place of `axform[cpu]`."
        )
    if provider == "openvino":
        if _OPENVINO not in available:
            raise AxformError(
                f"provider openvino: the installed onnxruntime offers {', '.join(available)}; install the package "
                "onnxruntime-openvino in place of onnxruntime."
            )
        return [_OPENVINO, _CPU]
    if provider == "cpu" or not has_cuda:
        return [_CPU]
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    return [_CUDA, _CPU]
