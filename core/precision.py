"""The precisions that a model is exported in, and how far its numbers may then be from PyTorch's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["DEFAULT_PRECISION", "TOLERANCES", "Precision", "Tolerance"]

Precision = Literal["float32", "fp16", "bf16", "int8"]
DEFAULT_PRECISION: Precision = "float32"


@dataclass(frozen=True)
class Tolerance:
    """Largest difference of any output to PyTorch's, which computes in float32."""

    absolute: float = 0.0
    relative: float = 0.0
    """In standard deviations of that output over the samples compared."""
    of_largest: float = 0.0
    """Times the largest number of that output, where that is more: a regression may answer in thousands."""


TOLERANCES: dict[Precision, Tolerance] = {
    "float32": Tolerance(absolute=1e-4, of_largest=1e-5),  # rounding over tens of layers, with a margin
    "fp16": Tolerance(absolute=1e-3, relative=0.1),  # 11 bits: a hundredth of a deviation over tens of layers
    "bf16": Tolerance(absolute=1e-2, relative=0.5),  # 8 bits, an eighth of that
    # A graph that computes something else is off by more than one deviation; a single row has none.
    "int8": Tolerance(relative=0.5, of_largest=0.1),
}
