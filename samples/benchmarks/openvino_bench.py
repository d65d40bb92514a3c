"""The files of bundles in OpenVINO and in ONNX Runtime: baseline.onnx against model.onnx, in one interleaved run.

OpenVINO runs them in f32 and in bf16 (its inference precision hint; where the processor has no bf16, the table says what
really ran), ONNX Runtime in f32. For every shape the table gives the median of each, how much faster model.onnx is than
baseline.onnx in the same engine, and how much faster the engine is than ONNX Runtime on the same file, both with the
95 % interval of `axform bench`. A second table says how far OpenVINO's logits are from ONNX Runtime's on the bundle's
own samples, in padded batches, and how many answers change.

    python samples/benchmarks/openvino_bench.py bundles/sst2 --shapes 1x32 1x128 8x128
    python samples/benchmarks/openvino_bench.py bundles/sst2 --static      compiled for each shape

Models are compiled once, for any shape, as ONNX Runtime does, unless --static asks for one compilation a shape. The
numbers are compared in the former.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from axform.console import out, run_app, showing_progress, table
from axform.core.progress import Progress
from axform.errors import AxformError
from axform.files import write_json, writing
from axform.runtime.bundle import Bundle
from axform.runtime.check_data import CheckData
from axform.runtime.latency import (
    BENCH_SECONDS,
    machine_name,
    random_runner,
    ratio_interval,
    time_interleaved,
    timed_shapes,
)
from axform.runtime.limits import check_threads
from axform.runtime.parity import run_split
from axform.runtime.session import create_session, import_onnxruntime
from rich.table import Table

ONNXRUNTIME, PRECISIONS = "ONNX Runtime f32", ("f32", "bf16")
BASELINE, SHAPES, SECONDS = "baseline.onnx", ("1x32", "1x128", "8x128"), 3 * BENCH_SECONDS
BATCH = 32
"""Of the samples whose logits are compared."""


@dataclass(frozen=True)
class Ratio:
    """Of two medians: above 1 the second is faster. With the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, before: np.ndarray, after: np.ndarray) -> Ratio:
        return cls(float(np.median(before) / np.median(after)), *ratio_interval(before, after))

    def __str__(self) -> str:
        return f"{self.value:.2f}x ({self.low:.2f}-{self.high:.2f})"


@dataclass(frozen=True)
class Timed:
    """One file in one engine at one shape."""

    batch: int
    sequence: int
    file: str
    engine: str
    milliseconds: float
    """Median of a run."""
    to_baseline: Ratio | None
    """How much faster it is than baseline.onnx in the same engine; None of that file itself."""
    to_onnxruntime: Ratio | None
    """And than the same file in ONNX Runtime."""
    runs: int


@dataclass(frozen=True)
class Difference:
    """Of OpenVINO's logits from ONNX Runtime's."""

    file: str
    engine: str
    largest: float
    changed: int
    """Answers that are others; 0 for a regression."""
    rows: int


def import_openvino() -> Any:
    try:
        import openvino
    except ImportError:
        raise AxformError("openvino is not installed; run `pip install openvino`.") from None
    return openvino


