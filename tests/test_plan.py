"""A plan is checked when it is read: every part exists, is of the right kind, and contradicts no other."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import get_args

import pytest
from axform.core.costs import encoder_flops, encoder_parameters
from axform.core.plan import ApproximationPlan, ModelIdentity, Remove, SignMatching
from axform.core.targets import Target
from axform.core.techniques import TECHNIQUES, AnyPart
from axform.errors import AxformError
from axform.exporters.rewrites import REWRITES
from axform.toolchain.apply import APPLICATIONS
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from support import plan_of

MODEL = ModelIdentity(
    family="bert", num_layers=2, num_heads=4, hidden_size=32, intermediate_size=64, fingerprint="0" * 64
)
OLD = json.loads(Path(__file__).with_name("plan_schema_1.json").read_text())
"""A plan as earlier versions wrote it, with everything that they could do."""
UPGRADED = (
    *("layer.0.attn.head.0", "layer.0.attn.head.3", "layer.0.attn.in.group.2", "layer.0.ffn.group.0"),
    *("layer.0.ffn.group.6", "layer.1.attn", "layer.2.ffn", "layer.3.attn", "layer.3.ffn"),
    *("layer.0.attn 16 count", "layer.2.attn 5 count"),
)
EMPTY = ApproximationPlan.empty(MODEL, 16)


def remove(target):
    return {"target": target, "action": "remove"}


def match(target, **settings):
    return {"target": target, "action": "attention", "kind": "sign_matching", "k": 3} | settings


def with_parts(*parts, **values):
    return EMPTY.model_dump(mode="json") | {"parts": list(parts)} | values


def with_heads(count):
    return {"model": MODEL.model_dump() | {"num_heads": count}}


def old(first=None, second=None, feed_forward=None, **values):
    """A plan of schema 1 for `MODEL`."""
    layers = [{"attention": first or {}}, {"attention": second or {}, "feed_forward": feed_forward or {}}]
    return {"schema_version": 1, "model": MODEL.model_dump(), "group_size": 16, "layers": layers} | values


def read(tmp_path, plan):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    return ApproximationPlan.load(path)


def refusal(tmp_path, plan):
    with pytest.raises(AxformError) as error:
        read(tmp_path, plan)
    text = str(error.value)
    assert "plan.json: " in text and "\n" not in text and text.endswith(".")
    return text


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ([], "not an axform plan (no schema_version)"),
        (with_parts(schema_version=99), "schema 99 is newer than this axform understands (2); update axform"),
        (with_parts(schema_version=0), "schema_version: Input should be greater than or equal to 1"),
        (with_parts(schema_version=True), "not an axform plan"),
        (with_parts(surprise=1), "plan.json: surprise: Extra inputs are not permitted"),
        (with_parts(parts=None), "parts: Input should be a valid tuple"),
        (with_parts(3), "parts.0: "),
        (with_parts({"target": "layer.0.ffn"}), "parts.0: Unable to extract tag using discriminator 'action'"),
        (with_parts({"action": "remove"}), "parts.0.remove.target: Field required"),
        (with_parts(remove("layer.0.ffn") | {"k": 3}), "parts.0.remove.k: Extra inputs are not permitted"),
        (with_parts(remove("layer.0.ffn") | {"action": "shrink"}), "'shrink' found using 'action' does not match any"),
        (with_parts(match("layer.0.attn", kind="hard")), "parts.0.attention.kind: Input should be 'sign_matching'"),
        (with_parts(remove("layer.0.mlp")), "parts.0.remove.target: 'layer.0.mlp' is no address of a part; expected"),
        (with_parts(remove(7)), "parts.0.remove.target: '7' is no address of a part"),
        (with_parts(remove("layer.2.ffn")), "there is no layer.2.ffn: the model has 2 layers, counted from 0"),
        (
            with_parts(remove("layer.0.attn.head.14")),
            "there is no layer.0.attn.head.14: the model has layer.0.attn.head.0 to layer.0.attn.head.3",
        ),
        (
            with_parts(remove("layer.1.attn.in.group.2")),
            "the model has layer.1.attn.in.group.0 to layer.1.attn.in.group.1",
        ),
        (with_parts(remove("layer.1.ffn.group.4")), "the model has layer.1.ffn.group.0 to layer.1.ffn.group.3"),
        (
            with_parts(match("layer.0.ffn")),
            "layer.0.ffn: attention (kind sign_matching, k 3, selection majority) cannot be done: attention is for "
            "layer.N.attn.",
        ),
        (with_parts(model=MODEL.model_dump() | {"family": "gpt"}), "model: family 'gpt' is unknown; known: bert, "),
        (with_parts(**with_heads(5)), "model: num_heads 5 does not divide hidden_size 32"),
        (with_parts(**with_heads(64)), "model: num_heads 64 does not divide hidden_size 32"),
    ],
)
def test_a_part_that_does_not_exist(tmp_path, plan, message):
    assert message in refusal(tmp_path, plan)


@pytest.mark.parametrize("number", [True, 1.0, "1", None, [1], 0, -1, 2**31, 10**400])
@pytest.mark.parametrize(
    "plan",
    [
        lambda number: with_parts(group_size=number),
        lambda number: with_parts(**with_heads(number)),
        lambda number: with_parts(match("layer.0.attn", k=number)),
        lambda number: old({"sign_matching": {"k": number}}),
    ],
    ids=["group_size", "num_heads", "k", "k of schema 1"],
)
def test_sizes_are_positive_whole_numbers(tmp_path, plan, number):
    text = refusal(tmp_path, plan(number))
    assert "Input should be" in text
    assert len(text) < 400  # whatever was found, the message can be read


@pytest.mark.parametrize(
    "text", ['{"schema_version": 1, "task": "\\ud800"}', "[" * 100_000, "9" * 5000, "\ufeff{}", ""]
)
def test_a_file_that_no_text_or_number_can_come_from(tmp_path, text):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(
        AxformError, match=r"plan\.json: damaged .*restore it, or make it with `axform optimize`"
    ) as error:
        ApproximationPlan.load(path)
    str(error.value).encode()  # can be printed


@pytest.mark.parametrize(
    ("parts", "named", "why"),
    [
        (
            [remove("layer.0.attn.head.1"), remove("layer.0.attn")],
            ["layer.0.attn: remove", "layer.0.attn.head.1: remove"],
            "nothing is left to change",
        ),
        (
            [match("layer.1.attn"), remove("layer.1.attn")],
            ["layer.1.attn: remove", "layer.1.attn: attention (kind sign_matching, k 3, selection majority)"],
            "nothing is left to change",
        ),
        (
            [remove("layer.1.ffn"), remove("layer.1.ffn.group.0")],
            ["layer.1.ffn: remove", "layer.1.ffn.group.0"],
            "left",
        ),
        (
            [match("layer.0.attn", k=4), match("layer.0.attn", k=5)],
            ["layer.0.attn: attention (kind sign_matching, k 4", "layer.0.attn: attention (kind sign_matching, k 5"],
            "contradict each other; keep one of them",
        ),
        ([remove("layer.0.ffn")] * 2, ["layer.0.ffn: remove and layer.0.ffn: remove"], "say the same"),
        (
            [match("layer.0.attn"), match("layer.1.attn", selection="count")],
            ["layer.0.attn: attention", "majority", "layer.1.attn: attention", "count"],
            "differ in their selection, but one file can hold only one",
        ),
        (
            [remove(f"layer.1.attn.head.{head}") for head in range(4)],
            ["all 4 heads of layer.1.attn", "layer.1.attn.head.0 to layer.1.attn.head.3"],
            "remove layer.1.attn itself instead",
        ),
        (
            [remove(f"layer.1.attn.in.group.{group}") for group in range(2)],
            ["all 2 input groups of layer.1.attn", "layer.1.attn.in.group.0 to layer.1.attn.in.group.1"],
            "remove layer.1.attn itself instead",
        ),
        (
            [remove(f"layer.0.ffn.group.{group}") for group in range(4)],
            ["all 4 groups of layer.0.ffn", "layer.0.ffn.group.0 to layer.0.ffn.group.3"],
            "remove layer.0.ffn itself instead",
        ),
    ],
)
def test_parts_that_contradict_each_other_are_both_named(tmp_path, parts, named, why):
    for order in (parts, parts[::-1]):
        text = refusal(tmp_path, with_parts(*order))
        assert all(one in text for one in named) and why in text


def test_a_plan_comes_back_as_it_was_saved_in_one_order(tmp_path):
    parts = [remove("layer.1.attn.head.2"), remove("layer.0.ffn"), match("layer.1.attn"), remove("layer.1.ffn.group.3")]
    plans = {read(tmp_path, with_parts(*order)) for order in permutations(parts)}
    (plan,) = plans
    assert [str(part.target) for part in plan.parts] == [
        "layer.0.ffn", "layer.1.attn", "layer.1.attn.head.2", "layer.1.ffn.group.3"
    ]  # fmt: skip
    plan.save(tmp_path / "plan.json")
    assert ApproximationPlan.load(tmp_path / "plan.json") == plan and plan.changes() == 4
    assert json.loads((tmp_path / "plan.json").read_text())["parts"][1] == match("layer.1.attn", selection="majority")


def test_a_fingerprint_may_be_left_out(tmp_path):
    for model in (MODEL.model_dump(exclude={"fingerprint"}), MODEL.model_dump() | {"fingerprint": None}):
        assert read(tmp_path, with_parts(model=model)).model.fingerprint == ""


def test_plans_are_values():
    plan = EMPTY.with_part(Remove(target="layer.0.ffn"))
    assert plan != EMPTY and not EMPTY.parts and len({plan, EMPTY.without(Target(0, "ffn"))}) == 1
    for broken in (plan, plan.parts[0], plan.model):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(broken, next(iter(type(broken).model_fields)), 1)
    other = plan.for_model(MODEL.model_copy(update={"fingerprint": "1"}))
    assert other.parts == plan.parts and other.layers == plan.layers and other != plan


def test_removing_a_block_drops_what_was_said_of_its_inside():
    plan = plan_of(
        MODEL, 16, "layer.0.attn.head.1", "layer.0.attn 3 count", "layer.1.attn.head.1", "layer.0.ffn.group.2"
    )
    assert plan.without(Target(0, "attn")) == plan_of(
        MODEL, 16, "layer.0.attn", "layer.1.attn.head.1", "layer.0.ffn.group.2"
    )
    assert plan.without(Target(0, "ffn")).layers[0].describe("ffn") == "skipped"


def test_a_block_is_never_emptied_from_inside():
    plan = plan_of(MODEL, 16, *(f"layer.0.ffn.group.{group}" for group in (0, 1, 3)))
    assert plan.without(Target(0, "ffn.group", 2)) is None
    assert plan.without(Target(1, "ffn.group", 2)).changes() == 4
    assert plan.without(Target(0, "ffn.group", 3)) == plan


def test_another_attention_takes_the_place_of_the_first():
    plan = plan_of(MODEL, 16, "layer.0.attn 3 majority").with_part(SignMatching(target="layer.0.attn", k=5))
    assert [part.k for part in plan.parts] == [5]
    with pytest.raises(ValidationError, match="contradict each other"):
        plan.with_part(Remove(target="layer.0.attn"))


def test_what_is_left_of_a_layer():
    plan = plan_of(MODEL, 16, "layer.0.attn.head.1", "layer.0.attn.in.group.0", "layer.0.attn 3 count", "layer.0.ffn")
    first, second = plan.layers
    assert first.removed("attn.head") == [1] and first.kept("attn.head") == [*range(8), *range(16, 32)]
    assert first.kept("attn.in.group") == list(range(16, 32)) and second.kept("ffn.group") == list(range(64))
    assert first.skips("ffn") and not first.skips("attn") and not second.skips("ffn")
    assert first.describe("attn") == "1 of 4 heads pruned, 1 of 2 input groups pruned, sign matching, k = 3"
    assert second.describe("attn") == second.describe("ffn") == "" and second == EMPTY.layers[0]
    assert all(plan.removes(Target.parse(f"layer.0.{kind}")) for kind in ("ffn", "ffn.group.2", "attn.head.1"))
    assert not any(plan.removes(Target.parse(f"layer.0.{kind}")) for kind in ("attn", "attn.head.2", "attn.in.group.1"))


def test_every_technique_has_all_its_faces():
    """What core knows of it, what PyTorch does and what becomes of the graph; and every part has its technique."""
    names = [technique.name for technique in TECHNIQUES]
    assert len(set(names)) == len(names) and set(names) == set(APPLICATIONS) == set(REWRITES)
    assert {technique.part for technique in TECHNIQUES} == set(get_args(get_args(AnyPart)[0]))


# Costs, and plans of schema 1


def test_costs_are_what_they_always_were():
    """Figures of the first version, for a plan with everything and for none, of groups that do not divide evenly."""
    model = ModelIdentity(**OLD["model"])
    plan, nothing = plan_of(model, 16, *UPGRADED), ApproximationPlan.empty(model, 16)
    assert encoder_parameters(plan) == 24040 and encoder_parameters(nothing) == 58800
    assert [encoder_flops(plan, tokens) for tokens in (1, 10, 128)] == [47280, 486400, 6287360]
    assert [encoder_flops(nothing, tokens) for tokens in (1, 10, 128)] == [115840, 1216000, 25231360]


def test_a_plan_of_schema_1_is_read(tmp_path):
    wanted = plan_of(ModelIdentity(**OLD["model"]), 16, *UPGRADED, focus="speed", task="glue/sst2")
    assert read(tmp_path, OLD) == wanted and wanted.changes() == 11
    assert read(tmp_path, json.loads(wanted.model_dump_json())) == wanted


@given(heads=st.lists(st.integers(0, 3), max_size=6).filter(lambda heads: len(set(heads)) < 4))
def test_schema_1_sorted_indices_and_named_each_once(heads):
    plan = ApproximationPlan.from_json(old({"pruned_heads": heads}), "plan")
    assert plan.layers[0].removed("attn.head") == sorted(set(heads))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (old(layers=old()["layers"][:1]), "plan.json: has 1 layers, but the model has 2"),
        (old(layers=old()["layers"] * 2), "plan.json: has 4 layers, but the model has 2"),
        (old(layers=None), "plan.json: layers: Input should be a valid list"),
        (old(surprise=1), "plan.json: surprise: Extra inputs are not permitted"),
        (old(parts=[]), "plan.json: parts: Extra inputs are not permitted"),
        (old(model=3), "plan.json: model: Input should be a valid dictionary"),
        (old({"pruned_heads": [14]}), "there is no layer.0.attn.head.14: the model has layer.0.attn.head.0 to "),
        (old({"pruned_heads": [0, 1, 2, 3]}), "all 4 heads of layer.0.attn are removed"),
        (old({"pruned_input_groups": [-1]}), "there is no layer.0.attn.in.group.-1: the model has "),
        (old(feed_forward={"pruned_groups": [4]}), "there is no layer.1.ffn.group.4: the model has "),
        (
            old({"skipped": True, "pruned_heads": [1]}),
            "layer.0.attn: remove and layer.0.attn.head.1: remove contradict",
        ),
        (old(None, {"skipped": True, "sign_matching": {"k": 3}}), "layer.1.attn: remove and layer.1.attn: attention"),
        (
            old({"sign_matching": {"k": 3}}, {"sign_matching": {"k": 3, "selection": "count"}}),
            "differ in their selection, but one file can hold only one",
        ),
        *((old({"skipped": switch}), "skipped: Input should be a valid boolean") for switch in (1, "true", None)),
        *(
            (old({"pruned_heads": [index]}), "attention.pruned_heads.0: Input should be")
            for index in (True, 1.0, "1", None, 10**400)
        ),
    ],
)
def test_a_damaged_plan_of_schema_1(tmp_path, plan, message):
    text = refusal(tmp_path, plan)
    assert message in text and len(text) < 400
