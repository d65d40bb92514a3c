"""The ONNX Runtime op library of axform: where it is, what is built in, and how a session gets it.

Models that axform exports run on any ONNX Runtime, since each operator carries a function body of standard ONNX
operators. With the library registered, ONNX Runtime uses its CPU and CUDA kernels in their place.
Importing this package needs neither ONNX Runtime nor torch.
"""

from __future__ import annotations

import ctypes
import functools
import json
import logging
import os
import struct
import sys
import weakref
from pathlib import Path
from typing import Any, TypedDict

__all__ = [
    "BuildInfo",
    "OpLibraryMissing",
    "OpLibraryUnavailable",
    "build_info",
    "get_library_path",
    "is_available",
    "register",
]

_log = logging.getLogger(__name__)
_FILE_NAME = {"win32": "axform_ops.dll", "darwin": "libaxform_ops.dylib"}.get(sys.platform, "libaxform_ops.so")
_registered: weakref.WeakSet[Any] = weakref.WeakSet()


class OpLibraryUnavailable(OSError):
    """There is no op library to use: the file that was found or named is not one, or cannot be loaded here."""


class OpLibraryMissing(OpLibraryUnavailable):
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
        OpLibraryUnavailable: AXFORM_OPS_LIBRARY names no file.
    """
    candidates = _candidates()
    for path in candidates:
        if path.is_file():
            return path
    if os.environ.get("AXFORM_OPS_LIBRARY"):
        raise OpLibraryUnavailable(
            f"AXFORM_OPS_LIBRARY names {candidates[0]}, which is not a file; correct or unset it"
        )
    raise OpLibraryMissing(
        f"{_FILE_NAME} is not in {candidates[0].parent}: axform was installed without a C++ compiler. "
        "Models still run, on the function bodies that they carry. For the faster kernels install a C++17 compiler "
        "(g++ or clang++) and reinstall axform"
    )


def is_available() -> bool:
    """Whether sessions can have the op library. One that is there and cannot be used is said once, in the log."""
    try:
        build_info()
    except OpLibraryMissing:
        return False
    except OpLibraryUnavailable as reason:
        _say_once(f"no op library: {reason}")
        return False
    return True


def register(session_options: Any) -> None:
    """Registers the op library with an `onnxruntime.SessionOptions`; a second call for the same options does nothing.

    Raises:
        OpLibraryUnavailable: the library was not built, or cannot be loaded.
    """
    if session_options in _registered:
        return
    build_info()
    session_options.register_custom_ops_library(str(get_library_path()))
    _registered.add(session_options)


def build_info() -> BuildInfo:
    """What the op library contains.

    Raises:
        OpLibraryUnavailable: the library was not built, or cannot be loaded.
    """
    return _load(get_library_path())


@functools.cache
def _load(path: Path) -> BuildInfo:
    try:
        if _is_cut(path):
            raise OSError("the file is cut off")
        library = ctypes.CDLL(str(path))
        read_info, _ = library.axform_build_info, library.RegisterCustomOps
    except (OSError, AttributeError) as error:
        reason = str(error).replace(f"{path}: ", "")
        raise OpLibraryUnavailable(
            f"{path} cannot be loaded ({reason}). Models still run, on the function bodies that they carry. For the "
            "faster kernels reinstall axform, and correct or unset AXFORM_OPS_LIBRARY where it is set"
        ) from None
    read_info.restype = ctypes.c_char_p
    info = json.loads(read_info())
    _check_instruction_set(info["cpu_instruction_sets"], info["cpu_dispatched"])
    return BuildInfo(
        cpu_instruction_sets=info["cpu_instruction_sets"],
        cpu_dispatched=info["cpu_dispatched"],
        cuda_version=info["cuda_version"],
        cuda_architectures=info["cuda_architectures"].split(),
        abi_version=info["abi_version"],
    )


def _is_cut(path: Path) -> bool:
    """Whether a 64-bit ELF file ends before its section headers, which come last; loading it would kill the process."""
    with path.open("rb") as handle:
        header = handle.read(64)
    if len(header) < 64 or not header.startswith(b"\x7fELF\x02\x01"):
        return False
    (offset,), (size, count) = struct.unpack_from("<Q", header, 40), struct.unpack_from("<HH", header, 58)
    return path.stat().st_size < offset + size * count


def _check_instruction_set(compiled: list[str], dispatched: str) -> None:
    wanted = os.environ.get("AXFORM_CPU_ISA")
    if wanted and wanted != dispatched:
        what = "this machine cannot run it" if wanted in compiled else f"known are {', '.join(compiled)}"
        _say_once(f"AXFORM_CPU_ISA={wanted} is not followed: {what}; the op library uses {dispatched}")


@functools.cache
def _say_once(message: str) -> None:
    _log.warning(message)
