"""What each pass of the exporter brings to latency: each alone, and all together, in one interleaved run.

The model is a bundle's baseline.onnx with the bundle's plan applied anew, or a MiniLM of random classifier from which
every second layer is removed. For float32 and int8, the table gives the latency over that of the unoptimized float32
graph, of ONNX Runtime's own int8 of that graph, of the plan alone, and of the plan with each pass and with all of them.

    python samples/benchmarks/layout_passes.py --shapes 1x32 1x128 8x128
    python samples/benchmarks/layout_passes.py bundles/sst2
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

import numpy as np
import onnx
from axform.console import out, run_app, showing_progress, table
from axform.core.families import FAMILIES, Family
from axform.core.plan import ApproximationPlan, Remove
from axform.core.progress import Progress
from axform.errors import AxformError
from axform.exporters.baseline import export_baseline
from axform.exporters.export import rewritten
from axform.exporters.onnx_file import save_onnx
from axform.exporters.passes import LAYOUT, Subject, run_passes
from axform.files import write_json
from axform.runtime.bundle import Bundle
from axform.runtime.latency import ANY_TOKENS, machine_name, random_runner, time_interleaved
from axform.runtime.limits import check_threads
from axform.runtime.session import create_session, import_onnxruntime

SHAPES, SECONDS = ("1x32", "1x128", "8x128"), 60.0
BASELINE = "float32, unoptimized"
Shape = tuple[int, int]
"""Batch and sequence."""


def minilm() -> tuple[onnx.ModelProto, ApproximationPlan]:
    """The graph of a MiniLM with an untrained head, and a plan that removes half of its blocks."""
    from axform.core.tasks import task_named
    from axform.toolchain.models import load_for_task

    loaded = load_for_task("minilm", task_named("glue/sst2"), 2)
    gone = [f"layer.{index}.{block}" for index in (1, 3, 5) for block in ("attn", "ffn")]
    plan = ApproximationPlan(
        model=loaded.identity(), group_size=128, parts=tuple(Remove.model_validate({"target": name}) for name in gone)
    )
    return export_baseline(loaded), plan


def of_bundle(path: Path) -> tuple[onnx.ModelProto, ApproximationPlan]:
    bundle = Bundle(path)
    bundle.verify()
    return onnx.load(str(bundle.baseline)), bundle.manifest.plan


def passes_beside_each_other(precision: str) -> dict[str, tuple[str, ...]]:
    """What to time, by how the table calls it. The first token is reached as far as attention is 3-D."""
    last = () if precision == "float32" else (precision,)
    return {
        "plan": last,
        "plan, key_mask": ("key_mask", *last),
        "plan, attention_3d": ("attention_3d", *last),
        "plan, attention_3d, first_token": ("attention_3d", "first_token", *last),
        "plan, all": (*LAYOUT, *last),
    }


def write_models(
    baseline: onnx.ModelProto, plan: ApproximationPlan, family: Family, precisions: list[str], folder: Path
) -> dict[str, Path]:
    files = {BASELINE: folder / "baseline.onnx"}
    save_onnx(baseline, files[BASELINE])
    files["ONNX Runtime's int8"] = quantized_by_onnxruntime(files[BASELINE], folder)
    whole = plan.model_copy(update={"parts": ()})
    for precision in precisions:
        last = () if precision == "float32" else (precision,)
        recipes = {"unpruned, all": (whole, (*LAYOUT, *last))}
        recipes |= {name: (plan, names) for name, names in passes_beside_each_other(precision).items()}
        for name, (applied, names) in recipes.items():
            graph, _ = rewritten(baseline, applied, family)
            run_passes(graph, names, Subject(applied, family))
            files[f"{precision}, {name}"] = folder / f"{len(files)}.onnx"
            save_onnx(graph.to_proto(), files[f"{precision}, {name}"])
    return files


def quantized_by_onnxruntime(model: Path, folder: Path) -> Path:
    """`quantize_dynamic` at its fastest: signed weights, and every operator that has integer kernels."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    result = folder / "onnxruntime_int8.onnx"
    operators = ["MatMul", "Gemm", "Gather"]
    quantize_dynamic(model, result, op_types_to_quantize=operators, weight_type=QuantType.QInt8)
    return result


