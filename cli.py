"""The ``axform`` command."""

from __future__ import annotations

import shlex
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from . import __version__
from .console import note, out, run_app, showing_progress
from .core.plan import Focus, Selection
from .core.tasks import Task
from .errors import AxformError
from .exporters.cli import export_command
from .files import write_json, write_text, writing
from .runtime.latency import BENCH_BATCHES, BENCH_SECONDS, BENCH_SEQUENCES
from .runtime.session import DEFAULT_PROVIDER, Provider
from .summaries import bench_tables, check_tables, optimize_tables, pareto_table
from .toolchain.elements import LayerOrder
from .toolchain.options import (
    DEFAULTS,
    RECOVER,
    FineTuneOptions,
    GroupShape,
    OptimizeOptions,
    SignMatchingMode,
)

__all__ = ["main"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Finds the parts of a Transformer that a task does not need and emits a smaller, faster ONNX model, with proof.",
    epilog="A first look, on what the install brings: axform quickstart",
)
app.command("export")(export_command)

_SEARCH, _TRAINING, _DATA = "Search", "Fine-tuning", "Data"
_SHOWN_INPUT = 60
"""Characters of a bad value that an error repeats."""


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"axform {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """What every command shares."""


@app.command()
def optimize(
    model: Annotated[str, typer.Argument(help="Hub name, folder, or `minilm` (the model of the quickstart extra).")],
    task: Annotated[
        str, typer.Option(help="glue/sst2, glue/rte ..., or text-classification / text-regression with --data.")
    ],
    out_dir: Annotated[Path, typer.Option("--out", help="Run folder to write.")],
    focus: Annotated[Focus, typer.Option(help="What to gain: accuracy, speed or size.")] = DEFAULTS["focus"],
    max_drop: Annotated[
        float,
        typer.Option(help="Largest accepted drop of the task metric, as a share of the baseline's (0.005 = 0.5 %)."),
    ] = DEFAULTS["max_drop"],
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a run that was interrupted; ends in the same plan.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run folder if it exists.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = DEFAULTS["seed"],
    threads: Annotated[
        int | None,
        typer.Option(help="Threads inside one operator; default OMP_NUM_THREADS, else all cores. Kept by --resume."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Folder with train.* and validation.* (parquet, jsonl, json, csv, tsv); default: the hub.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    text_columns: Annotated[
        str | None, typer.Option(help="One text column, or two for a pair: a,b.", rich_help_panel=_DATA)
    ] = None,
    label_column: Annotated[str | None, typer.Option(help="Column of the labels.", rich_help_panel=_DATA)] = None,
    train_samples: Annotated[int | None, typer.Option(help="Rows of train to use.", rich_help_panel=_DATA)] = None,
    report_samples: Annotated[
        int | None, typer.Option(help="Rows of validation to report on.", rich_help_panel=_DATA)
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help=f"Tokens per sample; default {Task.max_length}.", rich_help_panel=_DATA)
    ] = None,
    recover: Annotated[
        float | None,
        typer.Option(
            help="Let the search cost this much more loss (0.25 = 25 %), counting on the final distillation to win it "
            "back. When it does not, the search is repeated with half of it, then with none. "
            f"Default {RECOVER} with the speed and size focus, else 0, which is the paper's search.",
            rich_help_panel=_SEARCH,
        ),
    ] = None,
    rounds: Annotated[
        int,
        typer.Option(
            help="Searches at most, each with its fine-tuning; a round starts from the last that kept --max-drop on rows "
            "that no trial saw. 1 with --recover 0 is the paper's loop.",
            rich_help_panel=_SEARCH,
        ),
    ] = DEFAULTS["rounds"],
    confidence: Annotated[
        float | None,
        typer.Option(
            help="Keep a round only when the lower end of its change's interval at this level keeps --max-drop, "
            "e.g. 0.9; default: when the estimate does.",
            rich_help_panel=_SEARCH,
        ),
    ] = DEFAULTS["confidence"],
    prune_threshold: Annotated[
        float, typer.Option(help="Relative loss below which an element is pruned.", rich_help_panel=_SEARCH)
    ] = DEFAULTS["prune_threshold"],
    approximate_threshold: Annotated[
        float, typer.Option(help="Relative loss below which an element is approximated.", rich_help_panel=_SEARCH)
    ] = DEFAULTS["approximate_threshold"],
    group_size: Annotated[
        int | None,
        typer.Option(help="Weights per group; default 256, less for small models.", rich_help_panel=_SEARCH),
    ] = None,
    layer_order: Annotated[
        LayerOrder,
        typer.Option(help="last-to-first, or first-to-last where the top layers matter more.", rich_help_panel=_SEARCH),
    ] = DEFAULTS["layer_order"],
    sign_matching: Annotated[
        SignMatchingMode,
        typer.Option(
            help="Sign-matching attention with the speed focus: on, off, or auto, which tries it from 128 tokens on: "
            "attention is only 3 % of the FLOPs at 128 tokens and 10 % at 512, so it pays for long inputs.",
            rich_help_panel=_SEARCH,
        ),
    ] = DEFAULTS["sign_matching"],
    selection: Annotated[
        Selection,
        typer.Option(help="How sign matching ranks keys: majority (the paper's) or count.", rich_help_panel=_SEARCH),
    ] = DEFAULTS["selection"],
    ffn_groups: Annotated[
        GroupShape,
        typer.Option(help="FFN groups to keep with the speed focus: any or contiguous.", rich_help_panel=_SEARCH),
    ] = DEFAULTS["ffn_groups"],
    attention_groups: Annotated[
        GroupShape,
        typer.Option(
            help="ATTN input groups to keep with the speed focus: contiguous (one Slice) or any (a Gather).",
            rich_help_panel=_SEARCH,
        ),
    ] = DEFAULTS["attention_groups"],
    baseline_epochs: Annotated[
        int | None,
        typer.Option(
            help=f"Epochs before the search; default {FineTuneOptions.epochs}, or 0 when the model brings a trained task head.",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    final_epochs: Annotated[
        int, typer.Option(help="Epochs with the plan applied.", rich_help_panel=_TRAINING)
    ] = DEFAULTS["final_epochs"],
    learning_rate: Annotated[
        float, typer.Option(help="Peak of the linear decay.", rich_help_panel=_TRAINING)
    ] = DEFAULTS["learning_rate"],
    batch_size: Annotated[int, typer.Option(help="Samples per batch.", rich_help_panel=_TRAINING)] = DEFAULTS[
        "batch_size"
    ],
    distill: Annotated[
        bool,
        typer.Option(
            "--distill/--no-distill",
            help="Use the unpruned model as teacher in the final fine-tuning, or not (the paper's plain form).",
            rich_help_panel=_TRAINING,
        ),
    ] = DEFAULTS["distill"],
) -> None:
    """Find what the task does not need: fine-tune, search element by element, fine-tune what is left.

    Example: axform optimize minilm --task glue/sst2 --data data --focus speed --out runs/sst2
    """
    options = _options(
        model=model,
        task=task,
        focus=focus,
        data=data,
        text_columns=() if text_columns is None else tuple(text_columns.split(",")),
        label_column=label_column,
        max_length=max_length,
        train_samples=train_samples,
        report_samples=report_samples,
        seed=seed,
        prune_threshold=prune_threshold,
        approximate_threshold=approximate_threshold,
        max_drop=max_drop,
        recover=recover,
        rounds=rounds,
        confidence=confidence,
        group_size=group_size,
        layer_order=layer_order,
        sign_matching=sign_matching,
        selection=selection,
        ffn_groups=ffn_groups,
        attention_groups=attention_groups,
        baseline_epochs=baseline_epochs,
        final_epochs=final_epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        distill=distill,
        threads=threads,
    )
    from .toolchain.optimize import optimize as run_optimize
    from .toolchain.run_folder import RunFolder

    try:
        with showing_progress() as progress:
            record = run_optimize(options, out_dir, resume=resume, overwrite=overwrite, progress=progress)
    except KeyboardInterrupt:
        _explain_resume()
        raise typer.Exit(130) from None
    for table in optimize_tables(record, RunFolder(out_dir).read_plan()):
        out.print(table)
    _explain_next(out_dir)


@app.command()
def pareto(
    run: Annotated[Path, typer.Argument(help="Run folder made by `axform optimize`.")],
    batch: Annotated[int, typer.Option(help="Batch size to time.")] = 1,
    seq: Annotated[int, typer.Option(help="Sequence length to time, in tokens.")] = BENCH_SEQUENCES[-1],
    threads: Annotated[int | None, typer.Option(help="Threads inside one operator; default all cores.")] = None,
    provider: Annotated[Provider, typer.Option(help="auto, cpu or cuda.")] = DEFAULT_PROVIDER,
    plot: Annotated[
        Path | None, typer.Option(help="Draw metric against latency and against bytes to this file (.svg, .png, .pdf).")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
) -> None:
    """Compare all rounds of a run: metric on unseen rows, parameters, bytes, and latency in one interleaved run.

    Any of them can be exported: axform-export RUN --step N --out BUNDLE
    """
    from .exporters.pareto import states_of
    from .plots import draw_states, import_matplotlib
    from .toolchain.run_folder import RunFolder

    for file, flag in ((plot, "--plot"), (json_file, "--json")):
        if file is not None:
            _check_writable(file, flag)
    if plot is not None:
        import_matplotlib()
    with showing_progress() as progress:
        states = states_of(run, batch, seq, provider=provider, threads=threads, progress=progress)
    metric = RunFolder(run).read_record().metric
    out.print(pareto_table(states, metric, batch, seq))
    if json_file is not None:
        write_json(json_file, [state.figures() for state in states])
    if plot is not None:
        draw_states(states, metric, plot)


@app.command()
def check(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder made by axform-export.")],
    provider: Annotated[Provider, typer.Option(help="auto, cpu or cuda.")] = DEFAULT_PROVIDER,
    threads: Annotated[int | None, typer.Option(help="Threads inside one operator.")] = None,
) -> None:
    """Prove a bundle: model.onnx against PyTorch, number by number, and its task metric against baseline.onnx.

    The exit code is 1 when a number differs by more than 1e-4 or the metric falls below the bound of --max-drop.
    """
    from .runtime.bundle import Bundle
    from .runtime.parity import check_bundle

    opened = Bundle(bundle)
    with showing_progress() as progress:
        progress.stage("checking")
        report = check_bundle(opened, provider, threads, on_batch=progress.step)
    for table in check_tables(report):
        out.print(table)
    if not report.passed:
        raise typer.Exit(1)


def _listed(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers))


@app.command()
def bench(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder made by axform-export.")],
    batch: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = _listed(BENCH_BATCHES),
    seq: Annotated[str, typer.Option(help="Sequence lengths in tokens, separated by commas.")] = _listed(
        BENCH_SEQUENCES
    ),
    threads: Annotated[int | None, typer.Option(help="Threads inside one operator; default all cores.")] = None,
    provider: Annotated[Provider, typer.Option(help="auto, cpu or cuda.")] = DEFAULT_PROVIDER,
    runs: Annotated[
        int | None,
        typer.Option(help=f"Runs per model and shape; default as many as fit into {BENCH_SECONDS:g} s."),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
) -> None:
    """Time model.onnx beside baseline.onnx: interleaved runs, medians, and the ratio with a 95 % interval."""
    from .runtime.bundle import Bundle
    from .runtime.latency import bench_bundle

    batches, sequences = _numbers(batch, "--batch"), _numbers(seq, "--seq")
    if json_file is not None:
        _check_writable(json_file, "--json")
    opened = Bundle(bundle)
    with showing_progress() as progress:
        progress.stage("timing")
        report = bench_bundle(
            opened,
            batches,
            sequences,
            provider=provider,
            threads=threads,
            runs=runs,
            on_run=progress.step,
        )
    for table in bench_tables(report):
        out.print(table)
    if json_file is not None:
        write_text(json_file, report.model_dump_json(indent=2) + "\n")


@app.command()
def ops() -> None:
    """Show what the op library contains: instruction sets, CUDA architectures, and which of them run here."""
    from . import custom_ops
    from .summaries import ops_table

    try:
        info = custom_ops.build_info()
    except custom_ops.OpLibraryUnavailable as reason:
        out.print(f"no op library: {reason}", soft_wrap=True)
        return
    out.print(ops_table(info, str(custom_ops.get_library_path())))


@app.command()
def quickstart(
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for the run and the bundle.")] = Path(
        "axform-quickstart"
    ),
    focus: Annotated[Focus, typer.Option(help="What to gain: accuracy, speed or size.")] = "speed",
) -> None:
    """The whole chain in a few minutes, on a model and texts that the install brings: nothing is downloaded.

    The task is to tell which installed library a sentence of documentation comes from. A second run continues or
    shows what is there.
    """
    from .quickstart import run_quickstart

    try:
        run_quickstart(out_dir, focus)
    except KeyboardInterrupt:
        note("interrupted; the state is kept: run the same command again to continue")
        raise typer.Exit(130) from None


def _options(**values: Any) -> OptimizeOptions:
    try:
        return OptimizeOptions(**values)
    except ValidationError as error:
        first = error.errors()[0]
        flag = "--" + str(first["loc"][0]).replace("_", "-")
        found = repr(first["input"])
        shown = found if len(found) <= _SHOWN_INPUT else f"{found[:_SHOWN_INPUT]}..."
        raise AxformError(f"{flag}: {first['msg']} (found {shown}).") from None


def _numbers(text: str, flag: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise AxformError(f"{flag} {text}: give positive whole numbers separated by commas, e.g. 1,8.")
    return numbers


def _check_writable(file: Path, flag: str) -> None:
    """Say before the work, not after it, that its result cannot be written to ``file``."""
    with writing(file):
        if file.is_dir():
            raise AxformError(f"{flag} {str(file)!r}: is a folder; name a file.")
        if not file.parent.is_dir():
            raise AxformError(f"{flag} {file}: there is no folder {file.parent}; make it, or name another file.")
        with tempfile.TemporaryFile(dir=file.parent):
            pass


def _explain_next(run: Path) -> None:
    words = ["axform-export", str(run), "--out", str(Path("bundles", run.name))]
    out.print(f"next: {shlex.join(words)}", soft_wrap=True)


def _explain_resume() -> None:
    words = [
        Path(sys.argv[0]).name,
        *(word for word in sys.argv[1:] if word not in ("--resume", "--overwrite")),
        "--resume",
    ]
    note(f"interrupted; the state is kept, continue with: {shlex.join(words)}")


def main() -> None:
    """Entry point of ``axform``."""
    run_app(app)


if __name__ == "__main__":
    main()
