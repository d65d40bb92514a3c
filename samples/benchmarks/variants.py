"""What layout, int8, structure and bits bring, alone and together: the files of every task in one interleaved run.

    python samples/benchmarks/glue.py --data DATA --out glue
    python samples/benchmarks/variants.py glue

For each task that glue.py made with the speed and the size focus, on one thread:
  unoptimized                baseline.onnx
  int8 alone                 ONNX Runtime's own quantize_dynamic of it
  layout alone               the baseline as axform exports it
  int8 and layout            the same with --precision int8
  speed                      what the speed focus left
  speed, int8, layout        the same with --precision int8
  size                       what the size focus made of it: weights in few bits, decoded once
  size, int8                 the same with --precision int8, whose products multiply the codes
Each with the metric on the reported split and its paired interval to the unoptimized file, whether `axform check` passes,
latency ratios, bytes, and the time and memory that a fresh process needs to load and run it once.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean, mean, median

import numpy as np
import onnx
from axform.console import note, run_app
from axform.core.intervals import Change, paired_change
from axform.errors import AxformError
from axform.exporters.export import export
from axform.files import write_folder, write_json, write_text
from axform.outputs import holds_files
from axform.runtime.bundle import Bundle
from axform.runtime.check_data import CheckData
from axform.runtime.footprint import Footprint, footprint
from axform.runtime.latency import BENCH_SECONDS, machine_name, random_runner, ratio_interval, time_interleaved
from axform.runtime.parity import ParityReport, check_bundle, run_split
from axform.runtime.session import create_session

SHAPES = ((1, 32), (1, 128), (8, 128))
BATCH = 32
UNOPTIMIZED, INT8_ALONE = "unoptimized", "int8 alone"
BUNDLES = {
    "layout alone": ("speed", 0, "float32"),
    "int8 and layout": ("speed", 0, "int8"),
    "speed": ("speed", None, "float32"),
    "speed, int8, layout": ("speed", None, "int8"),
    "size": ("size", None, "float32"),
    "size, int8": ("size", None, "int8"),
}
"""Name of a row -> (focus of the run, round that is exported, precision)."""


@dataclass(frozen=True)
class Row:
    """One file of one task."""

    task: str
    variant: str
    change: Change | None
    """To the unoptimized file; None for that itself."""
    metric: float
    passed: bool | None
    """Of `axform check`; None for what is no bundle."""
    ratios: dict[str, tuple[float, float, float]]
    """Shape -> latency of the unoptimized file over this one's, with its 95 % interval."""
    bytes: int
    load_seconds: float
    load_megabytes: float


def bundle_of(folder: Path, task: str, variant: str) -> Bundle:
    """Exported and checked, unless it is there; a run as it is was exported by glue.py."""
    focus, step, precision = BUNDLES[variant]
    path = folder / "variants" / f"{task}-{variant.replace(', ', '-').replace(' ', '-')}"
    if (step, precision) == (None, "float32"):
        path = folder / "bundles" / f"{task}-{focus}"
    if not holds_files(path):
        path.parent.mkdir(exist_ok=True)
        export(folder / "runs" / f"{task}-{focus}", path, step=step, precision=precision)
    bundle = Bundle(path)
    if "check" not in bundle.manifest.results:
        check_bundle(bundle)
    return Bundle(path)


def change_of(bundle: Bundle) -> Change:
    """Of the metric on the reported split, as the last check found it."""
    task = ParityReport.model_validate(bundle.manifest.results["check"]).task
    if task is None:
        raise AxformError(f"{bundle.path}: its check has no metric; `axform check` measures it again.")
    return Change(task.baseline, task.model, task.low, task.high, task.samples)


def int8_alone(folder: Path, task: str, bundle: Bundle) -> tuple[Path, Change]:
    """ONNX Runtime's dynamic quantization of the baseline, as its documentation calls it, of what it can quantize there."""
    from onnxruntime.quantization import quantize_dynamic

    path = folder / "variants" / f"{task}-int8-alone"
    if not holds_files(path):
        proto = onnx.load(bundle.baseline)
        del proto.graph.value_info[:]
        with write_folder(path) as staging:
            onnx.save(proto, staging / "plain.onnx")
            quantize_dynamic(
                staging / "plain.onnx", staging / "model.onnx", op_types_to_quantize=["MatMul", "Gemm", "Gather"]
            )
            (staging / "plain.onnx").unlink()
            split = CheckData.load(bundle.check_data).split
            before, after = (
                run_split(create_session(file, "cpu", 1, spinning=False), split, BATCH, lambda rows: None)
                for file in (bundle.baseline, staging / "model.onnx")
            )
            change = paired_change(bundle.manifest.metric, before, after, split.labels, split.groups)
            write_json(staging / "change.json", vars(change))
    return path / "model.onnx", Change(**json.loads((path / "change.json").read_text()))


def loading(file: Path) -> Footprint:
    """On one thread, the median of three fresh processes."""
    found = [one for one in (footprint(file) for _ in range(3)) if one is not None]
    if not found:
        raise AxformError(f"{file}: its memory cannot be measured on this system; take Linux.")
    return Footprint(median(one.seconds for one in found), median(one.megabytes for one in found))


