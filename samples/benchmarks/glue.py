"""The tables of tasks in the README, whole: baselines, runs of each focus, bundles, checks and latencies.

    python samples/benchmarks/glue.py --data DATA --out glue
    python samples/benchmarks/variants.py glue              what int8, layout and bits add

DATA has a folder for each task with the hub's column names; without it the tasks are read from the hub. Two runs at a
time, each on one thread, for hours; started again, it goes on where it was. Latencies are measured in the end, when
nothing else runs. Runs, bundles and logs lie under --out, the table is printed and written to --out/table.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from axform.console import note, run_app
from axform.errors import AxformError
from axform.files import write_text
from axform.outputs import holds_files
from axform.runtime.bundle import Bundle
from axform.toolchain.run_folder import RunFolder

FOCUSES = ("accuracy", "speed", "size")
"""Each goes on from the run of the one before."""


@dataclass(frozen=True)
class Recipe:
    """How one task is run."""

    baseline_epochs: int
    final_epochs: int
    """Of a round of the accuracy focus."""
    speed_epochs: int
    """Of a round of the speed focus, which has more to win back."""
    rounds: int
    """With the speed focus; the size focus removes nothing more."""
    size_epochs: int
    """Of a round that learns to do with fewer bits."""
    accuracy_rounds: int = 2
    """The first of them only learns."""
    learning_rate: float = 1e-4
    recovering_rate: float = 3e-4
    """Learning rate of the speed and size focus, which win back what a plan cost."""
    batch_size: int = 32
    """Of the accuracy focus and of the fine-tunings before it; the speed focus has the default."""
    teachers: int = 2
    """Fine-tunings that teach; one where the mean of several knows no more than the first."""
    starts_from: str | None = None
    """Another task, whose fine-tuned baseline learns this one; None = MiniLM."""
    confidence: float | None = None
    """Where rounds that just keep the bound are mostly lucky: the end of the change's interval has to keep it."""


RECIPES = {
    "sst2": Recipe(
        baseline_epochs=2,
        final_epochs=6,
        speed_epochs=5,
        rounds=3,
        size_epochs=3,
        accuracy_rounds=1,
        batch_size=64,
        teachers=3,
    ),
    "qnli": Recipe(baseline_epochs=2, final_epochs=3, speed_epochs=5, rounds=4, size_epochs=3, accuracy_rounds=1),
    "mrpc": Recipe(
        baseline_epochs=4, final_epochs=4, speed_epochs=10, rounds=1, size_epochs=5, teachers=1, confidence=0.8
    ),
    "stsb": Recipe(baseline_epochs=4, final_epochs=4, speed_epochs=8, rounds=4, size_epochs=4),
    "cola": Recipe(baseline_epochs=5, final_epochs=4, speed_epochs=6, rounds=2, size_epochs=4),
    "rte": Recipe(
        baseline_epochs=4,
        final_epochs=8,
        speed_epochs=12,
        rounds=2,
        size_epochs=5,
        teachers=1,
        learning_rate=5e-5,
        starts_from="qnli",
        confidence=0.6,
    ),
}
"""The longest first, which keeps both workers busy to the end, and after another what starts from it."""


