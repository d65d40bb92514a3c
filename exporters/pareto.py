"""The states of a run side by side: what each round lost or gained, how large its file is and how long it runs."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.intervals import Change
from ..core.plan import ApproximationPlan
from ..core.progress import Progress
from ..runtime.latency import BENCH_SECONDS, random_runner, time_interleaved, timed_shapes
from ..runtime.session import DEFAULT_PROVIDER, Provider, create_session
from ..toolchain.run_folder import RoundRecord, RunFolder
from .baseline import export_baseline
from .export import rewritten
from .finished_run import FinishedRun
from .onnx_file import save_onnx
from .passes import LAYOUT, Subject, run_passes

__all__ = ["State", "states_of"]


@dataclass(frozen=True)
class State:
    """One round, as it would be exported."""

    step: int
    record: RoundRecord
    plan: ApproximationPlan
    bytes: int
    """Of the ONNX file."""
    milliseconds: float
    """Median of a run of one batch."""
    ratio: float
    """Latency of the baseline over this one's, in the same interleaved run: above 1 it is faster."""

    def figures(self) -> dict[str, object]:
        """As JSON."""
        return {
            "step": self.step,
            **self.record.model_dump(mode="json"),
            "changes": self.plan.changes(),
            "bytes": self.bytes,
            "milliseconds": self.milliseconds,
            "ratio": self.ratio,
        }

    @property
    def change(self) -> Change:
        return self.record.change


def states_of(
    run_path: Path,
    batch: int,
    sequence: int,
    *,
    provider: Provider = DEFAULT_PROVIDER,
    threads: int | None = None,
    seconds: float = 2 * BENCH_SECONDS,
    progress: Progress | None = None,
) -> list[State]:
    """Export every round of a finished run to a temporary place and time all of them in turn, in one run.

    Raises:
        AxformError: an unfinished or damaged run, or options that the model or the machine cannot take.
    """
    progress = progress or Progress()
    run = RunFolder(run_path)
    state = FinishedRun(run, 0)
    timed_shapes(state.plan.model.shape, state.student.max_length(None), [batch], [sequence])
    steps = range(state.record.rounds + 1)
    with tempfile.TemporaryDirectory() as folder:
        files, plans = [], []
        progress.stage("exporting every round")
        for step in steps:
            progress.step(step, len(steps), f"round {step}")
            state.choose(step)
            plans.append(state.plan)
            files.append(Path(folder) / f"{step}.onnx")
            family = state.student.family
            graph, _ = rewritten(export_baseline(state.student), state.plan, family)
            run_passes(graph, LAYOUT, Subject(state.plan, family))
            save_onnx(graph.to_proto(), files[-1])
        sizes = [sum(path.stat().st_size for path in Path(folder).glob(f"{file.name}*")) for file in files]
        progress.stage("timing all rounds in turn")
        times = _times(files, state.report.features["input_ids"], batch, sequence, provider, threads, seconds)
    return [
        State(step, run.round(step).read_record(), plan, size, time, times[0] / time)
        for step, plan, size, time in zip(steps, plans, sizes, times, strict=True)
    ]


def _times(
    files: Sequence[Path],
    tokens: Sequence[np.ndarray],
    batch: int,
    sequence: int,
    provider: Provider,
    threads: int | None,
    seconds: float,
) -> list[float]:
    vocabulary = np.concatenate(list(tokens))
    sessions = [create_session(file, provider, threads, spinning=False) for file in files]
    runners = [random_runner(session, batch, sequence, vocabulary) for session in sessions]
    return [float(np.median(times)) for times in time_interleaved(runners, seconds=seconds)]
