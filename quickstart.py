"""``axform quickstart``: the whole chain on what the install brings.

The packaged MiniLM learns to tell which installed library a sentence of documentation comes from. The sentences are
the docstrings of those libraries, read from their sources, with the libraries' own names masked.
"""

from __future__ import annotations

import ast
import importlib.util
import random
import re
from collections.abc import Iterator
from pathlib import Path

from .console import note, out, showing_progress, table
from .core.intervals import CONFIDENCE
from .core.plan import ApproximationPlan, Focus
from .errors import AxformError
from .exporters.cli import show_export
from .exporters.export import export
from .files import real_path, write_folder
from .report.page import write_report
from .runtime.bundle import Bundle
from .runtime.latency import BENCH_BATCHES, BENCH_SECONDS, BENCH_SEQUENCES, LatencyReport, bench_bundle
from .runtime.parity import ParityReport, check_bundle
from .summaries import bench_tables, check_tables, optimize_tables
from .toolchain.optimize import optimize
from .toolchain.options import OptimizeOptions
from .toolchain.run_folder import RunFolder, RunRecord

__all__ = ["docstring_sentences", "run_quickstart"]

_LIBRARIES = {
    "torch": ("pytorch", "torchscript", "torch"),
    "sklearn": ("scikit-learn", "sklearn", "scikit"),
    "scipy": ("scipy",),
    "pandas": ("pandas", "dataframes", "dataframe"),
}
"""Import name -> the names that are masked in its sentences."""
_SENTENCES = 1500
"""Sentences per library."""
_VALIDATION_SHARE = 0.2
_MASK = "library"
_PLAIN_SENTENCE = re.compile(r"[A-Z](?!.*(----|>>>|::|\.\.\.)).{39,239}\.")


def run_quickstart(folder: Path, focus: Focus) -> None:
    """Make the data, optimize, export, check, bench and report under ``folder``; what is there already is kept.

    Raises:
        AxformError: the quickstart extra is not installed, or the folder cannot be used.
    """
    if real_path(folder) == Path.cwd():
        raise AxformError(f"--out {str(folder)!r}: is the current folder; name a folder of its own.")
    data, run, bundle_path = folder / "data", folder / f"run-{focus}", folder / f"bundle-{focus}"
    with showing_progress() as progress:
        if not data.is_dir():
            progress.stage("collecting sentences from the installed libraries' documentation")
            _write_data(data)
        record = optimize(_options(data, focus), run, resume=True, progress=progress)
    plan = RunFolder(run).read_plan()
    for shown in optimize_tables(record, plan):
        out.print(shown)
    bundle = _bundle(run, plan, bundle_path)
    checked, timed = _prove(bundle)
    _final_table(record, bundle, checked, timed)
    _report(bundle, folder / f"report-{focus}.html", run)


def _options(data: Path, focus: Focus) -> OptimizeOptions:
    return OptimizeOptions(
        model="minilm",
        task="text-classification",
        focus=focus,
        data=str(data),
        max_length=48,
        max_drop=0.02,
        learning_rate=1e-4,
        baseline_epochs=2,
        final_epochs=7,
        recover=0.1,
        rounds=1,
    )


def _bundle(run: Path, plan: ApproximationPlan, path: Path) -> Bundle:
    """The bundle that is there, unless it is of a run that was here before: the plan names the weights."""
    if path.is_dir():
        there = Bundle(path)
        if there.manifest.plan == plan:
            return there
    with showing_progress() as progress:
        bundle, reports = export(run, path, overwrite=True, progress=progress)
    show_export(bundle, reports)
    return bundle


def _prove(bundle: Bundle) -> tuple[ParityReport, LatencyReport]:
    with showing_progress() as progress:
        progress.stage("checking")
        checked = check_bundle(bundle, on_batch=progress.step)
        progress.stage("timing")
        timed = bench_bundle(bundle, BENCH_BATCHES, BENCH_SEQUENCES, seconds=BENCH_SECONDS / 2, on_run=progress.step)
    for shown in (*check_tables(checked), *bench_tables(timed)):
        out.print(shown)
    return checked, timed


