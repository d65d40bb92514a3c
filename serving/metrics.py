"""What all workers have counted, as Prometheus reads it.

Every series has the label ``worker``: a worker that was killed counts from zero again, which Prometheus takes for what
it is in a series of its own and for nonsense in a sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from .service import WorkerCounts
from .statistics import LATENCY_BOUNDS, ROW_BOUNDS, ModelCounts

__all__ = ["CONTENT_TYPE", "rendered"]

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_LABELS = ["model", "worker"]


def rendered(workers: Sequence[WorkerCounts]) -> bytes:
    """All metrics in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(workers))
    return generate_latest(registry)


class _Collector(Collector):
    def __init__(self, workers: Sequence[WorkerCounts]) -> None:
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily("axform_requests", "Requests by outcome.", labels=[*_LABELS, "outcome"])
        latency = HistogramMetricFamily(
            "axform_request_seconds", "From the parsed request to its answer.", labels=_LABELS
        )
        waiting = GaugeMetricFamily("axform_queue_rows", "Rows that wait for a batch.", labels=_LABELS)
        queued = CounterMetricFamily("axform_queue_seconds", "Time of requests in the queue.", labels=_LABELS)
        batches = HistogramMetricFamily("axform_batch_rows", "Rows that ran together.", labels=_LABELS)
        positions = CounterMetricFamily(
            "axform_batch_positions", "Rows times length of batches, padding included.", labels=_LABELS
        )
        padding = CounterMetricFamily(
            "axform_padding_positions", "Those of axform_batch_positions that are padding.", labels=_LABELS
        )
        share = GaugeMetricFamily(
            "axform_padding_share", "axform_padding_positions over axform_batch_positions.", labels=_LABELS
        )
        compute = CounterMetricFamily("axform_compute_seconds", "Time in the model.", labels=_LABELS)
        reloads = CounterMetricFamily("axform_reloads", "Bundles loaded again.", labels=[*_LABELS, "outcome"])
        for counts, labels in self._models():
            requests.add_metric([*labels, "success"], counts.success.count)
            for reason, count in counts.refused.items():
                requests.add_metric([*labels, reason], count)
            latency.add_metric(labels, _buckets(LATENCY_BOUNDS, counts.latency), counts.success.ns / 1e9)
            waiting.add_metric(labels, counts.waiting)
            queued.add_metric(labels, counts.queue.ns / 1e9)
            batches.add_metric(labels, _buckets(ROW_BOUNDS, counts.batch_rows), counts.rows)
            positions.add_metric(labels, counts.positions)
            padding.add_metric(labels, counts.padding)
            share.add_metric(labels, counts.padding / max(counts.positions, 1))
            compute.add_metric(labels, sum(figures[2] for figures in counts.by_rows.values()) / 1e9)
            for outcome, count in counts.reloads.items():
                reloads.add_metric([*labels, outcome], count)
        memory = GaugeMetricFamily("axform_worker_resident_bytes", "Memory of a worker.", labels=["worker"])
        for worker in self._workers:
            memory.add_metric([str(worker.worker)], worker.resident)
        yield from (requests, latency, waiting, queued, batches, positions, padding, share, compute, reloads, memory)

    def _models(self) -> Iterator[tuple[ModelCounts, list[str]]]:
        for worker in self._workers:
            for name, counts in worker.models.items():
                yield counts, [name, str(worker.worker)]


def _buckets(bounds: Iterable[float], counts: Iterable[int]) -> list[tuple[str, float]]:
    """Cumulative, as Prometheus has them."""
    ends = [*(str(float(bound)) for bound in bounds), "+Inf"]
    return list(zip(ends, map(float, accumulate(counts)), strict=True))
