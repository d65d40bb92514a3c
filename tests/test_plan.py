"""A plan is checked when it is read: every part exists, is of the right kind, and contradicts no other."""

from __future__ import annotations

import json

import pytest
from axform.core.plan import ApproximationPlan, ModelIdentity
from axform.errors import AxformError

MODEL = ModelIdentity(
    family="bert", num_layers=2, num_heads=4, hidden_size=32, intermediate_size=64, fingerprint="0" * 64
)


def with_attention(first=None, second=None):
    plan = ApproximationPlan.empty(MODEL, group_size=16).model_dump()
    plan["layers"][0]["attention"] |= first or {}
    plan["layers"][1]["attention"] |= second or {}
    return plan


def with_feed_forward(**values):
    plan = with_attention()
    plan["layers"][1]["feed_forward"] |= values
    return plan


def read(tmp_path, plan):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    return ApproximationPlan.load(path)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ([], "not an axform plan (no schema_version)"),
        (with_attention() | {"schema_version": 99}, "schema 99 is newer than this axform understands (1)"),
        (with_attention() | {"schema_version": 0}, "schema_version: Input should be greater than or equal to 1"),
        (with_attention() | {"layers": with_attention()["layers"][:1]}, "has 1 layers, but the model has 2"),
        (with_attention() | {"layers": with_attention()["layers"] * 2}, "has 4 layers, but the model has 2"),
        (with_attention() | {"surprise": 1}, "plan.json: surprise: Extra inputs are not permitted"),
        (with_attention({"pruned_heads": [14]}), "pruned_heads names head 14, but the model has 4 heads (0-3)"),
        (with_attention({"pruned_heads": [0, 1, 2, 3]}), "names all 4 heads; set `skipped`"),
        (with_attention({"pruned_input_groups": [-1]}), "pruned_input_groups names weight group -1"),
        (
            with_feed_forward(pruned_groups=[4]),
            "layers[1].feed_forward.pruned_groups names weight group 4, but the model has 4",
        ),
    ],
)
def test_a_part_that_does_not_exist(tmp_path, plan, message):
    with pytest.raises(AxformError) as error:
        read(tmp_path, plan)
    assert message in str(error.value)


@pytest.mark.parametrize("number", [True, 1.0, "1", None, [1], 0, -1, 2**31, 10**400])
@pytest.mark.parametrize(
    "plan",
    [
        lambda number: with_attention() | {"group_size": number},
        lambda number: with_attention() | {"model": MODEL.model_dump() | {"num_heads": number}},
        lambda number: with_attention({"sign_matching": {"k": number}}),
    ],
    ids=["group_size", "num_heads", "k"],
)
def test_sizes_are_positive_whole_numbers(tmp_path, plan, number):
    with pytest.raises(AxformError, match=r"plan\.json: .*Input should be") as error:
        read(tmp_path, plan(number))
    assert len(str(error.value)) < 400  # whatever was found, the message can be read


@pytest.mark.parametrize("index", [True, 1.0, "1", None, 10**400])
def test_indices_are_whole_numbers(tmp_path, index):
    with pytest.raises(AxformError, match=r"pruned_heads\.0: Input should be") as error:
        read(tmp_path, with_attention({"pruned_heads": [index]}))
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("skipped", [1, "true", None])
def test_a_switch_is_true_or_false(tmp_path, skipped):
    with pytest.raises(AxformError, match="skipped: Input should be a valid boolean"):
        read(tmp_path, with_attention({"skipped": skipped}))


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
    ("plan", "message"),
    [
        (
            with_attention({"skipped": True, "pruned_heads": [1]}),
            r"layers\[0\]\.attention is skipped, so pruned_heads cannot be set",
        ),
        (
            with_attention(None, {"skipped": True, "pruned_input_groups": [1], "sign_matching": {"k": 3}}),
            r"layers\[1\]\.attention is skipped, so pruned_input_groups and sign_matching cannot be set",
        ),
        (
            with_feed_forward(skipped=True, pruned_groups=[0]),
            r"layers\[1\]\.feed_forward is skipped, so pruned_groups cannot be set",
        ),
        (
            with_attention({"sign_matching": {"k": 3}}, {"sign_matching": {"k": 3, "selection": "count"}}),
            r"selects by majority \(layers\[0\]\) and count \(layers\[1\]\), but one file can hold only one",
        ),
    ],
)
def test_parts_that_contradict_each_other(tmp_path, plan, message):
    with pytest.raises(AxformError, match=message):
        read(tmp_path, plan)


def test_a_plan_comes_back_as_it_was_saved(tmp_path):
    plan = ApproximationPlan.empty(MODEL, group_size=16)
    plan.layers[0].attention.skipped = True
    plan.layers[1].attention.pruned_heads = [0, 2]
    plan.layers[1].feed_forward.pruned_groups = [3]
    plan.save(tmp_path / "plan.json")
    assert ApproximationPlan.load(tmp_path / "plan.json") == plan
    assert plan.changes() == 4
