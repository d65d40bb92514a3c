"""What a bundle's manifest records beside the plan, each validated on its own.

A result of another version of axform, or one that was changed by hand, is as good as none: its section says which command
makes it again, and the rest of the report is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ..runtime.bundle import Manifest
from ..runtime.latency import LatencyReport
from ..runtime.layers import LayersReport
from ..runtime.parity import ParityReport
from ..toolchain.run_folder import RoundRecord, RunRecord

__all__ = ["Recorded", "recorded_in"]

_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True)
class Recorded:
    """None where a bundle holds nothing of the kind that this version reads."""

    check: ParityReport | None
    bench: LatencyReport | None
    layers: LayersReport | None
    run: RunRecord | None
    round: RoundRecord | None


def recorded_in(manifest: Manifest) -> Recorded:
    results = manifest.results
    bench = _read(LatencyReport, results.get("bench"))
    layers = _read(LayersReport, results.get("layers"))
    return Recorded(
        check=_read(ParityReport, results.get("check")),
        bench=bench if bench is not None and bench.shapes else None,
        layers=layers if layers is not None and (layers.parts or layers.operators) else None,
        run=_read(RunRecord, manifest.run),
        round=_read(RoundRecord, manifest.round),
    )


def _read(kind: type[_Model], raw: Mapping[str, Any] | None) -> _Model | None:
    try:
        return None if raw is None else kind.model_validate(raw)
    except ValidationError:
        return None
