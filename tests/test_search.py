"""Algorithm 3 on a model whose losses are known: which elements go, greedy shrinking, and resuming."""

from __future__ import annotations

import json
import math

import pytest
from axform.core.costs import file_flops
from axform.core.metrics import Measurement
from axform.core.plan import ApproximationPlan, ModelIdentity
from axform.errors import AxformError
from axform.toolchain.elements import block_costs, build_queue
from axform.toolchain.journal import Journal
from axform.toolchain.search import SearchOptions, search
from axform.toolchain.significance import Hopeless, Significance, Thresholds, Verdict
from hypothesis import given, settings
from hypothesis import strategies as st
from support import plan_of

IDENTITY = ModelIdentity(
    family="bert", num_layers=2, num_heads=2, hidden_size=16, intermediate_size=32, fingerprint="0"
)


class KnownLosses:
    """Loss 1.0, times a factor for each removed part."""

    def __init__(self, factors, metric=None):
        self.plan = ApproximationPlan.empty(IDENTITY, 8)
        self.factors, self.metric, self.measured = factors, metric or {}, 0

    def measure(self):
        return self.measure_trial(self.plan)

    def measure_trial(self, plan, hopeless_above=math.inf):
        self.measured += 1
        loss, metric = 1.0, 0.9
        for part in parts(plan):
            loss *= self.factors.get(part, 1.5)
            metric -= self.metric.get(part, 0.0)
        return Hopeless(hopeless_above * 1.01) if loss > hopeless_above else Measurement(loss, metric)

    def accept(self, plan):
        self.plan = plan


def parts(plan):
    for part in plan.parts:
        yield f"{part.target}" + (" sign matching" if part.action == "attention" else "")


def run(tmp_path, factors, focus="speed", metric=None, name="trials.jsonl", **options):
    evaluator = KnownLosses(factors, metric)
    result = search(evaluator, SearchOptions(focus=focus, **options), Journal(tmp_path / name, {"focus": focus}))
    return result, list(parts(result.plan)), evaluator


def test_prune_retain_and_children_of_approximable_blocks(tmp_path):
    factors = {
        "layer.1.ffn": 1.0,  # pruned
        "layer.0.ffn": 1.01,  # approximable: its groups are tried
        "layer.0.ffn.group.2": 1.001,
        "layer.1.attn": 1.3,  # retained: its heads are not tried
        "layer.1.attn.head.0": 1.0,
        "layer.0.attn": 1.015,
        "layer.0.attn.head.1": 1.001,
        "layer.0.attn.in.group.0": 1.0,
    }
    result, removed, _ = run(tmp_path, factors)
    assert set(removed) == {
        "layer.1.ffn",
        "layer.0.ffn.group.2",
        "layer.0.attn.head.1",
        "layer.0.attn.in.group.0",
    }
    assert result.final.loss == pytest.approx(1.0 * 1.001 * 1.001)


def test_accuracy_focus_only_takes_what_lowers_the_best_loss(tmp_path):
    _, removed, _ = run(
        tmp_path,
        {"layer.1.ffn": 0.9, "layer.0.ffn": 1.0, "layer.1.attn": 0.99, "layer.0.attn": 1.001},
        focus="accuracy",
    )
    assert set(removed) == {"layer.1.ffn", "layer.1.attn"}


def test_the_metric_guard_stands_beside_the_loss(tmp_path):
    _, removed, _ = run(
        tmp_path, {"layer.1.ffn": 0.9, "layer.1.attn": 0.9}, metric={"layer.1.ffn": 0.01, "layer.1.attn": 0.004}
    )
    assert removed == ["layer.1.attn"]


@pytest.mark.parametrize("sign_matching_k", [None, 16])
def test_a_block_is_asked_again_when_one_head_is_left(tmp_path, sign_matching_k):
    """Both heads of layer 1 could go; with one gone, the block is tried once more, and what lies in it never again.

    Nor is sign matching tried in the block that is gone at last.
    """
    heads = {f"layer.{i}.attn.head.{j}": 1.0 for i in (0, 1) for j in (0, 1)}
    factors = {"layer.1.attn": 1.01, "layer.0.attn": 1.01, "layer.0.attn.in.group.0": 1.0} | heads

    class Forgiving(KnownLosses):
        """Without its first head, layer 1 needs no attention block at all."""

        def measure_trial(self, plan, hopeless_above=math.inf):
            if self.plan.layers[1].removed("attn.head"):
                self.factors["layer.1.attn"] = 1.0
            return super().measure_trial(plan, hopeless_above)

    options = SearchOptions(focus="speed", sign_matching_k=sign_matching_k)
    result = search(Forgiving(factors), options, Journal(tmp_path / "trials.jsonl", {}))
    tried = [json.loads(line)["element"] for line in (tmp_path / "trials.jsonl").read_text().splitlines()[2:]]
    assert set(parts(result.plan)) == {"layer.1.attn", "layer.0.attn.head.0", "layer.0.attn.in.group.0"}
    assert tried.count("layer.1.attn") == 2 and not [one for one in tried if one.startswith("layer.1.attn.in")]
    for_the_last_head_and_inputs = 2
    assert tried.count("layer.0.attn") == 1 + for_the_last_head_and_inputs + (sign_matching_k is not None)


