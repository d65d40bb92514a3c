"""ONNX Runtime sessions: provider, threads, and the op library where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from .. import custom_ops
from ..errors import AxformError

__all__ = ["Provider", "create_session", "import_onnxruntime", "load_session"]

Provider = Literal["auto", "cpu", "cuda"]


def import_onnxruntime() -> Any:
    """The onnxruntime module.

    Raises:
        AxformError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise AxformError(
            "onnxruntime is not installed; run `pip install 'axform[cpu]'`, or `pip install 'axform[gpu]'` for CUDA."
        ) from None
    return onnxruntime


def load_session(bundle: str | Path, provider: Provider = "auto", threads: int | None = None) -> Any:
    """Open the model of a bundle for inference, without torch or transformers.

    Args:
        bundle: the folder made by axform-export.
        provider: ``auto`` takes CUDA when the installed onnxruntime offers it.
        threads: threads inside one operator; None = ONNX Runtime's choice.

    Returns:
        An ``onnxruntime.InferenceSession``; inputs are int64, (batch, sequence).
    """
    return create_session(Path(bundle) / "model.onnx", provider, threads)


def create_session(
    model: Path, provider: Provider = "auto", threads: int | None = None, *, spinning: bool = True
) -> Any:
    """Open any ONNX file; ``spinning=False`` lets idle threads sleep, so that sessions do not disturb each other.

    Raises:
        AxformError: no onnxruntime, no such provider, or a file that it cannot load.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if custom_ops.is_available():
        custom_ops.register(options)
    if not model.is_file():
        raise AxformError(f"{model}: no such file; name the --out folder of axform-export.")
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=_providers(onnxruntime, provider))
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise AxformError(f"{model}: onnxruntime cannot load it ({str(error).splitlines()[0]}).") from error


def _providers(onnxruntime: Any, provider: Provider) -> list[str]:
    available = onnxruntime.get_available_providers()
    has_cuda = "CUDAExecutionProvider" in available
    if provider == "cuda" and not has_cuda:
        raise AxformError(
            f"provider cuda: the installed onnxruntime offers {', '.join(available)}; "
            "install `axform[gpu]` in place of `axform[cpu]`."
        )
    if provider == "cpu" or not has_cuda:
        return ["CPUExecutionProvider"]
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    return ["CUDAExecutionProvider", "CPUExecutionProvider"]