def _report(bundle: Bundle, file: Path, run: Path) -> None:
    """All of it on one page; without the libraries that this needs the quickstart has said enough."""
    try:
        write_report(bundle, file, run)
    except AxformError as error:
        note(f"no report: {error}")
    else:
        out.print(f"all of it with pictures, to be opened in a browser: {file}", soft_wrap=True)


def _final_table(record: RunRecord, bundle: Bundle, checked: ParityReport, timed: LatencyReport) -> None:
    before, after = bundle.manifest.baseline_size, bundle.manifest.model_size
    rows = [
        (
            f"{record.metric}, {checked.task.samples} unseen sentences",
            f"{checked.task.baseline:.4f}",
            f"{checked.task.model:.4f}",
            f"{checked.task.model - checked.task.baseline:+.4f}",
        ),
        (
            "parameters",
            f"{before.parameters:,}",
            f"{after.parameters:,}",
            f"{before.parameters / after.parameters:.2f}x fewer",
        ),
        (
            "file",
            f"{before.bytes / 1e6:.1f} MB",
            f"{after.bytes / 1e6:.1f} MB",
            f"{before.bytes / after.bytes:.2f}x smaller",
        ),
    ]
    for shape in timed.shapes:
        rows.append(
            (
                f"latency, batch {shape.batch}, {shape.sequence} tokens",
                f"{shape.baseline.median:.2f} ms",
                f"{shape.model.median:.2f} ms",
                f"{shape.ratio:.2f}x faster",
            )
        )
    result = table(
        f"axform quickstart, {record.options.focus} focus", ("", "baseline.onnx", "model.onnx", "change"), rows
    )
    result.caption = (
        f"{CONFIDENCE:.0%} interval of the change in {record.metric}: {checked.task.low:+.4f} to {checked.task.high:+.4f}; "
        f"numbers agree with PyTorch to {checked.numeric.max_abs_error:.1e}; the bundle is {bundle.path}"
    )
    result.caption_justify = "left"
    out.print(result)


def _write_data(folder: Path) -> None:
    import pandas as pd

    rows = [(text, name) for name in _LIBRARIES for text in docstring_sentences(name)]
    random.Random(0).shuffle(rows)
    held_back = round(len(rows) * _VALIDATION_SHARE)
    with write_folder(folder) as staging:
        for split, part in (("validation", rows[:held_back]), ("train", rows[held_back:])):
            pd.DataFrame(part, columns=["text", "label"]).to_parquet(staging / f"{split}.parquet")


def docstring_sentences(library: str) -> list[str]:
    """Sentences of 40 to 240 characters from the docstrings of an installed library, its names masked, in random order.

    Raises:
        AxformError: the library is not installed or has no readable sources.
    """
    spec = importlib.util.find_spec(library)
    if spec is None or not spec.submodule_search_locations:
        raise AxformError(f"quickstart needs the sources of {library}; install axform with its dependencies.")
    names = re.compile("|".join(re.escape(name) for name in _LIBRARIES[library]), re.IGNORECASE)
    files = sorted(path for path in Path(spec.submodule_search_locations[0]).rglob("*.py") if "tests" not in path.parts)
    shuffle = random.Random(0).shuffle
    shuffle(files)
    found: dict[str, None] = {}
    for path in files:
        for sentence in _sentences_of(path):
            found[names.sub(_MASK, sentence)] = None
        if len(found) >= 2 * _SENTENCES:
            break
    sentences = list(found)
    shuffle(sentences)
    return sentences[:_SENTENCES]


def _sentences_of(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, SyntaxError):
        return  # templates and files for other Python versions
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = " ".join((ast.get_docstring(node) or "").split())
            for sentence in re.split(r"(?<=[.!?]) ", text):
                if _PLAIN_SENTENCE.fullmatch(sentence):
                    yield sentence