def test_greedy_shrinking_keeps_a_contiguous_range(tmp_path):
    factors = {"layer.1.ffn": 1.01} | {f"layer.1.ffn.group.{i}": f for i, f in enumerate((1.0, 1.4, 1.0, 1.0))}
    _, removed, _ = run(tmp_path, factors, ffn_groups="contiguous")
    assert removed == ["layer.1.ffn.group.0", "layer.1.ffn.group.2", "layer.1.ffn.group.3"]
    factors["layer.1.ffn.group.3"] = 1.4
    _, removed, _ = run(tmp_path, factors, ffn_groups="contiguous", name="b.jsonl")
    assert removed == ["layer.1.ffn.group.0"]
    _, removed, _ = run(tmp_path, factors, ffn_groups="any", name="c.jsonl")
    assert removed == ["layer.1.ffn.group.0", "layer.1.ffn.group.2"]


@pytest.mark.parametrize(
    ("focus", "slack", "goes_inside"), [("speed", 0.25, True), ("size", 0.25, True), ("speed", 0.0, False)]
)
def test_what_lies_in_a_retained_block_is_tried_where_a_fine_tuning_follows(tmp_path, focus, slack, goes_inside):
    inside = {"layer.0.ffn.group.1": 1.001, "layer.0.attn.head.1": 1.002}
    factors = {"layer.0.ffn": 1.4, "layer.0.attn": 1.5, **inside}
    _, removed, _ = run(tmp_path, factors, focus=focus, thresholds=Thresholds(slack=slack))
    assert set(removed) == (set(inside) if goes_inside else set())


@pytest.mark.parametrize("share", [0.1, 0.25, 0.6, 1.0])
def test_a_search_that_nothing_stops_removes_a_share_and_fills_it_with_small_parts(tmp_path, share):
    """All is free here: what may go goes, coarse parts first, and no more than that."""

    class Free(KnownLosses):
        def measure_trial(self, plan, hopeless_above=math.inf):
            return Measurement(1.0, 0.9)

    evaluator = Free({})
    result = search(evaluator, SearchOptions(focus="speed", most_removed=share), Journal(tmp_path / "trials.jsonl", {}))
    before, after = (file_flops(plan, SearchOptions(focus="speed").sequence) for plan in (Free({}).plan, result.plan))
    assert after >= (1 - share) * before
    shape = result.plan.model.shape
    smaller = (
        result.plan.without(element)
        for element in build_queue(shape, 8, block_costs(shape, "speed", 128))
        if not result.plan.removes(element)
    )
    assert all(
        plan is None or file_flops(plan, SearchOptions(focus="speed").sequence) < (1 - share) * before
        for plan in smaller
    )
    assert share < 1 or not after


def test_what_costs_a_file_nothing_stays_where_a_fine_tuning_follows(tmp_path):
    """Behind the last attention a file computes one token, and no more without any; the paper's loop takes all it can get."""
    factors = {f"layer.{layer}.{block}": 1.0 for layer in (0, 1) for block in ("attn", "ffn")}
    _, removed, _ = run(tmp_path, factors)
    assert set(removed) == set(factors)
    for focus, kept in (("speed", {"layer.0.ffn", "layer.1.ffn"}), ("size", set())):
        _, removed, _ = run(tmp_path, factors, focus, thresholds=Thresholds(slack=0.25), name=f"{focus}.jsonl")
        assert set(removed) == set(factors) - kept
    tried = [json.loads(line)["element"] for line in (tmp_path / "speed.jsonl").read_text().splitlines()[1:]]
    assert not [element for element in tried if "ffn" in element]
    factors["layer.0.attn"] = 1.4  # it stays, and layer 0 still computes one token behind it
    _, removed, _ = run(tmp_path, factors, thresholds=Thresholds(slack=0.25), name="last.jsonl")
    assert set(removed) == {"layer.1.attn"}
    factors |= {"layer.0.attn": 1.0, "layer.1.attn": 1.4}
    _, removed, _ = run(tmp_path, factors, thresholds=Thresholds(slack=0.25), name="first.jsonl")
    assert set(removed) == {"layer.0.attn", "layer.0.ffn"}


def test_sign_matching_needs_a_trial_of_its_own(tmp_path):
    factors = {
        "layer.1.attn": 1.01,
        "layer.0.attn": 1.01,
        "layer.1.attn sign matching": 1.001,
        "layer.0.attn sign matching": 1.05,
    }
    _, removed, _ = run(tmp_path, factors, sign_matching_k=16)
    assert removed == ["layer.1.attn sign matching"]
    _, removed, _ = run(tmp_path, factors, focus="size", sign_matching_k=16, name="size.jsonl")
    assert removed == []


