"""The checkpoints of one fine-tuning: each is whole or does not count.

transformers' Trainer writes a checkpoint file by file. Here one counts only when it is sealed, which happens after the
last file; it then holds the measurements of all epochs so far, so that weights, optimizer, random state and
measurements are always of the same moment. One from the middle of an epoch also holds what the order of its rows was
drawn from. The last checkpoint and that of the best epoch are kept.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from pydantic import BaseModel, TypeAdapter
from safetensors.torch import load_file
from torch import Tensor
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..core.metrics import Measurement
from ..files import read_json, write_json
from ..seals import damage, seal

__all__ = ["Checkpoints"]

_EPOCHS = "epochs.json"
_ORDER = "order.pt"


class _Epoch(BaseModel):
    """What the selection split said after an epoch."""

    epoch: int
    step: int
    """Optimizer steps so far; names the checkpoint."""
    loss: float
    metric: float

    @property
    def measurement(self) -> Measurement:
        return Measurement(self.loss, self.metric)


class Checkpoints:
    """Those in one folder; opening it forgets every checkpoint that is not whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._epochs: list[_Epoch] = []
        self._last: int | None = None
        for step in sorted(self._steps(), reverse=True):
            if self._read(step):
                break
        self._keep_only_needed()

    @property
    def measurements(self) -> list[Measurement]:
        """One for each epoch so far, in order."""
        return [epoch.measurement for epoch in self._epochs]

    @property
    def last(self) -> Path | None:
        """What a training continues from; None = from its beginning."""
        return None if self._last is None else self._checkpoint(self._last)

    @property
    def order(self) -> Tensor | None:
        """What the order of the epoch in which ``last`` lies was drawn from; None = it lies between two epochs."""
        path = None if self.last is None else self.last / _ORDER
        return torch.load(path, weights_only=True) if path is not None and path.exists() else None

    def record(self, epoch: int, step: int, measured: Measurement) -> None:
        """Say what was measured after an epoch; `commit` makes it count."""
        self._epochs.append(_Epoch(epoch=epoch, step=step, loss=measured.loss, metric=measured.metric))

    def commit(self, step: int, order: Tensor | None) -> None:
        """Make the checkpoint of this step count, now that all of its files are there.

        Args:
            order: see the property.
        """
        folder = self._checkpoint(step)
        write_json(folder / _EPOCHS, [epoch.model_dump() for epoch in self._epochs])
        if order is not None:
            torch.save(order, folder / _ORDER)
        seal(folder)
        self._last = step
        self._keep_only_needed()

    @property
    def best(self) -> Measurement:
        """Of the best epoch: by metric, then by loss, then the earlier."""
        return self._best().measurement

    def best_weights(self) -> dict[str, Tensor]:
        """The state dict after the best epoch."""
        weights: dict[str, Tensor] = {}
        for path in sorted(self._checkpoint(self._best().step).glob("*.safetensors")):
            weights |= load_file(path)
        return weights

    def _best(self) -> _Epoch:
        return max(self._epochs, key=lambda epoch: (epoch.metric, -epoch.loss))

    def _read(self, step: int) -> bool:
        folder = self._checkpoint(step)
        if damage(folder) is None:
            self._epochs = TypeAdapter(list[_Epoch]).validate_python(read_json(folder / _EPOCHS, "start again"))
            if not self._epochs or damage(self._checkpoint(self._best().step)) is None:
                self._last = step
                return True
        self._epochs = []
        return False

    def _keep_only_needed(self) -> None:
        needed = {self._last, self._best().step} if self._epochs else {self._last}
        for step in self._steps():
            if step not in needed:
                shutil.rmtree(self._checkpoint(step))

    def _steps(self) -> Iterator[int]:
        for path in self._folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
            step = path.name.rpartition("-")[2]
            if step.isdecimal():
                yield int(step)

    def _checkpoint(self, step: int) -> Path:
        return self._folder / f"{PREFIX_CHECKPOINT_DIR}-{step}"
