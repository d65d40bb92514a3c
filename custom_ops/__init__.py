"""The ONNX Runtime op library of axform: where it is, what is built in, and how a session gets it.

Models that axform exports run on any ONNX Runtime, since each operator carries a function body of standard ONNX
operators. With the library registered, ONNX Runtime uses its CPU and CUDA kernels in their place.
Importing this package needs neither ONNX Runtime nor torch.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import sys
import weakref
from pathlib import Path
from typing import Any, TypedDict

__all__ = ["BuildInfo", "OpLibraryMissing", "build_info", "get_library_path", "is_available", "register"]

_FILE_NAME = {"win32": "axform_ops.dll", "darwin": "libaxform_ops.dylib"}.get(sys.platform, "libaxform_ops.so")
_registered: weakref.WeakSet[Any] = weakref.WeakSet()


class OpLibraryMissing(FileNotFoundError):
    """The op library was not built when axform was installed."""


class BuildInfo(TypedDict):
    """What the op library contains."""

    cpu_instruction_sets: list[str]
    """Compiled in, the best first: "avx512", "avx2", "neon", "generic"."""
    cpu_dispatched: str
    """The one that runs on this machine; the environment variable AXFORM_CPU_ISA overrides the choice."""
    cuda_version: str | None
    """CUDA toolkit that compiled the kernels; None without CUDA kernels."""
    cuda_architectures: list[str]
    abi_version: int
    """Oldest ONNX Runtime API that the library needs: 17 stands for ONNX Runtime 1.17."""


def _candidates() -> list[Path]:
    named = os.environ.get("AXFORM_OPS_LIBRARY")
    if named:
        return [Path(named)]
    return [Path(entry) / _FILE_NAME for entry in _package_folders()]


def _package_folders() -> list[str]:
    # An editable install spreads the package over the source tree and the build's own folder.
    folders = [str(Path(__file__).parent)]
    for entry in sys.path:
        folder = Path(entry) / "axform" / "custom_ops"
        if entry and folder.is_dir():
            folders.append(str(folder))
    return folders


def get_library_path() -> Path:
    """Path of the op library, for `SessionOptions.register_custom_ops_library`.

    The environment variable AXFORM_OPS_LIBRARY names another file, such as a development build.

    Raises:
        OpLibraryMissing: it was not built.
    """
    candidates = _candidates()
    for path in candidates:
        if path.is_file():
            return path
    if os.environ.get("AXFORM_OPS_LIBRARY"):
        raise OpLibraryMissing(f"AXFORM_OPS_LIBRARY names {candidates[0]}, which is not a file; correct or unset it")
    raise OpLibraryMissing(
        f"{_FILE_NAME} is not in {candidates[0].parent}: axform was installed without a C++ compiler. "
        "Models still run, on the function bodies that they carry. For the faster kernels install a C++17 compiler "
        "(g++ or clang++) and reinstall axform"
    )


def is_available() -> bool:
    """Whether the op library was built."""
    try:
        get_library_path()
    except OpLibraryMissing:
        return False
    return True


def register(session_options: Any) -> None:
    """Registers the op library with an `onnxruntime.SessionOptions`; a second call for the same options does nothing.

    Raises:
        OpLibraryMissing: the library was not built.
    """
    if session_options in _registered:
        return
    session_options.register_custom_ops_library(str(get_library_path()))
    _registered.add(session_options)


@functools.cache
def _load(path: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(path))


def build_info() -> BuildInfo:
    """What the op library contains.

    Raises:
        OpLibraryMissing: the library was not built.
    """
    library = _load(get_library_path())
    library.axform_build_info.restype = ctypes.c_char_p
    info = json.loads(library.axform_build_info())
    return BuildInfo(
        cpu_instruction_sets=info["cpu_instruction_sets"],
        cpu_dispatched=info["cpu_dispatched"],
        cuda_version=info["cuda_version"],
        cuda_architectures=info["cuda_architectures"].split(),
        abi_version=info["abi_version"],
    )