def test_a_later_round_starts_from_the_plan_of_an_earlier_one(tmp_path):
    """What is gone is not tried again, losses compare with the start, and the metric with the unpruned model."""
    evaluator = KnownLosses(
        {"layer.1.ffn": 1.2, "layer.0.ffn.group.1": 1.0, "layer.0.ffn": 1.01, "layer.0.ffn.group.2": 1.001},
        {"layer.0.ffn.group.2": 0.01},
    )
    before = evaluator.plan = plan_of(IDENTITY, 8, "layer.1.ffn", "layer.0.ffn.group.1")
    journal = Journal(tmp_path / "trials.jsonl", {})
    result = search(evaluator, SearchOptions(focus="speed", reference_metric=0.9), journal)
    tried = [json.loads(line)["element"] for line in (tmp_path / "trials.jsonl").read_text().splitlines()[2:]]
    assert result.baseline.loss == pytest.approx(1.2)
    assert (
        not {"layer.1.ffn", "layer.1.ffn.group.0", "layer.0.ffn.group.1"} & set(tried)
        and "layer.0.ffn.group.2" in tried
    )
    assert result.plan == before, "the metric fell by more than 0.5 % of the unpruned model's"


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_search_cut_anywhere_resumes_to_the_same_plan(tmp_path_factory, data):
    tmp_path = tmp_path_factory.mktemp("cut")
    factors = {
        "layer.1.ffn": 1.01,
        "layer.0.ffn": 0.99,
        "layer.1.attn": 1.012,
        "layer.0.attn": 1.004,
        "layer.1.attn sign matching": 1.002,
    }
    factors |= {f"layer.1.ffn.group.{i}": data.draw(st.sampled_from([1.0, 1.003, 1.4])) for i in range(4)}
    options = {"sign_matching_k": 4, "ffn_groups": data.draw(st.sampled_from(["any", "contiguous"]))}
    whole, _, evaluator = run(tmp_path, factors, **options)
    journal = tmp_path / "trials.jsonl"
    text = journal.read_bytes()
    start = text.index(b"\n") + 1
    cut = start + round(data.draw(st.floats(0, 1)) * (len(text) - start))  # also in the middle of a line
    journal.write_bytes(text[:cut])
    resumed, _, again = run(tmp_path, factors, **options)
    assert resumed.plan == whole.plan and resumed.trials == whole.trials
    assert again.measured == evaluator.measured - max(0, text[:cut].count(b"\n") - 1)
    records = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
    assert [record["trial"] for record in records] == list(range(whole.trials))


def test_a_journal_of_other_settings_is_refused(tmp_path):
    Journal(tmp_path / "t.jsonl", {"focus": "speed", "seed": 0})
    with pytest.raises(AxformError, match="was made with seed = 0, this search has 1"):
        Journal(tmp_path / "t.jsonl", {"focus": "speed", "seed": 1})


def test_a_damaged_journal_is_refused(tmp_path):
    journal = tmp_path / "t.jsonl"
    Journal(journal, {"a": 1})
    journal.write_text(journal.read_text() + "garbage\n")
    with pytest.raises(AxformError, match="damaged"):
        Journal(journal, {"a": 1})


@pytest.mark.parametrize(
    ("loss", "metric", "verdict"),
    [
        (1.004, 0.9, Verdict.PRUNE),
        (1.005, 0.9, Verdict.APPROXIMATE),
        (1.0199, 0.9, Verdict.APPROXIMATE),
        (1.02, 0.9, Verdict.RETAIN),
        (1.0, 0.8954, Verdict.APPROXIMATE),
        (float("nan"), 0.9, Verdict.RETAIN),
    ],
)
def test_thresholds_of_the_paper(loss, metric, verdict):
    assert Significance("speed", Thresholds(), Measurement(1.0, 0.9)).judge(Measurement(loss, metric)) is verdict


def test_accuracy_thresholds_follow_the_best_loss():
    significance = Significance("accuracy", Thresholds(), Measurement(1.0, 0.9))
    significance.accept(Measurement(0.8, 0.9))
    assert significance.judge(Measurement(0.79, 0.9)) is Verdict.PRUNE
    assert significance.judge(Measurement(0.81, 0.9)) is Verdict.APPROXIMATE
    assert significance.judge(Measurement(0.79, 0.899)) is Verdict.APPROXIMATE
    assert significance.judge(Measurement(0.82, 0.9)) is Verdict.RETAIN


def test_a_trial_that_prunes_is_never_hopeless(tmp_path):
    """Pruning may be allowed more loss than approximating."""
    thresholds = Thresholds(prune=0.1)
    _, removed, _ = run(tmp_path, {"layer.1.ffn": 1.05}, thresholds=thresholds)
    assert removed == ["layer.1.ffn"]


@pytest.mark.parametrize(
    ("loss", "constant", "below"),
    [(0.4, None, 0.5), (0.4, 0.9, 0.5), (0.4, 0.5, 0.425), (0.4, 0.3, 0.4), (0.0, 0.8, 0.01)],
)
def test_slack_is_a_share_of_what_the_baseline_knows(loss, constant, below):
    """Of its loss, less where a constant answer is nearly as good; a loss near zero counts as a twentieth of that."""
    thresholds = Thresholds(prune=0, approximate=0, slack=0.25)
    significance = Significance("speed", thresholds, Measurement(loss, 0.9), constant_loss=constant)
    assert significance.prune_below == significance.approximate_below == pytest.approx(below)