class OpenVinoSession:
    """An ONNX file compiled by OpenVINO for the CPU, with the methods of an ONNX Runtime session.

    Args:
        precision: f32 or bf16, what OpenVINO is asked to compute in.
        shape: (batch, sequence) to compile for; None = any.
    """

    def __init__(self, file: Path, precision: str, threads: int, shape: tuple[int, int] | None) -> None:
        openvino = import_openvino()
        config = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # nor does ONNX Runtime bind itself to a core that another process may use
        }
        core = openvino.Core()
        try:
            model = core.read_model(file)
            if shape is not None:
                model.reshape({port.any_name: list(shape) for port in model.inputs})
            compiled = core.compile_model(model, "CPU", config)
        except (
            Exception
        ) as error:  # openvino raises RuntimeError and kinds of its own, as the front end happens to fail
            reason = " ".join(str(error).split())[-300:]
            raise AxformError(
                f"{file}: OpenVINO cannot compile it ({reason}); try another version of openvino."
            ) from error
        self._inputs = [_Port.of(port) for port in model.inputs]
        self._outputs = [_Port.of(port) for port in model.outputs]
        self._request = compiled.create_infer_request()
        self.precision: str = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()

    def get_providers(self) -> list[str]:
        return ["OpenVINOExecutionProvider"]

    def get_inputs(self) -> list[_Port]:
        return self._inputs

    def get_outputs(self) -> list[_Port]:
        return self._outputs

    def run(self, names: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        results = self._request.infer(feeds)
        return [results[name] for name in names]


@dataclass(frozen=True)
class _Port:
    """An input or output, as ONNX Runtime tells it."""

    name: str
    type: str
    shape: tuple[int | None, ...]
    """None = any size."""

    @classmethod
    def of(cls, port: Any) -> _Port:
        kind = np.dtype(port.element_type.to_dtype()).name
        sizes = (None if size.is_dynamic else size.get_length() for size in port.partial_shape)
        return cls(port.any_name, f"tensor({'float' if kind == 'float32' else kind})", tuple(sizes))


def open_engines(file: Path, threads: int, shape: tuple[int, int] | None) -> dict[str, Any]:
    """One session an engine, by the name of the engine and of the precision that it computes in."""
    engines: dict[str, Any] = {ONNXRUNTIME: create_session(file, "cpu", threads, spinning=False)}
    for precision in PRECISIONS:
        session = OpenVinoSession(file, precision, threads, shape)
        asked = "" if session.precision == precision else f", asked for {precision}"
        engines[f"OpenVINO {session.precision}{asked}"] = session
    return engines


class Group:
    """Bundles that share their baseline.onnx, so that one interleaved run takes all their files."""

    def __init__(self, bundles: Sequence[Bundle]) -> None:
        self.bundles = bundles
        self.split = CheckData.load(bundles[0].check_data).split
        self.files = {BASELINE: bundles[0].baseline}
        self.files |= {str(bundle.path / "model.onnx"): bundle.model for bundle in bundles}

    def timed(self, batch: int, sequence: int, threads: int, seconds: float, is_static: bool) -> list[Timed]:
        """Every file in every engine, taking turns, on random tokens of the task."""
        shape = (batch, sequence) if is_static else None
        sessions = {
            (file, engine): session
            for file, path in self.files.items()
            for engine, session in open_engines(path, threads, shape).items()
        }
        tokens = np.concatenate(list(self.split.features["input_ids"]))
        runners = [random_runner(session, batch, sequence, tokens) for session in sessions.values()]
        times = dict(zip(sessions, time_interleaved(runners, seconds=seconds), strict=True))
        return [
            Timed(
                batch=batch,
                sequence=sequence,
                file=file,
                engine=engine,
                milliseconds=float(np.median(own)),
                to_baseline=None if file == BASELINE else Ratio.of(times[BASELINE, engine], own),
                to_onnxruntime=None if engine == ONNXRUNTIME else Ratio.of(times[file, ONNXRUNTIME], own),
                runs=len(own),
            )
            for (file, engine), own in times.items()
        ]

    def differences(self, threads: int, progress: Progress) -> list[Difference]:
        """OpenVINO's logits beside ONNX Runtime's, on the first bundle's samples."""
        result = []
        for number, (file, path) in enumerate(self.files.items()):
            progress.step(number, len(self.files), file)
            logits = {
                engine: run_split(session, self.split, BATCH, lambda _: None)
                for engine, session in open_engines(path, threads, None).items()
            }
            expected = logits.pop(ONNXRUNTIME)
            for engine, found in logits.items():
                changed = int((found.argmax(-1) != expected.argmax(-1)).sum())
                result.append(Difference(file, engine, float(np.abs(found - expected).max()), changed, len(expected)))
        return result


def grouped(bundles: Sequence[Bundle]) -> list[Group]:
    by_baseline: dict[str, list[Bundle]] = {}
    for bundle in bundles:
        by_baseline.setdefault(bundle.manifest.files[BASELINE].sha256, []).append(bundle)
    return [Group(same) for same in by_baseline.values()]


def shape_named(text: str) -> tuple[int, int]:
    """Batch and sequence of ``8x128``."""
    batch, times, sequence = text.partition("x")
    if not (times and batch.isdecimal() and sequence.isdecimal()):
        raise AxformError(f"--shapes {text}: give batch and sequence length, such as 8x128.")
    return int(batch), int(sequence)


def latency_table(timings: Sequence[Timed], batch: int, sequence: int) -> Table:
    return table(
        f"Latency, batch {batch}, sequence {sequence}; how much faster, with its 95 % interval",
        ("file", "engine", "ms", "to baseline.onnx", "to ONNX Runtime", "runs"),
        [
            (
                timed.file,
                timed.engine,
                f"{timed.milliseconds:.2f}",
                str(timed.to_baseline or ""),
                str(timed.to_onnxruntime or ""),
                str(timed.runs),
            )
            for timed in timings
            if (timed.batch, timed.sequence) == (batch, sequence)
        ],
    )


def difference_table(differences: Sequence[Difference]) -> Table:
    return table(
        f"Logits beside ONNX Runtime's on the bundle's own samples, in padded batches of {BATCH}",
        ("file", "engine", "largest difference", "other answers", "samples"),
        [(one.file, one.engine, f"{one.largest:.1e}", str(one.changed), str(one.rows)) for one in differences],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+", help="bundle folders made by axform-export")
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help=f"batch x sequence (default {' '.join(SHAPES)})")
    parser.add_argument("--threads", type=int, default=1, help="threads of each engine (default 1)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"measuring time a shape (default {SECONDS:g})")
    parser.add_argument("--static", action="store_true", help="let OpenVINO compile for each shape")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    openvino = import_openvino()
    check_threads(arguments.threads)
    shapes = [shape_named(text) for text in arguments.shapes]
    bundles = [Bundle(path) for path in arguments.bundles]
    for bundle in bundles:
        bundle.verify()
        for batch, sequence in shapes:
            timed_shapes(bundle.manifest.plan.model.shape, bundle.manifest.max_length, [batch], [sequence])
    if arguments.json is not None:
        with writing(arguments.json), tempfile.TemporaryFile(dir=arguments.json.parent):
            pass  # what cannot be written is said before the work, not after it

    timings: list[Timed] = []
    differences: list[Difference] = []
    with showing_progress() as progress:
        for group in grouped(bundles):
            progress.stage("timing")
            for number, (batch, sequence) in enumerate(shapes):
                progress.step(number, len(shapes), f"batch {batch}, sequence {sequence}")
                timings += group.timed(batch, sequence, arguments.threads, arguments.seconds, arguments.static)
            progress.stage("comparing logits")
            differences += group.differences(arguments.threads, progress)

    threads = f"{arguments.threads} thread{'s' * (arguments.threads > 1)}"
    compiled = "for each shape" if arguments.static else "once for any shape"
    caption = (
        f"{threads}, {machine_name()}; OpenVINO {openvino.__version__.partition('-')[0]}, compiled {compiled}; "
        f"onnxruntime {import_onnxruntime().__version__}; interleaved runs, medians"
    )
    for batch, sequence in shapes:
        out.print(latency_table(timings, batch, sequence))
    out.print(difference_table(differences))
    out.print(caption)
    if arguments.json is not None:
        figures = {"timings": [asdict(one) for one in timings], "differences": [asdict(one) for one in differences]}
        write_json(arguments.json, {"measured": caption, **figures})


if __name__ == "__main__":
    run_app(main)
