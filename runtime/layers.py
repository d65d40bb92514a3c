"""Where the time of a run goes: by part of the model and by operator, of the baseline and of the model."""

from __future__ import annotations

import platform
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..core.cores import usable_cores
from ..core.families import FAMILIES, Family
from ..core.precision import DEFAULT_PRECISION
from .bundle import Bundle, Manifest, Measured, Report
from .calls import random_runner
from .check_data import CheckData
from .feeds import ANY_TOKENS
from .graph_nodes import read_nodes
from .interleaved import BENCH_SECONDS, time_interleaved
from .latency import check_files, check_inputs, machine_name, timed_shapes
from .limits import positive
from .parts import EMBEDDINGS, NOT_TOLD, all_parts, family_in, layers_in, part_of, parts_of
from .profiles import MOST_RUNS, Profile, ProfiledSession
from .session import DEFAULT_PROVIDER, Provider, create_session, import_onnxruntime, provider_of

__all__ = ["LayersReport", "OperatorTime", "PartTime", "time_file_layers", "time_layers"]

_FIRST_TOKEN = "first_token"
"""The pass after which the last layer computes one position only."""


class PartTime(Measured):
    """Milliseconds per run in one part of the model: the sum over its nodes of their medians."""

    part: str
    """embeddings, layer.N.attn, layer.N.ffn, head, other, or "not told" for nodes that nothing is known of."""
    baseline: float
    model: float
    """0.0 where the part is gone."""
    done: str
    """What the plan did to it; empty where it did nothing."""


class OperatorTime(Measured):
    """Nodes of one operator and their milliseconds per run."""

    operator: str
    baseline_calls: int
    model_calls: int
    baseline: float
    model: float


class LayersReport(Report):
    batch: int
    sequence: int
    runs: int
    """Of each session that counted."""
    threads: int
    parts: list[PartTime]
    """In the order in which they run; empty where the files name no modules of a known family."""
    operators: list[OperatorTime]
    """The dearest first."""
    form: str = ""
    """What holds for the whole model beside the plan, such as its precision; empty where it is float32."""
    plain: tuple[float, float]
    """Milliseconds of a run without the profiler, of the baseline and of the model, in turn with the profiled ones."""
    profiled: tuple[float, float]
    """Of a run with it. The parts add up to less: what lies between nodes is in none of them."""
    machine: str
    versions: dict[str, str]

    @property
    def not_told(self) -> float:
        """Share of the time of all parts, in the worse of the two models, that could not be joined to one."""
        last = [part for part in self.parts if part.part == NOT_TOLD]
        wholes = [sum(part.baseline for part in self.parts), sum(part.model for part in self.parts)]
        missing = [sum(part.baseline for part in last), sum(part.model for part in last)]
        return max((part / whole for part, whole in zip(missing, wholes, strict=True) if whole), default=0.0)


def time_layers(
    bundle: Bundle,
    batch: int,
    sequence: int,
    *,
    provider: Provider = DEFAULT_PROVIDER,
    threads: int | None = None,
    runs: int | None = None,
    seconds: float = BENCH_SECONDS,
    on_run: Callable[[int, int, str], None] | None = None,
) -> LayersReport:
    """Profile both models of a bundle on random tokens of its task; the report is recorded in the bundle as "layers".

    Args:
        threads: threads inside one operator; None = all cores this process may use.
        runs: runs of each model; None = as many as fit into ``seconds``, at least 20. At most 200 are profiled.
        on_run: called with (shapes done, shapes in all, what runs now).

    Raises:
        AxformError: a file was changed or cannot be run, an option is out of range, or the provider does not run node
            by node.
    """
    bundle.verify()
    manifest = bundle.manifest
    timed_shapes(manifest.plan.model.shape, manifest.max_length, [batch], [sequence])
    tokens = np.concatenate(list(CheckData.load(bundle.check_data).split.features["input_ids"]))
    family = FAMILIES[manifest.plan.model.family]
    timing = _Timing((bundle.baseline, bundle.model), batch, sequence, provider, threads)
    report = timing.report(tokens, family, _done(manifest, family), runs, seconds, on_run)
    report.form = "" if manifest.precision == DEFAULT_PRECISION else f"model in {manifest.precision}"
    report.not_recorded = bundle.save_result("layers", report.model_dump())
    return report


def time_file_layers(
    first: Path,
    second: Path,
    batch: int,
    sequence: int,
    *,
    provider: Provider = DEFAULT_PROVIDER,
    threads: int | None = None,
    runs: int | None = None,
    seconds: float = BENCH_SECONDS,
    on_run: Callable[[int, int, str], None] | None = None,
) -> LayersReport:
    """The same of any two files with the same inputs, without parts where they name no modules of a known family.

    Raises:
        AxformError: a file cannot be run, the inputs differ, or as in `time_layers`.
    """
    check_files(first, second)
    families = [family_in(read_nodes(file)) for file in (first, second)]
    family = families[0] if families[0] == families[1] else None
    timing = _Timing((first, second), batch, sequence, provider, threads)
    return timing.report(ANY_TOKENS, family, {}, runs, seconds, on_run)


