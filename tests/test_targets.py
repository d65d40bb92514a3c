"""Addresses are read as they are printed, and a grid knows which of them a model has."""

from __future__ import annotations

import pytest
from axform.core.families import ModelShape
from axform.core.targets import Grid, Target
from hypothesis import given
from hypothesis import strategies as st

UNEVEN = Grid(ModelShape(num_layers=2, num_heads=4, hidden_size=40, intermediate_size=100), 16)
"""Three groups of input features and seven of neurons, the last of them 8 and 4 wide."""

numbers = st.integers(0, 10**9 - 1)
targets = st.one_of(
    st.builds(Target, numbers, st.sampled_from(["attn", "ffn"])),
    st.builds(Target, numbers, st.sampled_from(["attn.head", "attn.in.group", "ffn.group"]), numbers),
)


@given(target=targets)
def test_an_address_is_read_as_it_is_printed(target):
    assert Target.parse(str(target)) == target


@given(text=st.one_of(st.text(), st.from_regex(r"layer\.[0-9]+\.[a-z.]+(\.[0-9]+)?", fullmatch=True)))
def test_what_is_read_is_printed_the_same(text):
    try:
        target = Target.parse(text)
    except ValueError as error:
        assert "is no address of a part; expected one of layer.N.attn, layer.N.attn.head.N, " in str(error)
        assert len(str(error)) < 500
    else:
        assert str(target) == text


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "layer.3",
            "layer.3.mlp",
            "layer.3.ffn.2",
            "layer.3.ffn.head.2",
            "layer.3.ffn.group",
            "layer.3.attn.group.1",
        ),
        *("layer.3.attn.in", "layer.03.ffn", "layer.-1.ffn", "layer.3.ffn\n", "Layer.3.ffn", "layer.٣.ffn"),
        *("x" * 9999, f"layer.{'9' * 5000}.ffn"),
    ],
)
def test_no_addresses(text):
    with pytest.raises(ValueError, match="is no address of a part"):
        Target.parse(text)


def test_what_a_target_is():
    assert str(Target(3, "attn.in.group", 1)) == "layer.3.attn.in.group.1"
    blocks, fine, finest = ([Target.parse(f"layer.1.{kind}") for kind in kinds] for kinds in (
        ("attn", "ffn"), ("attn.head.1", "ffn.group.2"), ("attn.in.group.0",)
    ))  # fmt: skip
    assert [target.granularity for target in (*blocks, *fine, *finest)] == [0, 0, 1, 1, 2]
    assert [target.parent for target in (*blocks, *fine, *finest)] == [*blocks, *blocks, blocks[0]]
    assert [target.is_block for target in (*blocks, *fine, *finest)] == [True, True, False, False, False]


def test_a_grid_has_the_targets_that_it_lists_and_no_other():
    listed = list(UNEVEN.targets())
    assert len(listed) == len(set(listed)) == 2 * (2 + 4 + 3 + 7) and all(map(UNEVEN.has, listed))
    assert [str(target) for target in listed[:5]] == ["layer.0.attn", *(f"layer.0.attn.head.{i}" for i in range(4))]
    for address in ("layer.2.ffn", "layer.0.attn.head.4", "layer.0.attn.in.group.3", "layer.1.ffn.group.7"):
        assert not UNEVEN.has(Target.parse(address))
    assert not UNEVEN.has(Target(0, "ffn.group", -1))
    for outside in ("embeddings.word", "rest"):
        target = Target.parse(outside)
        assert str(target) == outside and UNEVEN.has(target) and not target.is_block and target.parent == target


@pytest.mark.parametrize(("layer", "kind"), [(-1, "ffn"), (0, "rest")])
def test_what_is_in_a_layer_and_what_is_in_none(layer, kind):
    with pytest.raises(ValueError, match="are in no layer"):
        Target(layer, kind)
    for kind, index in (("ffn", 0), ("attn.head", None)):
        with pytest.raises(ValueError, match="heads and groups have an index, blocks have none"):
            Target(0, kind, index)


def test_the_last_group_may_be_shorter():
    assert UNEVEN.kept("attn.in.group", [0, 1]) == list(range(32, 40))
    assert UNEVEN.kept("attn.head", [1, 3]) == [*range(10), *range(20, 30)]
    assert UNEVEN.kept("ffn.group", []) == list(range(100))
    for kind in ("attn.head", "attn.in.group", "ffn.group"):
        widths = [UNEVEN.width(Target(0, kind, index)) for index in range(UNEVEN.count(kind))]
        assert sum(widths) == UNEVEN.dimension(kind) and set(widths[:-1]) == {UNEVEN.step(kind)}
    assert UNEVEN.width(Target(0, "attn.in.group", 2)) == 8 and UNEVEN.width(Target(0, "ffn.group", 6)) == 4
    assert UNEVEN.width(Target(0, "ffn")) == 100
