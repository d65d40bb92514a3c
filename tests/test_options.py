"""The options of a run: one home for every default, and bounds that hold for Python callers and the command line alike."""

from __future__ import annotations

import inspect
import math

import pytest
from axform import cli
from axform.runtime.latency import BENCH_BATCHES, BENCH_SEQUENCES
from axform.toolchain.cli import optimize_command
from axform.toolchain.options import RECOVER, FineTuneOptions, OptimizeOptions
from axform.toolchain.search import SearchOptions
from axform.toolchain.significance import Thresholds
from pydantic import ValidationError
from support import run_command


def test_every_default_of_the_command_line_is_that_of_the_options():
    fields = OptimizeOptions.model_fields
    flags = inspect.signature(optimize_command).parameters
    differing = {"text_columns"}  # written a,b on the command line
    shared = flags.keys() & fields.keys() - differing - {"model", "task"}
    assert len(shared) == len(fields) - 3
    assert {name: flags[name].default for name in shared} == {name: fields[name].default for name in shared}


def test_defaults_come_from_where_a_thing_is_defined():
    options, search, training = OptimizeOptions(model="m", task="t"), SearchOptions(focus="speed"), FineTuneOptions()
    assert (options.learning_rate, options.batch_size, options.seed) == (
        training.learning_rate,
        training.batch_size,
        training.seed,
    )
    thresholds = Thresholds(options.prune_threshold, options.approximate_threshold, options.max_drop)
    assert thresholds == Thresholds()
    for name in ("layer_order", "selection", "ffn_groups", "attention_groups"):
        assert getattr(search, name) == getattr(options, name)
    assert options.first_slack == RECOVER


@pytest.mark.parametrize(
    ("options", "rows", "gains", "epochs"),
    [
        ({}, 100_000, False, FineTuneOptions.epochs),
        ({}, 3_200, False, 10),
        ({}, 3_200, True, FineTuneOptions.epochs),
        ({"batch_size": 64}, 3_200, False, 20),
        ({}, 1, False, 1000),
        ({"final_epochs": 2}, 3_200, False, 2),
        ({"final_epochs": 0}, 3_200, False, 0),
    ],
)
def test_few_rows_are_trained_on_for_more_epochs(options, rows, gains, epochs):
    assert OptimizeOptions(model="m", task="t", **options).final_epochs_on(rows, gains) == epochs


def test_bench_defaults_are_the_benchmark_s():
    defaults = inspect.signature(cli.bench).parameters
    assert defaults["batch"].default == ",".join(map(str, BENCH_BATCHES))
    assert defaults["seq"].default == ",".join(map(str, BENCH_SEQUENCES))


BAD = [
    *[("seed", value) for value in (-1, 1 << 32, 1 << 70)],
    *[
        (name, value)
        for name in ("prune_threshold", "approximate_threshold", "max_drop", "recover", "learning_rate")
        for value in (math.inf, math.nan, -1.0)
    ],
    ("max_drop", 1.5),
    ("learning_rate", 0.0),
    ("learning_rate", 1e30),
    ("data", ""),
    *[
        (name, value)
        for name in ("batch_size", "final_epochs", "baseline_epochs", "max_length", "threads")
        for value in (-1, 10**9, 1 << 70)
    ],
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_values_out_of_range_are_refused(name, value, capsys, tmp_path):
    with pytest.raises(ValidationError) as refused:
        OptimizeOptions(**{"model": "m", "task": "t", name: value})
    assert [error["loc"] for error in refused.value.errors()] == [(name,)]

    flag = "--" + name.replace("_", "-")
    code, captured = run_command(capsys, "optimize", "m", "--task", "t", "--out", tmp_path / "run", f"{flag}={value}")
    assert code == 2 and captured.err.startswith(f"error: {flag}: ") and captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", [0, (1 << 32) - 1])
def test_every_seed_that_numpy_takes_is_accepted(seed):
    assert OptimizeOptions(model="m", task="t", seed=seed).seed == seed