def timed(
    files: dict[str, Path], shapes: list[Shape], threads: int, seconds: float, repeats: int, progress: Progress
) -> dict[Shape, dict[str, np.ndarray]]:
    """Median milliseconds of each model in each repeat, (repeats,), with sessions opened anew and in another order.

    Where a session's memory happens to lie makes it faster or slower for its whole life, by more than some passes do.
    """
    medians: dict[Shape, dict[str, list[float]]] = {shape: {name: [] for name in files} for shape in shapes}
    for repeat in range(repeats):
        progress.step(repeat, repeats, "sessions opened anew")
        names = list(files)
        random.Random(repeat).shuffle(names)
        sessions = [create_session(files[name], "cpu", threads, spinning=False) for name in names]
        for shape in shapes:
            runners = [random_runner(session, *shape, ANY_TOKENS) for session in sessions]
            for name, own in zip(names, time_interleaved(runners, seconds=seconds / repeats), strict=True):
                medians[shape][name].append(float(np.median(own)))
    return {shape: {name: np.array(own) for name, own in of.items()} for shape, of in medians.items()}


def shape_named(text: str) -> Shape:
    """Batch and sequence of ``8x128``."""
    batch, times, sequence = text.partition("x")
    if not (times and batch.isdecimal() and sequence.isdecimal()):
        raise AxformError(f"--shapes {text}: give batch and sequence length, such as 8x128.")
    return int(batch), int(sequence)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", help="bundle folder made by axform-export (default a MiniLM)")
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help=f"batch x sequence (default {' '.join(SHAPES)})")
    parser.add_argument("--precisions", nargs="+", default=["float32", "int8"], help="default float32 int8")
    parser.add_argument("--threads", type=int, default=1, help="threads inside one operator (default 1)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"measuring time a shape (default {SECONDS:g})")
    parser.add_argument("--repeats", type=int, default=5, help="with sessions opened anew (default 5)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    check_threads(arguments.threads)
    shapes = [shape_named(text) for text in arguments.shapes]
    baseline, plan = minilm() if arguments.bundle is None else of_bundle(arguments.bundle)
    cells: dict[str, list[str]] = {}
    figures: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder, showing_progress() as progress:
        progress.stage("writing the models")
        files = write_models(baseline, plan, FAMILIES[plan.model.family], arguments.precisions, Path(folder))
        progress.stage("timing")
        medians = timed(files, shapes, arguments.threads, arguments.seconds, arguments.repeats, progress)
    for (batch, sequence), of_shape in medians.items():
        for name, own in of_shape.items():
            ratios = of_shape[BASELINE] / own
            low, ratio, high = np.min(ratios), np.median(ratios), np.max(ratios)
            cells.setdefault(name, []).append(f"{np.median(own):.2f} ms, {ratio:.2f}x ({low:.2f}-{high:.2f})")
            what = {"model": name, "batch": batch, "sequence": sequence}
            figures.append({**what, "ms": own.tolist(), "ratios": ratios.tolist()})
    gone = ", ".join(str(part.target) for part in plan.parts)
    caption = (
        f"without {gone or 'nothing'}; {arguments.threads} threads, {machine_name()}; onnxruntime "
        f"{import_onnxruntime().__version__}; interleaved runs, median (smallest to largest) of {arguments.repeats} times"
    )
    title = f"Latency, and how much faster than {BASELINE}"
    out.print(table(title, ("model", *arguments.shapes), [(name, *row) for name, row in cells.items()]))
    out.print(caption)
    if arguments.json is not None:
        write_json(arguments.json, {"measured": caption, "timings": figures})


if __name__ == "__main__":
    run_app(main)
