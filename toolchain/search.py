"""The loop over the queue (AxFormer v1, Algorithm 3): prune, approximate or retain, one element at a time.

Where a fine-tuning is to win back what is lost, what lies in a block that cannot go is tried, too. And behind the last attention
an exported file computes the first token alone: with the speed focus parts that cost next to nothing there are then not tried,
so that what may be lost is spent on what costs time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ..core.costs import block_flops, file_flops, layer_flops, layer_widths
from ..core.plan import ApproximationPlan, Focus, Selection, SignMatching
from ..core.targets import BlockKind, Target
from ..core.tasks import Task
from .elements import LayerOrder, block_costs, build_queue
from .evaluation import Evaluator
from .journal import Journal, TrialRecord
from .options import DEFAULTS, GroupShape
from .significance import Thresholds, Verdict
from .trials import SearchProgress, SearchResult, Trials

__all__ = ["SearchOptions", "search"]

_WORTH = 0.1
"""Of what a block costs on all tokens: where a file spends less on one, its parts are not worth their loss."""


@dataclass(frozen=True)
class SearchOptions:
    """What a search may do.

    ``reference_metric`` is the unpruned model's, which the metric's bound is a share of (None: that of the state that the
    search starts from), ``constant_loss`` that of the best answer that is the same for every sample. ``sequence`` is the
    sample length in tokens that costs are computed for. ``sign_matching_k`` is the keys kept by what an approximable ATTN
    block may be replaced by with the speed focus (None: nothing). With the speed focus, groups of a block are removed
    from both ends so that a contiguous range remains (greedy shrinking) where ``*_groups`` says so; along the
    intermediate neurons contiguity buys nothing, along input features it turns a Gather into a Slice.
    """

    focus: Focus
    thresholds: Thresholds = field(default_factory=Thresholds)
    reference_metric: float | None = None
    constant_loss: float | None = None
    sequence: int = Task.max_length
    layer_order: LayerOrder = DEFAULTS["layer_order"]
    sign_matching_k: int | None = None
    selection: Selection = DEFAULTS["selection"]
    ffn_groups: GroupShape = DEFAULTS["ffn_groups"]
    attention_groups: GroupShape = DEFAULTS["attention_groups"]
    most_removed: float = 1.0
    """Share of the start's FLOPs in an exported file that may go."""

    def trials(
        self, evaluator: Evaluator, journal: Journal, on_trial: Callable[[SearchProgress], None] | None
    ) -> Trials:
        """From what ``evaluator`` holds, judged as the options say."""
        return Trials(
            evaluator,
            journal,
            on_trial,
            self.focus,
            self.thresholds,
            self.reference_metric,
            self.constant_loss,
        )


def search(
    evaluator: Evaluator,
    options: SearchOptions,
    journal: Journal,
    on_trial: Callable[[SearchProgress], None] | None = None,
) -> SearchResult:
    """Run the whole queue and return the plan.

    ``evaluator`` must hold the state to start from: a plan that changes nothing, or that of an earlier round.
    """
    return _Search(options.trials(evaluator, journal, on_trial), options).run()