def files_of(folder: Path, task: str) -> tuple[dict[str, Path], dict[str, Change], dict[str, Bundle]]:
    """By the names of rows: all files, how each but the first changes the metric, and which are of bundles."""
    bundles = {variant: bundle_of(folder, task, variant) for variant in BUNDLES}
    first = bundles["speed"]
    quantized, change = int8_alone(folder, task, first)
    files = {UNOPTIMIZED: first.baseline, INT8_ALONE: quantized}
    files |= {variant: bundle.model for variant, bundle in bundles.items()}
    return files, {INT8_ALONE: change} | {variant: change_of(one) for variant, one in bundles.items()}, bundles


def rows_of(folder: Path, task: str, seconds: float) -> list[Row]:
    files, changes, bundles = files_of(folder, task)
    data = CheckData.load(bundles["speed"].check_data)
    sessions = [create_session(file, "cpu", 1, spinning=False) for file in files.values()]
    times = {shape: timed(sessions, shape, data, seconds) for shape in SHAPES}
    rows = []
    for number, (variant, file) in enumerate(files.items()):
        ratios = {}
        for (batch, sequence), measured in times.items():
            before, after = measured[0], measured[number]
            value = float(np.median(before) / np.median(after))
            ratios[f"({batch}, {sequence})"] = (value, *ratio_interval(before, after))
        loaded = loading(file)
        change = changes.get(variant)
        rows.append(
            Row(
                task,
                variant,
                change,
                changes[INT8_ALONE].before if change is None else change.after,
                bundles[variant].manifest.results["check"]["passed"] if variant in bundles else None,
                ratios,
                file.stat().st_size,
                loaded.seconds,
                loaded.megabytes,
            )
        )
    return rows


def timed(sessions: Sequence[object], shape: tuple[int, int], data: CheckData, seconds: float) -> list[np.ndarray]:
    tokens = np.concatenate(list(data.split.features["input_ids"]))
    return time_interleaved([random_runner(session, *shape, tokens) for session in sessions], seconds=seconds)


def markdown(rows: Sequence[Row]) -> str:
    shapes = [f"({batch}, {sequence})" for batch, sequence in SHAPES]
    columns = ("task", "file", "metric, %", "check", *shapes, "MB", "smaller", "loads in", "resident")
    whole = {row.task: row for row in rows if row.variant == UNOPTIMIZED}
    lines = []
    for row in rows:
        metric = f"{100 * row.metric:.2f}"
        if row.change is not None:
            metric += f" ({100 * row.change.low:+.2f} to {100 * row.change.high:+.2f})"
        lines.append(
            (
                row.task,
                row.variant,
                metric,
                "" if row.passed is None else "passes" if row.passed else "fails",
                *(f"{row.ratios[shape][0]:.2f}x" for shape in shapes),
                f"{row.bytes / 1e6:.1f}",
                f"{whole[row.task].bytes / row.bytes:.1f}x",
                f"{1000 * row.load_seconds:.0f} ms",
                f"{row.load_megabytes:.0f} MB",
            )
        )
    tasks = len(whole)
    for variant in dict.fromkeys(row.variant for row in rows):
        mine = [row for row in rows if row.variant == variant]
        change = mean(row.metric - whole[row.task].metric for row in mine)
        lines.append(
            (
                f"mean of {tasks}",
                variant,
                f"{100 * change:+.2f}",
                f"{sum(bool(row.passed) for row in mine)} pass" if mine[0].passed is not None else "",
                *(f"{geometric_mean(row.ratios[shape][0] for row in mine):.2f}x" for shape in shapes),
                f"{mean(row.bytes for row in mine) / 1e6:.1f}",
                f"{geometric_mean(whole[row.task].bytes / row.bytes for row in mine):.1f}x",
                f"{1000 * mean(row.load_seconds for row in mine):.0f} ms",
                f"{mean(row.load_megabytes for row in mine):.0f} MB",
            )
        )
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (columns, ["---"] * len(columns), *lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the --out folder of glue.py")
    parser.add_argument("--tasks", help="default: all that have a finished run of the size focus")
    parser.add_argument("--seconds", type=float, default=4 * BENCH_SECONDS, help="a shape (default: %(default)s)")
    parser.add_argument("--prepare", action="store_true", help="only export and check, which may run beside other work")
    arguments = parser.parse_args()
    finished = sorted(path.parent.name for path in (arguments.folder / "runs").glob("*-size/run.json"))
    tasks = arguments.tasks.split(",") if arguments.tasks else [name.removesuffix("-size") for name in finished]
    if not tasks:
        raise AxformError(f"{arguments.folder}: no finished run of the size focus; glue.py --focus size makes them.")
    rows: list[Row] = []
    for task in tasks:
        note(f"{task}: exporting, checking{'' if arguments.prepare else ' and timing'}")
        if arguments.prepare:
            files_of(arguments.folder, task)
            continue
        rows += rows_of(arguments.folder, task, arguments.seconds)
        write_json(arguments.folder / "variants.json", [vars(row) | {"change": _plain(row.change)} for row in rows])
    if arguments.prepare:
        return
    text = f"{machine_name()}, one thread\n\n{markdown(rows)}"
    write_text(arguments.folder / "variants.md", text)
    print(text, end="")


def _plain(change: Change | None) -> dict[str, float] | None:
    return None if change is None else {"before": change.before, "low": change.low, "high": change.high}


if __name__ == "__main__":
    run_app(main)
