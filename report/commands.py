"""The commands that make a bundle and its figures again, as far as the bundle knows them."""

from __future__ import annotations

import shlex
from typing import Any

from ..core.opset import OPSET
from ..core.precision import DEFAULT_PRECISION
from ..runtime.bundle import Manifest
from ..toolchain.options import DEFAULTS, OptimizeOptions
from .recorded import Recorded

__all__ = ["commands_of"]

_SAID_FIRST = ("model", "task", "data")


def commands_of(name: str, manifest: Manifest, recorded: Recorded) -> list[str]:
    """In their order. What a bundle does not tell, as folders of the machine that made it, stands in capitals."""
    return [
        *_made(name, manifest, recorded),
        _command("axform", "check", name, provider=recorded.check and _provider(recorded.check.provider)),
        *_timed(name, recorded),
    ]


def _made(name: str, manifest: Manifest, recorded: Recorded) -> list[str]:
    form: dict[str, Any] = {
        "precision": manifest.precision if manifest.precision != DEFAULT_PRECISION else None,
        "opset": manifest.opset if manifest.opset != OPSET else None,
        "inline": manifest.inline or None,
    }
    if recorded.run is None:
        words = ("axform-export", "MODEL", "--plan", "plan.json", "--task", manifest.task, "--data", "DATA")
        drop = manifest.max_drop if manifest.max_drop != DEFAULTS["max_drop"] else None
        return [_command(*words, out=name, **form, max_drop=drop)]
    step = manifest.step if manifest.step != recorded.run.round else None
    return [
        _optimize(recorded.run.options),
        _command("axform-export", "RUN", out=name, **form, step=step),
    ]


def _optimize(options: OptimizeOptions) -> str:
    changed = {
        name: value
        for name, value in options.model_dump().items()
        if name not in _SAID_FIRST and value != DEFAULTS[name]
    }
    words = ("axform", "optimize", options.model, "--task", options.task, "--data", "DATA")
    return _command(*words, **changed, out="RUN")


def _timed(name: str, recorded: Recorded) -> list[str]:
    bench = recorded.bench
    if bench is None:
        return [_command("axform", "bench", name)]
    layers = recorded.layers
    batches = _listed({shape.batch for shape in bench.shapes}, None if layers is None else layers.batch)
    sequences = _listed({shape.sequence for shape in bench.shapes}, None if layers is None else layers.sequence)
    return [
        _command(
            "axform", "bench", name,
            batch=batches, seq=sequences, threads=bench.threads, provider=_provider(bench.provider),
            layers=None if layers is None else True,
        )
    ]  # fmt: skip


def _listed(sizes: set[int], first: int | None) -> str:
    """Ascending, but for the one whose layers are timed, which `axform bench` does at the first."""
    return ",".join(map(str, sorted(sizes, key=lambda size: (size != first, size))))


def _provider(said: str) -> str:
    return said.lower()


def _command(*words: str, **options: Any) -> str:
    """Words and options as a shell reads them; options that are None are left out."""
    for option, value in options.items():
        flag = "--" + option.replace("_", "-")
        if isinstance(value, bool):
            words += (flag if value else f"--no-{flag[2:]}",)
        elif value is not None:
            words += (flag, ",".join(map(str, value)) if isinstance(value, tuple) else str(value))
    return shlex.join(words)
