"""Commands that need no long work: help, ops, and what a finished run shows."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from axform import __version__, console, custom_ops, quickstart
from axform.errors import AxformError
from axform.exporters.cli import show_export
from axform.quickstart import docstring_sentences
from axform.runtime.bundle import Bundle
from axform.toolchain import cli as toolchain_cli
from axform.toolchain.run_folder import RunFolder
from rich.text import Text
from support import run_command

CLI = [sys.executable, "-c", "from axform.cli import main; main()"]
TAGGED = "a [red]b[/red] [/green] :smile:"
"""A name that would be read as markup of rich, and as wrong markup."""


def run(capsys, *arguments):
    code, captured = run_command(capsys, *arguments)
    return code, captured.out


@pytest.mark.parametrize("command", ["optimize", "export", "check", "bench", "inspect", "report", "ops", "quickstart"])
def test_help_teaches_every_command(capsys, command):
    code, text = run(capsys, command, "--help")
    assert code == 0 and "Usage:" in text and len(text.splitlines()) > 8


def test_ops_says_what_is_built_in_or_missing(capsys, monkeypatch, tmp_path):
    code, text = run(capsys, "ops")
    assert code == 0
    assert ("CPU kernels" in text) if custom_ops.is_available() else ("C++ compiler" in text)
    monkeypatch.setenv("AXFORM_OPS_LIBRARY", str(tmp_path / "none.so"))
    code, text = run(capsys, "ops")
    assert code == 0 and "no op library" in text


def test_resuming_a_finished_run_only_shows_it(capsys, finished, tmp_path, monkeypatch):
    from axform.toolchain.run_folder import RunFolder

    folder = shutil.copytree(finished[0], tmp_path / "run")
    options = RunFolder(folder).read_record().options
    monkeypatch.setattr("axform.toolchain.origin.load_for_task", lambda *_: pytest.fail("nothing is left to do"))
    flags = [
        "--task", options.task, "--data", options.data, "--learning-rate", options.learning_rate,
        "--baseline-epochs", options.baseline_epochs, "--final-epochs", options.final_epochs,
        "--group-size", options.group_size, "--max-drop", options.max_drop,
        "--prune-threshold", options.prune_threshold, "--approximate-threshold", options.approximate_threshold,
    ]  # fmt: skip
    code, text = run(capsys, "optimize", options.model, "--out", folder, "--resume", *flags)
    assert code == 0
    assert "trained on 280 rows" in " ".join(text.split())


def test_check_and_bench_print_tables_and_json(capsys, finished, tmp_path):
    bundle = shutil.copytree(finished[1], tmp_path / "bundle")
    code, text = run(capsys, "check", bundle)
    assert code == 0 and text.count("passed") == 2
    code, text = run(
        capsys, "bench", bundle, "--batch", "1", "--seq", "8", "--runs", "5", "--json", tmp_path / "b.json"
    )
    assert code == 0 and "1 x 8" in text
    assert '"shapes"' in (tmp_path / "b.json").read_text()


def test_a_failed_check_is_exit_code_1(capsys, finished, tmp_path):
    from axform.runtime.bundle import Bundle, write_manifest

    bundle = Bundle(shutil.copytree(finished[1], tmp_path / "bundle"))
    bundle.manifest.max_drop = -0.5  # asks for a metric half as large again as the baseline's
    write_manifest(bundle.path, bundle.manifest)
    code, text = run(capsys, "check", bundle.path)
    assert code == 1 and "FAILED" in text


def test_quickstart_sentences_do_not_name_their_library():
    sentences = docstring_sentences("pandas")
    assert len(sentences) == len(set(sentences)) >= 500
    assert not any("pandas" in sentence.lower() for sentence in sentences)


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"axform {__version__}\n")


def test_optimum_exports_a_run(finished, tmp_path):
    """The real `optimum-cli`, which here finds the checkout's command where it looks for registered ones."""
    script = """
import importlib.machinery, importlib.util, sys
spec = importlib.machinery.ModuleSpec("optimum.commands.register", None, is_package=True)
spec.submodule_search_locations = [sys.argv.pop(1)]
sys.modules[spec.name] = importlib.util.module_from_spec(spec)
from optimum.commands.optimum_cli import main
main()
"""
    commands = Path(__file__).parents[1] / "exporters" / "optimum_command"
    options = ["--out", tmp_path / "b", "--opset", "18", "--precision", "fp16"]
    call = [sys.executable, "-c", script, str(commands), "export", "axform", str(finished[0]), *options]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "parameters" in done.stdout
    manifest = Bundle(tmp_path / "b").manifest
    assert manifest.plan == Bundle(finished[1]).manifest.plan
    assert (manifest.opset, manifest.precision, manifest.inline) == (18, "fp16", False)


def test_names_are_printed_as_they_are(capsys, finished, tmp_path):
    bundle = Path(shutil.copytree(finished[1], tmp_path / TAGGED))
    with console.showing_progress() as progress:
        progress.stage(TAGGED)
        progress.message(TAGGED)
    assert capsys.readouterr().err.count(TAGGED) == 3
    console.out.print(console.table(TAGGED, (TAGGED, "b"), [(TAGGED, Text("c", style="red"))]))
    assert capsys.readouterr().out.count(TAGGED) == 3
    show_export(Bundle(bundle), [])
    assert "".join(TAGGED.split()) in "".join(capsys.readouterr().out.split())
    code, captured = run_command(capsys, "check", tmp_path / TAGGED / "none")
    assert code == 2 and TAGGED in captured.err
    code, captured = run_command(capsys, "optimize", "m", "--task", TAGGED, "--out", tmp_path / "run")
    assert code == 2 and TAGGED in captured.err


