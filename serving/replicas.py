"""How many replicas Ray Serve is asked for, validated before anything of Ray is imported."""

from __future__ import annotations

import importlib.util

from pydantic import BaseModel, ConfigDict

from ..errors import AxformError
from ..runtime.limits import positive

__all__ = ["Replicas", "check_ray"]


class Replicas(BaseModel):
    """How many replicas there are."""

    model_config = ConfigDict(frozen=True)

    count: int | None = None
    least: int | None = None
    most: int | None = None

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            AxformError: with the option and what it may be.
        """
        for flag, value in (
            ("--replicas", self.count),
            ("--min-replicas", self.least),
            ("--max-replicas", self.most),
        ):
            if value is not None:
                positive(flag, value)
        if self.count is not None and (self.least is not None or self.most is not None):
            raise AxformError("--replicas is a fixed number; leave it out, or --min-replicas and --max-replicas.")
        if self.least is not None and self.most is None:
            raise AxformError("--min-replicas needs --max-replicas, up to which Ray may add some.")
        if self.most is not None and self.most < self.lower:
            raise AxformError(f"--max-replicas {self.most}: give at least --min-replicas, {self.lower}.")

    @property
    def lower(self) -> int:
        return self.count or self.least or 1

    @property
    def upper(self) -> int:
        return self.most or self.lower


def check_ray() -> None:
    """Raise `AxformError` where the extra ``ray`` is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise AxformError("ray: not installed; --ray needs it: run `pip install 'axform[cpu,serve,ray]'`.")
