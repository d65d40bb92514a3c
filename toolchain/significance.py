"""How significant is an element? Thresholds and the verdict of one trial (AxFormer v1, Algorithm 2)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ..core.bounds import smallest_accepted
from ..core.metrics import Measurement
from ..core.plan import Focus
from ..core.targets import Target

__all__ = ["Hopeless", "Significance", "Thresholds", "Verdict"]


_SMALLEST_SCALE = 0.05
"""Of the loss of a constant answer; shares of less would let noise decide."""


class Verdict(str, Enum):
    PRUNE = "prune"
    APPROXIMATE = "approximate"
    RETAIN = "retain"


@dataclass(frozen=True)
class Hopeless:
    """A trial that ended early, when its losses so far had decided it."""

    loss: float
    """What the mean loss is at least."""


@dataclass(frozen=True)
class Thresholds:
    """The knobs of a search, as fractions of the baseline.

    The loss may grow by ``prune`` for an element to be pruned and by ``approximate`` for it to be approximated; the
    task metric may fall by ``max_drop`` of its baseline. The defaults are the paper's, for less than 0.5 % relative
    loss of accuracy. ``slack`` more is allowed where a fine-tuning will win it back: that share of the baseline's loss, or
    of what the baseline knows, which is by how much its loss is below that of a constant answer, if that is less. A loss
    near zero counts as a twentieth of a constant answer's.
    """

    prune: float = 0.005
    approximate: float = 0.02
    max_drop: float = 0.005
    slack: float = 0.0


class Significance:
    """Judges measurements against the baseline and, with the accuracy focus, against the best loss so far.

    Beside the loss stands a guard on the metric, because a relative threshold on a loss near zero means nothing: what
    is pruned must keep the metric above its bound.
    """

    def __init__(
        self,
        focus: Focus,
        thresholds: Thresholds,
        baseline: Measurement,
        reference_metric: float | None = None,
        constant_loss: float | None = None,
    ) -> None:
        self._focus = focus
        self._thresholds = thresholds
        self.baseline = baseline
        self.min_loss = baseline.loss
        self._reference_metric = baseline.metric if reference_metric is None else reference_metric
        self._smallest_scale = 0.0 if constant_loss is None else _SMALLEST_SCALE * constant_loss
        known = baseline.loss if constant_loss is None else max(0.0, constant_loss - baseline.loss)
        self._slack = thresholds.slack * min(self._scale(baseline.loss), known)

    @property
    def metric_bound(self) -> float:
        """The smallest metric that is still acceptable."""
        return smallest_accepted(self._reference_metric, self._thresholds.max_drop, self._focus)

    @property
    def prune_below(self) -> float:
        if self._focus == "accuracy":
            return self.min_loss + self._slack
        return self.baseline.loss + self._thresholds.prune * self._scale(self.baseline.loss) + self._slack

    @property
    def approximate_below(self) -> float:
        reference = self.min_loss if self._focus == "accuracy" else self.baseline.loss
        return reference + self._thresholds.approximate * self._scale(reference) + self._slack

    def _scale(self, loss: float) -> float:
        """What a threshold is a share of."""
        return max(loss, self._smallest_scale)

    def hopeless_above(self, element: Target) -> float:
        """The loss from which on nothing happens to the element; inside a block nothing is done short of pruning."""
        return max(self.prune_below, self.approximate_below) if element.is_block else self.prune_below

    def keeps_metric(self, measured: Measurement) -> bool:
        return measured.metric >= self.metric_bound

    def judge(self, measured: Measurement | Hopeless) -> Verdict:
        """The verdict for the current model without the element; NaN losses are retained."""
        if isinstance(measured, Hopeless):
            return Verdict.RETAIN
        if measured.loss < self.prune_below and self.keeps_metric(measured):
            return Verdict.PRUNE
        return Verdict.APPROXIMATE if measured.loss < self.approximate_below else Verdict.RETAIN

    def accept(self, measured: Measurement) -> None:
        """Record that the model as measured is now the current one."""
        self.min_loss = min(self.min_loss, measured.loss)
