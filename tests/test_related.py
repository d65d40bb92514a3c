"""Rows that say the same are found and stay on one side of a split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from axform.core.batches import EncodedSplit
from axform.core.tasks import task_named, with_columns
from axform.toolchain.data import encode_judging, load_task_data
from axform.toolchain.related import draw_together, effective_rows, related_rows
from hypothesis import given
from hypothesis import strategies as st
from support import tiny_tokenizer

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


def test_rows_that_tell_little_are_held_back_in_greater_number() -> None:
    assert effective_rows(np.arange(50)) == 50
    assert effective_rows(np.repeat(np.arange(10), 5)) == pytest.approx(10)


@pytest.mark.parametrize(("copies", "share"), [(1, 0.15), (4, 0.3)])
def test_phrases_of_the_same_sentences_are_a_small_task(tmp_path: Path, copies: int, share: float) -> None:
    """Of 24,000 unrelated rows 15 % are held back, of four phrases each of 6,000 sentences 30 %."""
    texts = [" ".join([f"w{row // copies} a b", *["c"] * (row % copies)]) for row in range(24_000)]
    rows = pd.DataFrame({"text": texts, "label": [0, 1] * 12_000})
    rows.to_parquet(tmp_path / "train.parquet")
    rows[:40].to_parquet(tmp_path / "validation.parquet")
    data = load_task_data(task_named("text-classification"), tmp_path)
    held_back = pd.concat([data.selection, data.acceptance])
    assert len(held_back) / 24_000 == pytest.approx(share, abs=0.001)
    assert not set(held_back.index // copies) & set(data.train.index // copies)


def test_rows_that_judge_know_their_relatives_wherever_they_are_kept() -> None:
    texts = [
        "a fine film indeed",
        "fine film indeed",
        "dull",
        "so very dull today",
        "very dull today",
        "so",
        "la",
        "li",
    ]
    frame = pd.DataFrame({"text": texts, "label": [0, 1] * 4})
    task = with_columns(task_named("text-classification"), list(frame.columns), "rows")
    split = encode_judging(task, frame, tiny_tokenizer(), ["input_ids"], 16)
    assert split.groups is not None and split.groups.tolist() == [0, 0, 2, 3, 3, 5, 6, 7]
    kept = EncodedSplit.from_arrays(split.to_arrays()).select([1, 0, 4])
    assert kept.groups is not None and kept.groups.tolist() == [0, 0, 3]
    with pytest.raises(ValueError, match="groups are not one number for each of 8 samples"):
        EncodedSplit.from_arrays(split.to_arrays() | {"groups": np.arange(7)})
