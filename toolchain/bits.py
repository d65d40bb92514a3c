"""How few bits the weights need: everything first, then element by element (size focus).

AxFormer v1 gives an element the bits that the loss of its removal falls into. Here the trial is the rounding itself: what a
part is worth says little of how finely its weights have to be told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..core.plan import Bits
from ..core.targets import Target
from ..core.techniques import MOST_BITS
from .elements import block_costs, build_queue
from .evaluation import Evaluator
from .journal import Journal
from .search import SearchOptions
from .significance import Verdict
from .trials import SearchProgress, SearchResult, Trials

__all__ = ["Scheme", "bits_search", "schemes"]

_GROUPS = (128, 64)
"""Inputs that share a scale, tried beside all of them."""
_GROUPED_BELOW = 6
"""Bits from which on one scale for each output is fine enough."""
_BITS_OF_SCALE = 32
_REST, _WORDS = Target.outside("rest"), Target.outside("embeddings.word")


@dataclass(frozen=True)
class Scheme:
    """How weights are told."""

    bits: int
    group: int | None = None

    @property
    def cost(self) -> float:
        """Bits of a weight with its share of a scale, of which a whole row has one."""
        return self.bits + (0.0 if self.group is None else _BITS_OF_SCALE / self.group)

    def of(self, target: Target) -> Bits:
        return Bits(target=target, bits=self.bits, group=self.group)


def schemes(fewest: int) -> list[Scheme]:
    """All that are tried, the cheapest first."""
    by_row = [Scheme(bits) for bits in range(fewest, MOST_BITS + 1)]
    by_group = [Scheme(bits, group) for bits in range(fewest, _GROUPED_BELOW) for group in _GROUPS]
    return sorted(by_row + by_group, key=lambda scheme: scheme.cost)


def bits_search(
    evaluator: Evaluator,
    options: SearchOptions,
    fewest: int,
    journal: Journal,
    on_trial: Callable[[SearchProgress], None] | None = None,
) -> SearchResult:
    """Give all weights as few bits as the thresholds for pruning allow.

      1. the whole model gets the cheapest scheme that is fine for all of it, at most 8 bits;
      2. the word embeddings and every block, the largest first, get a cheaper one where that is fine, too;
      3. in a block that needs more bits than the cheapest scheme has, heads and FFN weight groups are tried alone with that.

    Args:
        fewest: bits of a weight.
    """
    return _BitsSearch(options.trials(evaluator, journal, on_trial), options, fewest).run()


class _BitsSearch:
    def __init__(self, trials: Trials, options: SearchOptions, fewest: int) -> None:
        self._trials = trials
        self._schemes = schemes(fewest)
        shape, plan = trials.plan.model.shape, trials.plan
        costs = block_costs(shape, options.focus, options.sequence)
        queue = build_queue(shape, plan.group_size, costs, options.layer_order)
        left = [target for target in queue if not plan.removes(target) and target.kind != "attn.in.group"]
        self._elements = [_WORDS, *(target for target in left if target.is_block)]
        self._inside = [target for target in left if not target.is_block]
        self._done, self._total = 0, 1 + len(self._elements)

    def run(self) -> SearchResult:
        self._settle(_REST)
        for element in self._elements:
            self._settle(element)
        fewest = self._schemes[0].bits
        found = {element: self._scheme(element) for element in self._elements}
        blocks = {element for element, scheme in found.items() if scheme is None or scheme.bits > fewest}
        inside = [target for target in self._inside if target.parent in blocks]
        self._total += len(inside)
        for target in inside:
            self._settle(target, only=1)
        return self._trials.result()

    def _settle(self, element: Target, only: int | None = None) -> None:
        """Give an element the cheapest scheme that is fine, of those that are cheaper than its own."""
        now = self._scheme(element)
        cheaper = [scheme for scheme in self._schemes if now is None or scheme.cost < now.cost][:only]
        self._done += 1
        for scheme in cheaper:
            part = scheme.of(element)
            candidate = self._trials.plan.with_part(part)
            record = self._trials.run(element, part.said, candidate)
            if record.verdict is Verdict.PRUNE:
                self._trials.accept(candidate, record.measurement)
            self._trials.report(element, record, self._done, self._total)
            if record.verdict is Verdict.PRUNE:
                return

    def _scheme(self, element: Target) -> Scheme | None:
        """What the plan gives the element; None = floats."""
        part = self._trials.plan.bits_of(element)
        return None if part is None else Scheme(part.bits, part.group)
