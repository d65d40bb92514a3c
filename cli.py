"""The ``axform`` command."""

from __future__ import annotations

import tempfile
import webbrowser
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from . import __version__
from .console import note, out, run_app, showing_progress
from .core.bounds import smallest_accepted
from .core.plan import Focus
from .errors import AxformError
from .exporters.cli import export_command
from .files import write_json, write_text, writing
from .layer_tables import layers_tables
from .runtime.gate import ALPHA, LOOK_SECONDS, MAX_REGRESSION
from .runtime.latency import BENCH_BATCHES, BENCH_SECONDS, BENCH_SEQUENCES
from .runtime.session import DEFAULT_PROVIDER, Provider
from .serving.cli import serve_command
from .serving.triton.cli import triton_command
from .summaries import bench_tables, check_tables, contents_tables, gate_tables, pareto_table
from .toolchain.cli import optimize_command

__all__ = ["main"]

_UNDECIDED = 3
"""Exit code of `axform gate` without a verdict; 2 is that of a mistake in the command."""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Finds the parts of a Transformer that a task does not need and emits a smaller, faster ONNX model, with proof.",
    epilog="A first look, on what the install brings: axform quickstart",
)
app.command("optimize")(optimize_command)
app.command("export")(export_command)
app.command("serve")(serve_command)
app.command("triton")(triton_command)


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
def pareto(
    run: Annotated[Path, typer.Argument(help="Run folder made by `axform optimize`.")],
    batch: Annotated[int, typer.Option(help="Batch size to time.")] = 1,
    seq: Annotated[int, typer.Option(help="Sequence length to time, in tokens.")] = BENCH_SEQUENCES[-1],
    threads: Annotated[int | None, typer.Option(help="Threads inside one operator; default all cores.")] = None,
    provider: Annotated[Provider, typer.Option(help="auto, cpu, cuda or openvino.")] = DEFAULT_PROVIDER,
    plot: Annotated[
        Path | None, typer.Option(help="Draw metric against latency and against bytes to this file (.svg, .png, .pdf).")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
) -> None:
    """Compare all rounds of a run: metric on unseen rows, parameters, bytes, and latency in one interleaved run.

    Any of them can be exported: axform-export RUN --step N --out BUNDLE
    """
    from .plots import check_plot, draw_states

    for file, flag in ((plot, "--plot"), (json_file, "--json")):
        if file is not None:
            _check_writable(file, flag)
    if plot is not None:
        check_plot(plot)
    with showing_progress() as progress:
        from .exporters.pareto import states_of
        from .toolchain.run_folder import RunFolder

        states = states_of(run, batch, seq, provider=provider, threads=threads, progress=progress)
    record = RunFolder(run).read_record()
    out.print(pareto_table(states, record.metric, batch, seq))
    if json_file is not None:
        write_json(json_file, [state.figures() for state in states])
    if plot is not None:
        options = record.options
        bound = smallest_accepted(states[0].change.before, options.max_drop, options.focus)
        draw_states(states, record.metric, bound, plot)


@app.command()
def check(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder made by axform-export.")],
    provider: Annotated[Provider, typer.Option(help="auto, cpu, cuda or openvino.")] = DEFAULT_PROVIDER,
    threads: Annotated[int | None, typer.Option(help="Threads inside one operator.")] = None,
) -> None:
    """Prove a bundle: model.onnx against PyTorch, number by number, and its task metric against baseline.onnx.

    The exit code is 1 when a number differs by more than 1e-4 (in int8 and bf16: half a standard deviation of the outputs,
    in fp16 a tenth), or the metric falls below the bound of --max-drop. How many answers are others is said beside it.
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
    bundle: Annotated[Path, typer.Argument(help="Bundle folder made by axform-export, or an .onnx file.")],
    other: Annotated[
        Path | None, typer.Argument(help="With a file: the .onnx file to time beside it, with the same inputs.")
    ] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = _listed(BENCH_BATCHES),
    seq: Annotated[str, typer.Option(help="Sequence lengths in tokens, separated by commas.")] = _listed(
        BENCH_SEQUENCES
    ),
    threads: Annotated[int | None, typer.Option(help="Threads inside one operator; default all cores.")] = None,
    provider: Annotated[Provider, typer.Option(help="auto, cpu, cuda or openvino.")] = DEFAULT_PROVIDER,
    runs: Annotated[
        int | None,
        typer.Option(help=f"Runs per model and shape; default as many as fit into {BENCH_SECONDS:g} s, 20 to 4,000."),
    ] = None,
    layers: Annotated[
        bool,
        typer.Option("--layers", help="Also tell where the time goes, by part and by operator, for the first shape."),
    ] = False,
    cuda_graph: Annotated[
        bool,
        typer.Option("--cuda-graph", help="On CUDA: record what a run launches on the GPU, and time replays of it."),
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
) -> None:
    """Time model.onnx beside baseline.onnx: interleaved runs, medians, and the ratio with a 95 % interval.

    Where the model has another precision or layout, the baseline is timed in the same, too: what is left then is what
    the plan gains by itself. With two .onnx files, of any making, the first is the baseline: axform bench a.onnx b.onnx
    """
    from .runtime.bundle import Bundle
    from .runtime.latency import bench_bundle, bench_files
    from .runtime.layers import time_file_layers, time_layers

    batches, sequences = _numbers(batch, "--batch"), _numbers(seq, "--seq")
    if json_file is not None:
        _check_writable(json_file, "--json")
    if other is None and bundle.is_file():
        raise AxformError(f"{bundle}: one file has nothing to be compared with; name a second one, or a bundle folder.")

    def same_form(opened: Bundle) -> Path | None:
        from .exporters.same_form import baseline_in_same_form

        return baseline_in_same_form(opened, Path(folder) / "baseline.onnx")

    time_both = (
        partial(bench_bundle, Bundle(bundle), same_form=same_form)
        if other is None
        else partial(bench_files, bundle, other)
    )
    parts = None
    with showing_progress() as progress, tempfile.TemporaryDirectory() as folder:
        if layers:
            progress.stage("profiling")
            time_parts = (
                partial(time_layers, Bundle(bundle)) if other is None else partial(time_file_layers, bundle, other)
            )
            parts = time_parts(
                batches[0], sequences[0], provider=provider, threads=threads, runs=runs, on_run=progress.step
            )
        progress.stage("timing")
        report = time_both(
            batches,
            sequences,
            provider=provider,
            threads=threads,
            runs=runs,
            resident=True,
            cuda_graph=cuda_graph,
            on_run=progress.step,
        )
    tables, figures = bench_tables(report, None if other is None else (bundle, other)), report.figures()
    if parts is not None:
        tables += layers_tables(parts, between_files=other is not None)
        figures["layers"] = parts.figures()
    for table in tables:
        out.print(table)
    if json_file is not None:
        write_json(json_file, figures)


@app.command()
def gate(
    candidate: Annotated[Path, typer.Argument(help="Bundle folder, or an .onnx file with --reference.")],
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Bundle or .onnx file that it must not be slower than; default: its own baseline, over which its gain "
            "must not shrink from what `axform bench` recorded."
        ),
    ] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = "1",
    seq: Annotated[str, typer.Option(help="Sequence lengths in tokens, separated by commas.")] = "128",
    max_regression: Annotated[
        float, typer.Option(help="Slow-down that is tolerated, as a share: 0.05 = 5 %.")
    ] = MAX_REGRESSION,
    alpha: Annotated[float, typer.Option(help="Largest chance of a wrong verdict, all shapes together.")] = ALPHA,
    seconds: Annotated[
        float, typer.Option(help="Time of one look at one shape; there are two at most.")
    ] = LOOK_SECONDS,
    threads: Annotated[int | None, typer.Option(help="Threads inside one operator; default all cores.")] = None,
    provider: Annotated[Provider, typer.Option(help="auto, cpu, cuda or openvino.")] = DEFAULT_PROVIDER,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
    history: Annotated[Path | None, typer.Option(help="Add the verdict to this file, a line of JSON each.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw all verdicts of --history to this file (.svg, .png, .pdf).")
    ] = None,
) -> None:
    """Judge whether a model became slower: both run in turn in this process, never against stored times.

    The exit code is 0 for PASS (surely not slower by more than --max-regression), 1 for FAIL (surely slower) and 3 for
    UNDECIDED (neither, or a machine that is too noisy to say).

    Example: axform gate bundles/new --reference bundles/old --threads 1
    """
    from .plots import check_plot, draw_history
    from .runtime.gate import gate as judge_latency
    from .runtime.gate_history import append_verdict, read_verdicts

    for file, flag in ((json_file, "--json"), (history, "--history"), (plot, "--plot")):
        if file is not None:
            _check_writable(file, flag)
    if plot is not None:
        if history is None:
            raise AxformError(f"--plot {plot}: draws a history; name its file with --history.")
        check_plot(plot)
    if history is not None and history.exists():
        read_verdicts(history)
    with showing_progress() as progress:
        progress.stage("timing")
        report = judge_latency(
            candidate,
            reference,
            batches=_numbers(batch, "--batch"),
            sequences=_numbers(seq, "--seq"),
            max_regression=max_regression,
            alpha=alpha,
            provider=provider,
            threads=threads,
            seconds=seconds,
            on_look=progress.step,
        )
    for table in gate_tables(report):
        out.print(table)
    if json_file is not None:
        write_text(json_file, report.model_dump_json(indent=2) + "\n")
    if history is not None:
        append_verdict(report, history)
        if plot is not None:
            draw_history(read_verdicts(history), plot)
    if report.verdict != "PASS":
        raise typer.Exit(1 if report.verdict == "FAIL" else _UNDECIDED)


@app.command()
def inspect(
    target: Annotated[Path, typer.Argument(help="Bundle folder made by axform-export, or any .onnx file.")],
    tensors: Annotated[int, typer.Option(min=0, help="How many of the largest weights to list.")] = 10,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write all of it to this file.")] = None,
) -> None:
    """Tell what a file holds: weights by type and bits, the largest ones, operators, opsets, inputs and outputs."""
    from .exporters.inspection import contents_of
    from .runtime.bundle import Bundle

    if json_file is not None:
        _check_writable(json_file, "--json")
    contents = contents_of(Bundle(target).model if target.is_dir() else target)
    for table in contents_tables(contents, tensors):
        out.print(table)
    if json_file is not None:
        write_json(json_file, contents.figures())


@app.command()
def report(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder made by axform-export.")],
    out_file: Annotated[
        Path | None,
        typer.Option("--out", help="HTML file to write; default: the bundle's name with -report.html, in this folder."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(help="The run folder that the bundle was exported from: also show its rounds and trials."),
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
) -> None:
    """Write what a bundle holds and what was measured of it as one HTML file, pictures included, that needs nothing else.

    It shows what `axform check` and `axform bench` recorded in the bundle; what is not there yet is named with its command.

    Example: axform report bundles/sst2 --run runs/sst2 --open
    """
    from .report.page import check_installed, default_file, write_report
    from .runtime.bundle import Bundle

    check_installed()
    opened = Bundle(bundle)
    file = default_file(bundle) if out_file is None else out_file
    _check_writable(file, "--out")
    write_report(opened, file, run)
    out.print(f"report: {file}", soft_wrap=True)
    if open_it and not webbrowser.open(file.absolute().as_uri()):
        note(f"no browser could be started here; open {file} in yours")


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
    try:
        with showing_progress():
            from .quickstart import run_quickstart
        run_quickstart(out_dir, focus)
    except KeyboardInterrupt:
        note("interrupted; the state is kept: run the same command again to continue")
        raise typer.Exit(130) from None


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


def main() -> None:
    """Entry point of ``axform``."""
    run_app(app)


if __name__ == "__main__":
    main()
