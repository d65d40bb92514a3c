"""Runs and exports that are killed, or meet a full disk, at random moments; a script, since it forks.

A fork of a process that has only imported costs nothing, where a new process takes seconds to import torch.

    python interruptions.py killed-runs|full-disk|killed-exports WORK MODEL DATA SEED
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from itertools import count
from pathlib import Path

from axform.errors import AxformError
from axform.exporters.export import export
from axform.runtime.bundle import Bundle
from axform.toolchain.optimize import optimize
from axform.toolchain.options import OptimizeOptions
from axform.toolchain.run_folder import RunFolder

KILLED, REFUSED = -signal.SIGALRM, 2


def child(work: Callable[[], object], killed_after: float | None = None, largest_file: int | None = None) -> int:
    """Do ``work`` in a fork and return its exit code: 0, `KILLED`, or `REFUSED` for a user's error; others end the test."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if largest_file is not None:  # writing beyond fails as on a full disk
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
            if killed_after is not None:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process without any clean-up
                signal.setitimer(signal.ITIMER_REAL, killed_after)
            work()
            code = 0
        except AxformError as error:
            print("refused:", error, flush=True)
            code = REFUSED
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, KILLED, REFUSED), code
    return code


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    assert child(work) == 0
    return time.perf_counter() - started


def outcome(run: RunFolder) -> tuple[object, ...]:
    """What must not depend on interruptions: plan, fingerprints of both models, and every measurement."""
    record = run.read_record()
    assert run.missing() is None
    varying = {"search_seconds", "versions"}
    return run.read_plan().model_dump_json(), record.model_dump_json(exclude=varying)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def killed_runs(work: Path, options: OptimizeOptions, chance: random.Random) -> None:
    # A second teacher, so that there is a round that learns and, whatever the machine rounds, one that removes.
    options = options.model_copy(update={"teachers": 2, "max_drop": 0.2, "approximate_threshold": 0.1})
    whole = RunFolder(work / "undisturbed")
    whole_time = seconds(lambda: optimize(options, whole.path))
    rounds = whole.read_record().rounds
    assert rounds > 1
    kills, number, stages = 0, 0, set()
    while kills < 20:
        run = RunFolder(work / f"killed-{number}")
        while (
            child(lambda run=run: optimize(options, run.path, resume=True), chance.uniform(0, 1.2 * whole_time))
            == KILLED
        ):
            kills += 1
            stages.add(stage(run))
        assert outcome(run) == outcome(whole), f"run {number} ended in another plan or other weights"
        number += 1
    assert not leftovers(work), leftovers(work)
    print(
        f"{kills} kills over {number} runs of {rounds} rounds and {whole_time:.1f} s, during: {', '.join(sorted(stages))}"
    )


def stage(run: RunFolder) -> str:
    if not run.baseline.exists():
        return "baseline training" if run.training("baseline").exists() else "start"
    if not run.teacher(1).exists():
        return "teacher's training"
    number = next(number for number in count(1) if not run.round(number).path.exists())
    if run.training(f"round-{number}").exists():
        return f"training of round {number}"
    return f"search of round {number}" if run.journal(number).exists() else f"end of round {number - 1}"


def full_disk(work: Path, options: OptimizeOptions, chance: random.Random) -> None:
    whole, run = RunFolder(work / "undisturbed"), RunFolder(work / "full")
    optimize_run = lambda: optimize(options, run.path, resume=True)  # noqa: E731
    child(lambda: optimize(options, whole.path))
    weights = (whole.baseline / "model.safetensors").stat().st_size
    limits = [300, 1500, weights // 2, weights + 1000]  # options, configs, weights, the optimizer's state
    for limit in limits:
        assert child(optimize_run, largest_file=limit) == REFUSED, limit
    assert child(optimize_run) == 0
    assert outcome(run) == outcome(whole)
    bundle = work / "bundle"
    for limit in (300, weights // 2):
        assert child(lambda: export(run.path, bundle), largest_file=limit) == REFUSED, limit
        assert not bundle.exists()
    assert child(lambda: export(run.path, bundle)) == 0
    assert not leftovers(work), leftovers(work)


def killed_exports(work: Path, options: OptimizeOptions, chance: random.Random) -> None:
    run, bundle = work / "run", work / "bundle"
    child(lambda: optimize(options, run))
    whole_time = seconds(lambda: export(run, bundle))
    wanted = Bundle(bundle).manifest.files
    shutil.rmtree(bundle)
    for moment in range(5):
        code = child(
            lambda: export(run, bundle, overwrite=True), chance.uniform(moment / 5, (moment + 1) / 5) * whole_time
        )
        if code == 0 or bundle.exists():  # whole, be it the new one or the one before
            Bundle(bundle).verify()
        if moment == 2:
            assert child(lambda: export(run, bundle, overwrite=True)) == 0
    assert child(lambda: export(run, bundle, overwrite=True)) == 0
    assert Bundle(bundle).manifest.files["model.onnx"] == wanted["model.onnx"]
    assert not leftovers(work), leftovers(work)


if __name__ == "__main__":
    scenario, work, model, data, seed = sys.argv[1:]
    chosen = {"killed-runs": killed_runs, "full-disk": full_disk, "killed-exports": killed_exports}[scenario]
    small = OptimizeOptions(
        model=model,
        task="text-classification",
        data=data,
        train_samples=200,
        learning_rate=3e-3,
        baseline_epochs=3,
        final_epochs=2,
        group_size=16,
        max_drop=0.05,
        prune_threshold=0.1,
        approximate_threshold=0.3,
    )
    print("seed", seed)
    chosen(Path(work), small, random.Random(seed))
