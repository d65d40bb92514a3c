"""Triton's own schema of a model configuration, which tritonclient brings, as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import AxformError

__all__ = ["CONFIG", "import_schema", "read_config", "written"]

CONFIG = "config.pbtxt"
_HEADER = "# Written by `axform triton`. After a change: axform triton --check REPOSITORY\n"


def import_schema() -> Any:
    """The module with ``ModelConfig``.

    Raises:
        AxformError: tritonclient is not installed.
    """
    try:
        from tritonclient.grpc import model_config_pb2
    except ImportError:
        raise AxformError(
            "tritonclient is not installed, and with it Triton's schema of a configuration; run `pip install 'axform[serve]'`."
        ) from None
    return model_config_pb2


def read_config(path: Path) -> Any:
    """A ``ModelConfig`` from a file.

    Raises:
        AxformError: it is missing, cannot be read, or is not of the schema, with the line.
    """
    schema = import_schema()
    from google.protobuf import text_format

    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), schema.ModelConfig())
    except FileNotFoundError:
        raise AxformError(f"{path}: no such file; a model of a Triton repository needs one.") from None
    except UnicodeDecodeError:
        raise AxformError(f"{path}: is no text in UTF-8; write it again.") from None
    except OSError as error:
        raise AxformError(f"{path}: cannot be read ({error.strerror}); see that you may read it.") from None
    except text_format.ParseError as error:
        raise AxformError(
            f"{path}: is not of Triton's schema, at line {error}; correct it, see model_config.proto of Triton."
        ) from None


def written(config: Any) -> str:
    """A ``ModelConfig`` as text, the same for equal ones."""
    from google.protobuf import text_format

    return _HEADER + text_format.MessageToString(config)
