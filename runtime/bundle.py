"""The bundle: a folder that any ONNX Runtime user can load.

model.onnx      the optimized model; runs without axform
baseline.onnx   the unpruned model, for comparison
axform.json     what was done and measured, and the checksums of the other files
check.npz       tokenized samples for the parity check
config.json, tokenizer files
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ..core.metrics import Metric
from ..core.opset import DOMAIN, OPSET
from ..core.plan import ApproximationPlan
from ..core.precision import DEFAULT_PRECISION, Precision
from ..errors import AxformError
from ..files import read_json, write_text
from ..locks import locked
from ..seals import FileRecord, first_damage

__all__ = [
    "BASELINE",
    "CHECK_DATA",
    "MODEL",
    "SCHEMA_VERSION",
    "Bundle",
    "GraphSize",
    "Manifest",
    "Measured",
    "OpLibrary",
    "Report",
    "RewriteSummary",
    "StoredCodes",
]

SCHEMA_VERSION = 2
MODEL, BASELINE, CHECK_DATA = "model.onnx", "baseline.onnx", "check.npz"
_NEEDED = (MODEL, BASELINE, CHECK_DATA)
_REMEDY = "export again with axform-export"
_RECORDING_SECONDS = 10.0
"""How long to wait for another process that records its result; that takes it milliseconds."""


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or str(path) != name:
        raise ValueError("names no file inside the bundle")
    return name


class Measured(BaseModel):
    """Figures. Those that JSON has no word for are written as "NaN" and "Infinity", which `model_validate` reads."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    def figures(self) -> dict[str, Any]:
        """All of it, as JSON can hold it."""
        read: dict[str, Any] = json.loads(self.model_dump_json())
        return read


class Report(Measured):
    """What ``check`` or ``bench`` found."""

    provider: str
    """The execution provider that really ran, such as CPU or CUDA."""
    not_recorded: str | None = Field(default=None, exclude=True)
    """Why the report is not in axform.json, as in a bundle that may only be read; None when it is."""


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


class StoredCodes(BaseModel):
    """An initializer of model.onnx that holds weights in fewer bits."""

    tensor: str
    module: str
    """The torch module whose weights they are; a matrix with several kinds of bits has several tensors."""
    shape: tuple[int, ...]
    bits: int
    """Of a code, sign included."""
    storage_bits: float
    """That a code takes in the file."""
    group: int
    """Inputs that share a scale."""
    bytes: int
    """In the file, scales included."""
    scales: tuple[float, float]
    """The smallest and the largest; a weight is a code times its scale."""
    largest: float
    """Magnitude that can be told."""


class OpLibrary(BaseModel):
    """Whether the op library makes this file faster. It is never needed: function bodies are in the file."""

    domain: str = DOMAIN
    accelerates: list[str] = []
    """Operators of the domain that the file uses."""


class Manifest(Measured):
    """``axform.json``."""

    schema_version: int = SCHEMA_VERSION
    axform_version: str
    plan: ApproximationPlan
    task: str
    metric: Metric
    labels: list[str]
    max_drop: float
    max_length: int
    precision: Precision = DEFAULT_PRECISION
    """Of model.onnx; baseline.onnx is always float32."""
    opset: int = OPSET
    """Of both files."""
    inline: bool = False
    """model.onnx has operators of ai.axform written out, and calls no function."""
    stays_float: list[str] = []
    """Linears and embeddings, by their torch module, that a lower precision would cost too much."""
    baseline_size: GraphSize
    model_size: GraphSize
    rewrites: list[RewriteSummary]
    codes: list[StoredCodes] = []
    op_library: OpLibrary
    step: int | None = None
    """The round of the run that was exported; None, like ``round`` and ``run``, for a plan that no run made."""
    round: dict[str, Any] | None = None
    """Its record: what it was measured to change, and what is left."""
    run: dict[str, Any] | None = None
    """The record of the run that the bundle was made from: its options, losses, metrics and times. A bundle goes to
    other people, so it holds no folder of the machine that made it: neither where the data was nor the model."""
    files: dict[Annotated[str, AfterValidator(_inside)], FileRecord]
    """Every other file of the bundle, by its path from there."""
    results: dict[str, dict[str, Any]] = {}
    """The last parity (``check``) and latency (``bench``, ``layers``) reports."""


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
        return self.path / MODEL

    @property
    def baseline(self) -> Path:
        return self.path / BASELINE

    @property
    def check_data(self) -> Path:
        return self.path / CHECK_DATA

    def verify(self) -> None:
        """Compare every file with its checksum.

        Raises:
            AxformError: a file was changed after the export, or cannot be read.
        """
        with _reading(self.path):
            damage = first_damage(self.path, self.manifest.files)
        if damage is not None:
            raise AxformError(f"{self.path}: {damage}; {_REMEDY}.")

    def save_result(self, name: str, result: dict[str, Any]) -> str | None:
        """Record the last result of ``check``, ``bench`` or ``layers`` in axform.json, beside what others recorded meanwhile.

        Returns:
            Why it could not be recorded, as in a bundle that may only be read; None when it was.
        """
        try:
            with locked(self.path, wait=_RECORDING_SECONDS):
                manifest = self._read()
                if manifest.files != self.manifest.files:
                    return f"{self.path}: was exported anew meanwhile."
                manifest.results[name] = result
                write_manifest(self.path, manifest)
        except AxformError as error:
            return str(error)
        self.manifest = manifest
        return None

    def _read(self) -> Manifest:
        path = self.path / "axform.json"
        with _reading(path):
            if not path.is_file():
                raise AxformError(
                    f"{self.path}: not a bundle (no axform.json); name the --out folder of axform-export."
                )
            manifest = _parsed(read_json(path, _REMEDY), path)
            for name in (*_NEEDED, *manifest.files):
                if name not in manifest.files or not (self.path / name).is_file():
                    raise AxformError(f"{self.path / name}: missing from the bundle; {_REMEDY}.")
        return manifest


def _parsed(raw: object, path: Path) -> Manifest:
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if not isinstance(version, int):
        raise AxformError(f"{path}: damaged (no schema_version); {_REMEDY}.")
    if version > SCHEMA_VERSION:
        raise AxformError(f"{path}: schema {version} is newer than this axform ({SCHEMA_VERSION}); update axform.")
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise AxformError(f"{path}: damaged ({where}: {first['msg']}); {_REMEDY}.") from None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise AxformError(f"{path}: cannot be read ({error.strerror or error}); see that you may read it.") from None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    write_text(folder / "axform.json", manifest.model_dump_json(indent=2) + "\n")