class _Timing:
    """Two files, each in a session that is profiled and in one that is not.

    Args:
        files: the baseline's and the model's.
    """

    def __init__(
        self, files: tuple[Path, Path], batch: int, sequence: int, provider: Provider, threads: int | None
    ) -> None:
        self._files = files
        self._batch, self._sequence = positive("--batch", batch), positive("--seq", sequence)
        self._provider: Provider = provider
        self._threads = usable_cores() if threads is None else threads
        import_onnxruntime()

    def report(
        self,
        tokens: np.ndarray,
        family: Family | None,
        done: dict[str, str],
        runs: int | None,
        seconds: float,
        on_run: Callable[[int, int, str], None] | None,
    ) -> LayersReport:
        """Time them in turn.

        Args:
            family: whose modules the files name.
            done: what was done to each part of the model.
        """
        if runs is not None:
            runs = min(positive("runs", runs), MOST_RUNS)
        if on_run is not None:
            on_run(0, 1, f"layers, batch {self._batch}, sequence {self._sequence}")
        with tempfile.TemporaryDirectory() as scratch:
            plain = [create_session(file, self._provider, self._threads, spinning=False) for file in self._files]
            check_inputs(self._files, plain)
            profiled = []
            for name, file in zip(("baseline", "model"), self._files, strict=True):
                folder = Path(scratch) / name
                folder.mkdir()
                profiled.append(ProfiledSession(file, self._provider, self._threads, folder))
            sessions = [*plain, *(one.session for one in profiled)]
            runners = [random_runner(session, self._batch, self._sequence, tokens) for session in sessions]
            times = time_interleaved(runners, runs=runs, seconds=seconds, most=MOST_RUNS)
            profiles = [one.finish(len(times[0])) for one in profiled]
        return LayersReport(
            provider=provider_of(plain[0]),
            batch=self._batch,
            sequence=self._sequence,
            runs=len(times[0]),
            threads=self._threads,
            parts=[] if family is None else self._parts(profiles, family, done),
            operators=_operators(profiles),
            plain=(float(np.median(times[0])), float(np.median(times[1]))),
            profiled=(profiles[0].milliseconds, profiles[1].milliseconds),
            machine=machine_name(),
            versions={
                "python": platform.python_version(),
                "onnxruntime": import_onnxruntime().__version__,
                "numpy": np.__version__,
            },
        )

    def _parts(self, profiles: Sequence[Profile], family: Family, done: dict[str, str]) -> list[PartTime]:
        layers, sums = 0, []
        for file, profile in zip(self._files, profiles, strict=True):
            nodes = read_nodes(file)
            layers = max(layers, layers_in(nodes, family))
            parts = parts_of(profile.graph, nodes, family)
            taken: dict[str, float] = defaultdict(float)
            for node in profile.nodes:
                taken[parts.get(node.name, NOT_TOLD)] += node.milliseconds
            sums.append(taken)
        return [
            PartTime(part=part, baseline=sums[0][part], model=sums[1][part], done=done.get(part, ""))
            for part in all_parts(layers)
        ]


def _operators(profiles: Sequence[Profile]) -> list[OperatorTime]:
    calls = [Counter(node.operator for node in profile.nodes) for profile in profiles]
    sums: list[dict[str, float]] = [defaultdict(float), defaultdict(float)]
    for profile, taken in zip(profiles, sums, strict=True):
        for node in profile.nodes:
            taken[node.operator] += node.milliseconds
    found = [
        OperatorTime(
            operator=name,
            baseline_calls=calls[0][name],
            model_calls=calls[1][name],
            baseline=sums[0][name],
            model=sums[1][name],
        )
        for name in calls[0] | calls[1]
    ]
    return sorted(found, key=lambda one: -max(one.baseline, one.model))


def _done(manifest: Manifest, family: Family) -> dict[str, str]:
    """What the plan did to each part, and where the layout left the last layer one token."""
    plan = manifest.plan
    done: dict[str, list[str]] = defaultdict(list)
    for number, layer in enumerate(plan.layers):
        for block in ("attn", "ffn"):
            done[f"layer.{number}.{block}"].append(layer.describe("attn" if block == "attn" else "ffn"))
    if plan.word_embeddings is not None:
        done[EMBEDDINGS].append(f"words in {plan.word_embeddings.said}")
    for rewrite in manifest.rewrites:
        if rewrite.rewrite == _FIRST_TOKEN:
            for part in {part_of(place, family) for place, _ in rewrite.changes}:
                done[part or ""].append("first token only")
    return {part: ", ".join(text for text in told if text) for part, told in done.items()}