def test_what_to_do_next_can_be_pasted(capsys):
    toolchain_cli._explain_next(Path("runs", "a [red]b"))
    assert capsys.readouterr().out == "next: axform-export 'runs/a [red]b' --out 'bundles/a [red]b'\n"


@pytest.mark.parametrize("columns", ["0", "1", "5", "39"])
def test_a_narrow_terminal_shows_every_figure(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    narrow = console._Console()
    monkeypatch.setattr(console, "out", narrow)
    narrow.print(console.table("A title longer than the terminal is wide", ("name", "ms"), [("latency", "123.45")]))
    assert "123.45" in capsys.readouterr().out


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_has_bars(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(console, "_err", console._Console(stderr=True))
    with console.showing_progress() as progress:
        progress.stage(TAGGED)
        progress.step(3, 7, TAGGED)
        progress.message(TAGGED)
    assert "7/7" in sys.stderr.getvalue() and TAGGED in sys.stderr.getvalue()


def test_a_log_hears_regularly_how_far_it_is():
    heard, lines = threading.Event(), []

    def write(line):
        lines.append(line)
        if "3/9" in line:
            heard.set()

    progress = console.LogProgress(write, between=0.01)
    progress.stage("searching")
    progress.step(3, 9, "layer.1.ffn: prune")
    assert heard.wait(10), "nothing was said during a long step"
    progress.step(9, 9)
    progress.stage("writing")
    progress.finish()
    assert lines[0] == "searching: begins (0:00)"
    assert "searching: 3/9, layer.1.ffn: prune (0:00)" in lines
    ended = lines.index("searching: done, 9/9 (0:00)")
    assert lines[ended + 1] == "writing: begins (0:00)" and lines[-1] == "writing: done (0:00)"


def test_a_log_of_work_that_failed_falls_silent(capsys):
    before = set(threading.enumerate())
    with pytest.raises(AxformError), console.showing_progress() as progress:
        progress.stage("searching")
        (speaker,) = set(threading.enumerate()) - before
        raise AxformError("no")
    speaker.join(10)
    assert not speaker.is_alive()
    assert "done" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("shell", "code", "said"),
    [
        ('"$@" ops > /dev/full', 2, "error: stdout: cannot be written (No space left on device)"),
        ('"$@" --help > /dev/full', 2, "error: stdout: cannot be written (No space left on device)"),
        ('{ "$@" ops; echo code $? >&2; } | true', 0, "code 141"),
        ('"$@" ops >&-', 0, ""),
        ('"$@" check none 2> /dev/full; test $? = 2', 0, ""),
        ('"$@" check none 2>&-; test $? = 2', 0, ""),
    ],
)
def test_streams_that_lead_nowhere(shell, code, said):
    done = subprocess.run(["bash", "-c", shell, "bash", *CLI], capture_output=True, text=True)
    assert done.returncode == code and "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert said in done.stderr if said else done.stderr == ""


def test_a_name_that_is_no_text_is_shown(capsys):
    code, captured = run_command(capsys, "check", "bundle-\udcff")
    assert code == 2 and "bundle-" in captured.err


@pytest.mark.parametrize(
    ("file", "message"),
    [("", "is a folder"), (".", "is a folder"), ("none/b.json", "there is no folder none"), ("b" * 300, "too long")],
)
def test_a_file_for_figures_is_judged_before_the_work(capsys, finished, monkeypatch, tmp_path, file, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("axform.runtime.latency.bench_bundle", lambda *_, **__: pytest.fail("began to work"))
    code, captured = run_command(capsys, "bench", finished[1], "--json", file)
    assert code == 2 and message in " ".join(captured.err.split())


def test_a_parent_that_is_a_file_cannot_hold_figures(capsys, finished, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("precious")
    monkeypatch.setattr("axform.runtime.latency.bench_bundle", lambda *_, **__: pytest.fail("began to work"))
    code, captured = run_command(capsys, "bench", finished[1], "--json", tmp_path / "file" / "b.json")
    assert code == 2 and "there is no folder" in captured.err
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("command", ["check", "bench"])
def test_names_too_long_for_the_file_system(capsys, command):
    code, captured = run_command(capsys, command, "b" * 5000)
    assert code == 2 and "File name too long" in captured.err


@pytest.mark.parametrize("command", [["quickstart"], ["optimize", "m", "--task", "t"]])
@pytest.mark.parametrize("place", ["", ".", "there/.."])
def test_the_current_folder_is_no_output(capsys, monkeypatch, tmp_path, command, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    code, captured = run_command(capsys, *command, "--out", place)
    assert code == 2 and "is the current folder" in captured.err
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_quickstart_shows_the_bundle_that_is_there_unless_it_is_of_another_run(finished, tmp_path, monkeypatch):
    plan = RunFolder(finished[0]).read_plan()
    made = []
    monkeypatch.setattr(quickstart, "export", lambda *_, **options: (made.append(options), ("new", []))[1])
    monkeypatch.setattr(quickstart, "show_export", lambda *_: None)
    assert quickstart._bundle(finished[0], plan, finished[1]).path == finished[1] and not made
    other = plan.for_model(plan.model.model_copy(update={"fingerprint": "0" * 64}))
    assert quickstart._bundle(finished[0], other, finished[1]) == "new"
    assert made[0]["overwrite"] is True