class _Search:
    def __init__(self, trials: Trials, options: SearchOptions) -> None:
        self._trials = trials
        self._options = options
        shape = trials.plan.model.shape
        costs = block_costs(shape, options.focus, options.sequence)
        queue = build_queue(shape, trials.plan.group_size, costs, options.layer_order)
        self._queue = [element for element in queue if not trials.plan.removes(element)]
        self._total = len(self._queue)
        self._approximable: list[Target] = []
        self._fewest_flops = (1 - options.most_removed) * file_flops(trials.plan, options.sequence)

    def run(self) -> SearchResult:
        while self._queue:
            element = self._queue.pop(0)
            if not self._is_worth(element):
                continue
            candidate = self._trials.plan.without(element)
            if candidate is None:
                self._ask_again(element.parent)
            elif self._may_go(candidate):
                self._settle(element, candidate)
        for element in self._approximable:
            if not self._trials.plan.removes(element):  # once its heads were gone, the block may have gone after them
                self._try_sign_matching(element)
        return self._trials.result()

    @property
    def _is_won_back(self) -> bool:
        """A fine-tuning follows that is to win back what is lost; then the paper's loop is left where it saves trials only.

        A retained block may be nearly empty: of an FFN without which a MiniLM on QNLI answers near chance, eight groups of
        twelve cost next to nothing.
        """
        return self._options.focus != "accuracy" and self._options.thresholds.slack > 0

    def _is_worth(self, element: Target) -> bool:
        """Whether an exported file spends anything on the block that the element is or lies in; the paper's loop tries all."""
        if self._options.focus != "speed" or not self._is_won_back:
            return True
        plan, sequence, place = self._trials.plan, self._options.sequence, element.block == "ffn"
        on_all_tokens = block_flops(list(layer_widths(plan))[element.layer], sequence)
        in_a_file = layer_flops(plan, sequence)[element.layer]
        return in_a_file[place] >= _WORTH * on_all_tokens[place]

    def _may_go(self, candidate: ApproximationPlan) -> bool:
        return file_flops(candidate, self._options.sequence) >= self._fewest_flops

    def _settle(self, element: Target, candidate: ApproximationPlan) -> None:
        record = self._trials.run(element, "prune", candidate)
        if record.verdict is Verdict.PRUNE:
            self._trials.accept(candidate, record.measurement)
            if element.is_block:
                self._drop_inside(element)
        elif record.verdict is Verdict.APPROXIMATE and element.is_block:
            if element.block == "attn":
                self._approximable.append(element)
        elif element.is_block and not self._is_won_back:
            self._drop_inside(element)
        if record.verdict is not Verdict.PRUNE and self._shrinks_greedily(element):
            self._turn_around(element)
        self._report(element, record)

    def _ask_again(self, block: Target) -> None:
        """The last head or group of a block cannot go by itself; with the others gone, the block may be needed no more."""
        candidate = self._trials.plan.without(block)
        assert candidate is not None
        if not self._may_go(candidate):
            return
        record = self._trials.run(block, "prune", candidate)
        if record.verdict is Verdict.PRUNE:
            self._trials.accept(candidate, record.measurement)
            self._drop_inside(block)
        self._report(block, record)

    def _try_sign_matching(self, block: Target) -> None:
        """An approximable ATTN block as a whole, after its children were tried; it must itself stay approximable."""
        options = self._options
        if options.focus != "speed" or options.sign_matching_k is None:
            return
        candidate = self._trials.plan.with_part(
            SignMatching(target=block, k=options.sign_matching_k, selection=options.selection)
        )
        record = self._trials.run(block, "sign matching", candidate)
        if record.verdict is not Verdict.RETAIN and self._trials.significance.keeps_metric(record.measurement):
            self._trials.accept(candidate, record.measurement)
        self._report(block, record)

    def _drop_inside(self, block: Target) -> None:
        self._queue = [element for element in self._queue if element.parent != block]

    def _shrinks_greedily(self, element: Target) -> bool:
        if element.kind not in ("attn.in.group", "ffn.group") or self._options.focus != "speed":
            return False
        return self._group_shape(element.block) == "contiguous"

    def _group_shape(self, block: BlockKind) -> GroupShape:
        return self._options.attention_groups if block == "attn" else self._options.ffn_groups

    def _turn_around(self, refused: Target) -> None:
        """Greedy shrinking: the first refusal on the way up sends the block's other groups downward from the top."""
        where = (refused.layer, refused.kind)
        siblings = [element for element in self._queue if (element.layer, element.kind) == where]
        others = [element for element in self._queue if element not in siblings]
        goes_up = bool(siblings) and siblings[0].place > refused.place
        self._queue = (siblings[::-1] if goes_up else []) + others

    def _report(self, element: Target, record: TrialRecord) -> None:
        self._trials.report(element, record, self._total - len(self._queue), self._total)
