"""Rows that say the same are found and stay on one side of a split."""

from __future__ import annotations

import numpy as np
import pytest
from axform.toolchain.related import draw_together, related_rows
from hypothesis import given
from hypothesis import strategies as st

_WORDS = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=6).map(" ".join)


@pytest.mark.parametrize(
    ("rows", "related"),
    [
        ([("a fine film indeed",), ("it is a fine film indeed , really",)], True),
        ([("A fine film, indeed!",), ("a fine film indeed",)], True),
        ([("the film",), ("the film is fine",)], False),
        ([("fine film is",), ("film is fine",)], False),
        ([("line film is",), ("a headline film is",)], False),
        ([("short", "the same long premise"), ("the same long premise", "other")], True),
        ([("who is it", "the first long answer"), ("who is it", "another long answer")], False),
    ],
)
def test_what_is_related(rows: list[tuple[str, ...]], related: bool) -> None:
    assert (len(set(related_rows(rows))) == 1) is related


@given(st.lists(_WORDS, min_size=1, max_size=30))
def test_a_row_belongs_to_one_that_holds_it(texts: list[str]) -> None:
    groups = related_rows([(text,) for text in texts])
    for text, group in zip(texts, groups, strict=True):
        assert f" {text} " in f" {texts[group]} " or text == texts[group]
        assert groups[group] == group
    held = [text for text in texts if len(text.split()) >= 3]
    for text in held:
        longer = [other for other in texts if len(other) > len(text) and f" {text} " in f" {other} "]
        assert not longer or texts[groups[texts.index(text)]] != text


@given(st.lists(st.integers(0, 12), min_size=20, max_size=200), st.integers(1, 4))
def test_parts_hold_every_row_once_and_whole_groups(owners: list[int], share: int) -> None:
    groups = related_rows([(f"w{owner} x y",) for owner in owners])
    count = max(1, len(groups) // (8 - share))
    parts = draw_together(groups, [count, count])
    assert sorted(np.concatenate(parts)) == list(range(len(groups)))
    assert all(count <= len(part) <= count + max(1, count // 4) for part in parts[:2])
    sizes = np.bincount(groups)
    for group in np.flatnonzero(sizes):
        if sizes[group] <= max(1, count // 4):
            assert sum(bool(np.isin(part, np.flatnonzero(groups == group)).any()) for part in parts) == 1


def test_rows_without_relatives_are_taken_in_their_order() -> None:
    parts = draw_together(np.arange(10), [2, 3])
    assert [part.tolist() for part in parts] == [[0, 1], [2, 3, 4], [5, 6, 7, 8, 9]]
