"""Which rows of a task say the same, so that none of them judges what was trained on another.

SST-2's train split is 67,349 phrases of 7,000 sentences, MRPC and RTE repeat a sentence in several pairs, and data of
one's own holds duplicates. Held back row by row, most held-back rows have a relative among those trained on, and what
keeps a bound on them breaks it on new ones.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

__all__ = ["draw_together", "effective_rows", "related_rows", "small_groups"]

_WORD = re.compile(r"\w+")
_FEWEST_WORDS = 3
"""Of a text that shows where it comes from; "the film" is part of thousands of sentences."""


def related_rows(rows: Iterable[Sequence[str]]) -> np.ndarray:
    """For each row the number of the row that it belongs to, (rows,) int64; equal for rows that are related.

    A row stands for its longest text, by its words alone. Rows are related when these are equal, or when one holds the
    other, of at least three words, in one piece; a text that several others hold belongs to the longest.
    """
    texts = [max((_words(text) for text in row), key=len) for row in rows]
    held_by_none: dict[str, list[str]] = defaultdict(list)  # by each run of as many words as the fewest
    frequency = Counter(run for text in texts for run in _runs(text))
    holder: dict[str, str] = {}
    for text in sorted(set(texts), key=lambda text: (-len(text), text)):
        runs = _runs(text)
        rarest = min(runs, key=lambda run: (frequency[run], run), default="")
        found = (other for other in held_by_none.get(rarest, ()) if f" {text} " in f" {other} ")
        holder[text] = next(found, text)
        if holder[text] is text:
            for run in runs:
                held_by_none[run].append(text)
    first = {text: row for row, text in reversed([*enumerate(texts)])}
    return np.array([first[holder[text]] for text in texts])


def draw_together(groups: np.ndarray, counts: Sequence[int]) -> list[np.ndarray]:
    """Give whole groups to one part after the other, of about that many rows each, in the order of the rows they belong to.

    A part ends with the group that reaches its count.

    Args:
        groups: from `related_rows` of rows in random order.
        counts: rows asked for.

    Returns:
        For each count the row numbers, ascending, then those of the rows that are left.
    """
    groups = small_groups(groups, min(counts))
    together = np.argsort(groups, kind="stable")
    ends_of_groups = np.flatnonzero(np.diff(groups[together], append=len(groups))) + 1
    ends, taken = [], 0
    for count in counts:
        taken = int(ends_of_groups[np.searchsorted(ends_of_groups, taken + count)])
        ends.append(taken)
    return [np.sort(part) for part in np.split(together, ends)]


def small_groups(groups: np.ndarray, rows: int) -> np.ndarray:
    """The groups where so many rows are asked for: one of more than a quarter of them goes row by row.

    Data that says the same everywhere can still be split, and its rows counted.
    """
    is_large = np.bincount(groups)[groups] > max(1, rows // 4)
    return np.where(is_large, np.arange(len(groups)), groups)


def effective_rows(groups: np.ndarray) -> float:
    """How many unrelated rows tell as much, where related ones are answered alike (Kish, Survey Sampling, 1965)."""
    return float(len(groups) ** 2 / (np.bincount(groups).astype(float) ** 2).sum())


def _words(text: str) -> str:
    return " ".join(_WORD.findall(text.lower()))


def _runs(text: str) -> set[str]:
    """What a text has in common with every other that holds it: its words, so many at a time."""
    words = text.split()
    return {" ".join(words[start : start + _FEWEST_WORDS]) for start in range(len(words) - _FEWEST_WORDS + 1)}
