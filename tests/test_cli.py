"""Commands that need no long work: help, ops, and what a finished run shows."""

from __future__ import annotations

import shutil

import pytest
from axform import custom_ops
from axform.quickstart import docstring_sentences
from support import run_command


def run(capsys, *arguments):
    code, captured = run_command(capsys, *arguments)
    return code, captured.out


@pytest.mark.parametrize("command", ["optimize", "export", "check", "bench", "ops", "quickstart"])
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
    monkeypatch.setattr("axform.toolchain.optimize.load_for_task", lambda *_: pytest.fail("nothing is left to do"))
    flags = [
        "--task", options.task, "--data", options.data, "--learning-rate", options.learning_rate,
        "--baseline-epochs", options.baseline_epochs, "--final-epochs", options.final_epochs,
        "--group-size", options.group_size, "--max-drop", options.max_drop,
        "--prune-threshold", options.prune_threshold, "--approximate-threshold", options.approximate_threshold,
    ]  # fmt: skip
    code, text = run(capsys, "optimize", options.model, "--out", folder, "--resume", *flags)
    assert code == 0
    assert "bound of --max-drop on the selection split" in " ".join(text.split())


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