class Work:
    """One folder with everything that was made."""

    def __init__(self, folder: Path, data: Path | None) -> None:
        self._folder = folder
        self._data = data
        for name in ("runs", "bundles", "logs"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def run(self, task: str, focus: str) -> RunFolder:
        return RunFolder(self._folder / "runs" / f"{task}-{focus}")

    def bundle(self, task: str, focus: str) -> Path:
        return self._folder / "bundles" / f"{task}-{focus}"

    def optimize(self, task: str, focus: str) -> None:
        """The first focus of a task trains its baseline and other teachers, which the others take as they are."""
        recipe, run = RECIPES[task], self.run(task, focus)
        if run.is_finished():
            return
        data = [] if self._data is None else ["--data", str(self._data / task)]
        epochs, rounds = {
            "accuracy": (recipe.final_epochs, recipe.accuracy_rounds),
            "speed": (recipe.speed_epochs, recipe.rounds),
            "size": (recipe.size_epochs, 0),
        }[focus]
        is_first = focus == FOCUSES[0]
        numbers = {
            "--final-epochs": epochs,
            "--teachers": recipe.teachers,
            "--rounds": rounds,
            "--learning-rate": recipe.learning_rate,
            "--batch-size": recipe.batch_size if is_first else Recipe.batch_size,
            "--threads": 1,
        }
        if recipe.confidence is not None:
            numbers["--confidence"] = recipe.confidence
        if is_first:
            numbers["--baseline-epochs"] = recipe.baseline_epochs
            model = "minilm" if recipe.starts_from is None else str(self._finished(recipe.starts_from, focus).baseline)
        else:
            numbers["--final-learning-rate"] = recipe.recovering_rate
            model = str(self._finished(task, FOCUSES[FOCUSES.index(focus) - 1]).path)
        options = [word for name, value in numbers.items() for word in (name, str(value))]
        words = ["optimize", model, "--task", f"glue/{task}", *data, "--focus", focus, *options]
        self._axform(f"{task}-{focus}", *words, "--out", str(run.path), *(["--resume"] if run.is_started() else []))

    def _finished(self, task: str, focus: str) -> RunFolder:
        run = self.run(task, focus)
        if not run.is_finished():
            raise AxformError(f"{run.path}: is not finished, and another run starts from it; ask for it, too.")
        return run

    def prove(self, task: str, focus: str) -> None:
        """Export and check; a check that fails is a row of the table."""
        bundle = self.bundle(task, focus)
        if not holds_files(bundle):
            self._axform(f"{task}-{focus}", "export", str(self.run(task, focus).path), "--out", str(bundle))
        if "check" not in Bundle(bundle).manifest.results:
            self._axform(f"{task}-{focus}", "check", str(bundle), may_return=(0, 1))

    def bench(self, task: str, focus: str) -> None:
        options = ["--threads", "1", "--batch", "1,8", "--seq", "32,128"]
        self._axform(f"{task}-{focus}", "bench", str(self.bundle(task, focus)), *options)

    def _axform(self, log: str, *words: str, may_return: Sequence[int] = (0,)) -> None:
        path, started = self._folder / "logs" / f"{log}.log", time.perf_counter()
        program = "import sys; from axform.cli import main; sys.argv[0] = 'axform'; main()"
        with path.open("a", encoding="utf-8") as output:
            code = subprocess.run([sys.executable, "-c", program, *words], stdout=output, stderr=output).returncode
        note(f"{log}: {words[0]} {(time.perf_counter() - started) / 60:.1f} min")
        if code not in may_return:
            raise AxformError(f"{path}: `axform {words[0]}` ended with {code}; the log says why.")


def settle(work: Work, tasks: Sequence[str], focuses: Sequence[str], jobs: int) -> None:
    """Every run and its bundle: the focuses of a task after each other, so many tasks at a time."""
    begun: dict[str, Future[None]] = {}
    with ThreadPoolExecutor(jobs) as pool:
        for task in tasks:
            origin = RECIPES[task].starts_from
            begun[task] = pool.submit(_settle, work, task, focuses, begun.get(origin) if origin else None)
        for future in begun.values():
            future.result()


def _settle(work: Work, task: str, focuses: Sequence[str], before: Future[None] | None) -> None:
    if before is not None:
        before.result()
    for focus in focuses:
        work.optimize(task, focus)
        work.prove(task, focus)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with a folder for each task (default: the hub)")
    parser.add_argument("--out", type=Path, default=Path("glue"), help="where everything goes (default: %(default)s)")
    parser.add_argument("--tasks", default=",".join(RECIPES), help="(default: %(default)s)")
    parser.add_argument("--focus", default=",".join(FOCUSES), help="(default: %(default)s)")
    parser.add_argument("--no-latencies", action="store_true", help="only the runs, their bundles and checks")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default: %(default)s)")
    arguments = parser.parse_args()
    tasks, focuses = arguments.tasks.split(","), arguments.focus.split(",")
    for name, given, known in (("--tasks", tasks, tuple(RECIPES)), ("--focus", focuses, FOCUSES)):
        if not set(given) <= set(known):
            raise AxformError(f"{name} {','.join(given)}: known are {', '.join(known)}.")
    work = Work(arguments.out, arguments.data)
    settle(work, tasks, focuses, arguments.jobs)
    if arguments.no_latencies:
        return
    pairs = [(task, focus) for focus in focuses for task in tasks]
    for pair in pairs:
        work.bench(*pair)
    table = Path(__file__).with_name("focus_table.py")
    words = [sys.executable, table, *(work.bundle(*pair) for pair in pairs)]
    text = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    write_text(arguments.out / "table.md", text)
    print(text, end="")


if __name__ == "__main__":
    run_app(main)
