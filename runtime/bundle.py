"""The bundle: a folder that any ONNX Runtime user can load.

model.onnx      the optimized model; runs without axform
baseline.onnx   the unpruned model, for comparison
axform.json     what was done and measured, and the checksums of the other files
check.npz       tokenized samples for the parity check
config.json, tokenizer files
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ..core.metrics import Metric
from ..core.opset import DOMAIN
from ..core.plan import ApproximationPlan
from ..errors import AxformError
from ..files import write_text
from ..seals import FileRecord, first_damage

__all__ = ["SCHEMA_VERSION", "Bundle", "GraphSize", "Manifest", "OpLibrary", "RewriteSummary"]

SCHEMA_VERSION = 1


class GraphSize(BaseModel):
    parameters: int
    nodes: int
    bytes: int
    """Size on disk, external data included."""


class RewriteSummary(BaseModel):
    rewrite: str
    changes: list[tuple[str, str]]
    """(place, what was done)."""
    nodes_removed: int
    parameters_removed: int


class OpLibrary(BaseModel):
    """Whether the op library makes this file faster. It is never needed: function bodies are in the file."""

    domain: str = DOMAIN
    accelerates: list[str] = []
    """Operators of the domain that the file uses."""


class Manifest(BaseModel):
    """``axform.json``."""

    schema_version: int = SCHEMA_VERSION
    axform_version: str
    plan: ApproximationPlan
    task: str
    metric: Metric
    labels: list[str]
    max_drop: float
    max_length: int
    baseline_size: GraphSize
    model_size: GraphSize
    rewrites: list[RewriteSummary]
    op_library: OpLibrary
    run: dict[str, Any]
    """The record of the run that the bundle was made from."""
    files: dict[str, FileRecord]
    results: dict[str, Any] = {}
    """The last parity (``check``) and latency (``bench``) results."""


class Bundle:
    """An existing bundle, read and checked for completeness.

    Raises:
        AxformError: not a bundle, damaged, of a newer schema, or a file is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = self._read()

    @property
    def model(self) -> Path:
        return self.path / "model.onnx"

    @property
    def baseline(self) -> Path:
        return self.path / "baseline.onnx"

    @property
    def check_data(self) -> Path:
        return self.path / "check.npz"

    def verify(self) -> None:
        """Compare every file with its checksum.

        Raises:
            AxformError: a file was changed after the export.
        """
        damaged = first_damage(self.path, self.manifest.files)
        if damaged is not None:
            raise AxformError(f"{self.path}: {damaged}; export again with axform-export.")

    def save_result(self, name: str, result: dict[str, Any]) -> None:
        """Record the last result of ``check`` or ``bench`` in axform.json."""
        self.manifest.results[name] = result
        write_manifest(self.path, self.manifest)

    def _read(self) -> Manifest:
        path = self.path / "axform.json"
        if not path.is_file():
            raise AxformError(f"{self.path}: not a bundle (no axform.json); name the --out folder of axform-export.")
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            version = raw["schema_version"]
            if version > SCHEMA_VERSION:
                raise AxformError(
                    f"{path}: schema {version} is newer than this axform ({SCHEMA_VERSION}); update axform."
                )
            manifest = Manifest.model_validate(raw)
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, ValidationError, KeyError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise AxformError(f"{path}: damaged ({reason}); export again with axform-export.") from None
        manifest.plan.validate_parts(f"{path}: plan")
        for name in manifest.files:
            if not (self.path / name).is_file():
                raise AxformError(f"{self.path / name}: missing from the bundle; export again with axform-export.")
        return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    write_text(folder / "axform.json", manifest.model_dump_json(indent=2) + "\n")
