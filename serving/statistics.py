"""What a model did, counted: the figures of the protocol's statistics and of Prometheus alike.

Plain sums, so that those of several workers add up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, Field

from .refusals import Reason

__all__ = ["LATENCY_BOUNDS", "ROW_BOUNDS", "BatchTimes", "Durations", "ModelCounts", "protocol_statistics"]

LATENCY_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds, the upper ends of the buckets of a histogram."""
ROW_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Rows of a batch."""


class Durations(BaseModel):
    """How often something happened and how long it took in all, in nanoseconds."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        self.count += count
        self.ns += ns


class BatchTimes(BaseModel):
    """One run of a model, in nanoseconds."""

    prepare: int = 0
    run: int = 0
    split: int = 0


class ModelCounts(BaseModel):
    """All that is counted of one model in one worker."""

    rows: int = 0
    batches: int = 0
    last_ms: int = 0
    """Unix time of the last answer, in milliseconds."""
    success: Durations = Field(default_factory=Durations)
    fail: Durations = Field(default_factory=Durations)
    queue: Durations = Field(default_factory=Durations)
    prepare: Durations = Field(default_factory=Durations)
    run: Durations = Field(default_factory=Durations)
    split: Durations = Field(default_factory=Durations)
    refused: dict[str, int] = Field(default_factory=dict)
    """Name of a reason -> requests."""
    positions: int = 0
    """Of all batches, (rows, length), padding included."""
    padding: int = 0
    latency: list[int] = Field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS) + 1))
    """Answers by `LATENCY_BOUNDS`."""
    batch_rows: list[int] = Field(default_factory=lambda: [0] * (len(ROW_BOUNDS) + 1))
    """Batches by `ROW_BOUNDS`."""
    by_rows: dict[int, tuple[int, int, int, int]] = Field(default_factory=dict)
    """Rows of a batch -> batches, and their nanoseconds of preparing, running and splitting."""
    waiting: int = 0
    """Rows in the queue now."""
    reloads: dict[str, int] = Field(default_factory=dict)
    """Success or failure -> how often the bundle was loaded again."""

    def answered(self, seconds: float, at_ms: int) -> None:
        """A request got its answer after ``seconds``."""
        self.success.add(int(seconds * 1e9))
        self.latency[bisect_left(LATENCY_BOUNDS, seconds)] += 1
        self.last_ms = at_ms

    def was_refused(self, reason: Reason, seconds: float) -> None:
        """A request got none."""
        self.fail.add(int(seconds * 1e9))
        self.refused[reason.name.lower()] = self.refused.get(reason.name.lower(), 0) + 1

    def ran(self, rows: int, requests: int, positions: int, padding: int, times: BatchTimes) -> None:
        """A batch was run."""
        self.rows += rows
        self.batches += 1
        self.positions += positions
        self.padding += padding
        self.prepare.add(times.prepare, requests)
        self.run.add(times.run, requests)
        self.split.add(times.split, requests)
        self.batch_rows[bisect_left(ROW_BOUNDS, rows)] += 1
        count, *before = self.by_rows.get(rows, (0, 0, 0, 0))
        prepare, run, split = before
        self.by_rows[rows] = (count + 1, prepare + times.prepare, run + times.run, split + times.split)

    def loaded_again(self, outcome: str) -> None:
        self.reloads[outcome] = self.reloads.get(outcome, 0) + 1


def protocol_statistics(name: str, version: str, of_workers: Iterable[ModelCounts]) -> dict[str, Any]:
    """An entry of ``model_stats``, as Triton's statistics extension defines it, over all workers."""
    counts = list(of_workers)

    def total(part: str) -> dict[str, int]:
        durations: list[Durations] = [getattr(one, part) for one in counts]
        return {"count": sum(one.count for one in durations), "ns": sum(one.ns for one in durations)}

    nothing = {"count": 0, "ns": 0}
    by_rows: dict[int, Counter[str]] = {}
    for one in counts:
        for rows, figures in one.by_rows.items():
            by_rows.setdefault(rows, Counter()).update(
                dict(zip(("count", "prepare", "run", "split"), figures, strict=True))
            )
    return {
        "name": name,
        "version": version,
        "last_inference": max((one.last_ms for one in counts), default=0),
        "inference_count": sum(one.rows for one in counts),
        "execution_count": sum(one.batches for one in counts),
        "inference_stats": {
            "success": total("success"),
            "fail": total("fail"),
            "queue": total("queue"),
            "compute_input": total("prepare"),
            "compute_infer": total("run"),
            "compute_output": total("split"),
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": {"count": sums["count"], "ns": sums["prepare"]},
                "compute_infer": {"count": sums["count"], "ns": sums["run"]},
                "compute_output": {"count": sums["count"], "ns": sums["split"]},
            }
            for rows, sums in sorted(by_rows.items())
        ],
        "memory_usage": [],
        "response_stats": {},
    }
