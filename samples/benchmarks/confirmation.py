"""How often does a bound that was kept on held-back rows break on rows that decided nothing?

Takes as candidates the rounds of a finished run, the refused ones too, and random small plans on its baseline, as many
as a search tries. All of them answer one pool of rows, once. Then many small tasks are played: each draws rows that
judge, rows that decide and rows that only report, all different ones, and chooses a candidate in three ways:

  judged       the most pruned one that keeps --max-drop on the judging rows
  confirmed    the same, but it must keep --max-drop on the deciding rows as well; else the next less pruned one is asked
  to the end   the same, but the end of the change's interval must keep it there (--confidence)

The baseline is chosen where no candidate is left. Of each way the table says how often the choice breaks the bound on
the reported rows, how often it does on the whole pool (which is the truth of these tasks), and what it removes.

The pool is drawn from the train rows that --train-samples left out, those related to none that the run used; held-back
rows fill it up where these are too few, though they decided the rounds and so flatter them.

    python samples/benchmarks/confirmation.py runs/sst2 --cache answers.npz

The answers take minutes (OMP_NUM_THREADS settles the threads); with --cache the next tasks are played within seconds.
Where the metric is not the accuracy, intervals are bootstraps: play fewer --tasks.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import pandas as pd
from axform.console import out, run_app, showing_progress, table
from axform.core.batches import EncodedSplit
from axform.core.bounds import keeps_bound, smallest_accepted
from axform.core.costs import encoder_parameters
from axform.core.intervals import paired_change
from axform.core.metrics import Metric, compute_metric
from axform.core.plan import ApproximationPlan, Focus
from axform.core.progress import Progress
from axform.core.tasks import Task
from axform.errors import AxformError
from axform.exporters.finished_run import FinishedRun
from axform.files import beside, write_json, writing
from axform.runtime.limits import positive
from axform.toolchain.apply import apply_plan
from axform.toolchain.data import encode, settle_task_data
from axform.toolchain.evaluation import Evaluator, predict
from axform.toolchain.lengths import as_long_as
from axform.toolchain.models import LoadedModel
from axform.toolchain.related import related_rows
from axform.toolchain.run_folder import RunFolder, RunRecord
from axform.toolchain.threads import computing_with, default_threads
from rich.table import Table

TRIAL_ROWS = 250
"""On which a random plan must lose as little as a trial of the run's search may."""
WAYS = ("judged", "confirmed", "to the end")


@dataclass(frozen=True)
class Answers:
    """What the candidates answer to the pool; the first is the baseline."""

    names: np.ndarray
    removed: np.ndarray
    """Share of the model's parameters, (candidates,)."""
    logits: np.ndarray
    """(candidates, rows, labels)."""
    labels: np.ndarray
    """(rows,)."""
    held_back: int
    """Rows that decided something in the run."""


@dataclass(frozen=True)
class Bound:
    """What a candidate must keep."""

    metric: Metric
    max_drop: float
    focus: Focus
    confidence: float

    def keeps(self, before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> bool:
        """Whether the metric of the logits ``after`` does, by the estimate."""
        allowed = smallest_accepted(compute_metric(self.metric, before, labels), self.max_drop, self.focus)
        return compute_metric(self.metric, after, labels) >= allowed

    def keeps_to_the_end(self, before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> bool:
        """Whether the lower end of the change's interval does."""
        if not self.keeps(before, after, labels):
            return False  # the end lies below the estimate, and a bootstrap takes time
        change = paired_change(self.metric, before, after, labels, confidence=self.confidence)
        return keeps_bound(change, self.max_drop, self.focus, to_the_end=True)


@dataclass(frozen=True)
class Sizes:
    """Rows of one task."""

    judging: int
    deciding: int
    reported: int

    def check_room(self, rows: int) -> None:
        """Refuse a pool of too few rows."""
        needed = self.judging + self.deciding + self.reported
        if needed > rows:
            raise AxformError(
                f"--judging, --deciding and --reported: a task of {needed} rows does not fit into a pool of {rows}; give "
                "fewer, or a larger --pool-rows where the data has more rows."
            )

    def draw(self, rows: int, random: np.random.Generator) -> list[np.ndarray]:
        """Judging, deciding and reported rows of a pool of so many, no row twice."""
        ends = np.cumsum([self.judging, self.deciding, self.reported])
        return np.split(random.choice(rows, ends[-1], replace=False), ends[:-1])


@dataclass(frozen=True)
class Outcome:
    """Of one way to choose, over all tasks; shares."""

    breaks_reported: float
    breaks_truly: float
    removed: float
    """Mean share of the parameters."""
    baseline: float
    """Tasks in which nothing is removed."""


def simulate(
    answers: Answers, bound: Bound, sizes: Sizes, tasks: int, seed: int, progress: Progress
) -> dict[str, Outcome]:
    """Play the tasks: what each of `WAYS` comes to."""
    sizes.check_room(len(answers.labels))
    order = [int(candidate) for candidate in np.argsort(-answers.removed, kind="stable") if candidate]
    random = np.random.default_rng(seed)
    chosen: dict[str, list[int]] = {way: [] for way in WAYS}
    broken: dict[str, list[bool]] = {way: [] for way in WAYS}
    progress.stage("playing the tasks")
    for number in range(tasks):
        progress.step(number, tasks)
        judging, deciding, reported = sizes.draw(len(answers.labels), random)
        kept = [candidate for candidate in order if _asked(bound.keeps, answers, judging, candidate)]
        for way, choice in {
            "judged": next(iter(kept), 0),
            "confirmed": _first_kept(bound.keeps, answers, deciding, kept),
            "to the end": _first_kept(bound.keeps_to_the_end, answers, deciding, kept),
        }.items():
            chosen[way].append(choice)
            broken[way].append(not _asked(bound.keeps, answers, reported, choice))
    breaks = breaks_truly(answers, bound)
    return {
        way: Outcome(
            breaks_reported=float(np.mean(broken[way])),
            breaks_truly=float(breaks[chosen[way]].mean()),
            removed=float(answers.removed[chosen[way]].mean()),
            baseline=chosen[way].count(0) / tasks,
        )
        for way in WAYS
    }


def breaks_truly(answers: Answers, bound: Bound) -> np.ndarray:
    """Which candidates break the bound on the whole pool, (candidates,)."""
    everything = np.arange(len(answers.labels))
    candidates = range(len(answers.removed))
    return np.array([not _asked(bound.keeps, answers, everything, candidate) for candidate in candidates])


_Question = Callable[[np.ndarray, np.ndarray, np.ndarray], bool]


def _asked(question: _Question, answers: Answers, rows: np.ndarray, candidate: int) -> bool:
    return question(answers.logits[0, rows], answers.logits[candidate, rows], answers.labels[rows])


def _first_kept(question: _Question, answers: Answers, rows: np.ndarray, candidates: Sequence[int]) -> int:
    return next((candidate for candidate in candidates if _asked(question, answers, rows, candidate)), 0)


@dataclass(frozen=True)
class Rows:
    """Tokenized rows of a run's task."""

    task: Task
    pool: EncodedSplit
    held_back: int
    """How many of them the run held back, so that they judged something."""
    trials: EncodedSplit
    """A few of those that judged the run's trials."""


def rows_of(state: FinishedRun, data: Path | None, most: int, seed: int) -> Rows:
    """A pool that the run never trained on, rows first that judged nothing either.

    Raises:
        AxformError: the data is not what the run was made on.
    """
    record, model = state.record, state.baseline
    options = record.options if data is None else record.options.model_copy(update={"data": str(data)})
    used = settle_task_data(options)
    length = model.max_length(options.max_length or used.task.max_length)

    def encoded(frame: pd.DataFrame) -> EncodedSplit:
        return encode(used.task, frame, model.tokenizer, model.inputs, length)

    wanted = encoded(used.report).lengths
    for name, digest in record.inputs.model_dump(include={"train", "selection", "acceptance"}).items():
        split = encoded(getattr(used, name))
        if name != "train":  # of what was held back a run judges by rows as long as the reported ones
            split = split.select(as_long_as(split.lengths, wanted, options.seed))
        if split.digest() != digest:
            raise AxformError(
                f"{options.data or used.task.name}: the {name} rows are not those of the run; name the data that it was made "
                "on with --data, or make the run again where another version of axform drew its rows."
            )
    everything = settle_task_data(options.model_copy(update={"train_samples": None}))
    known, unused = (pd.concat([split.train, split.selection, split.acceptance]) for split in (used, everything))
    unused = _unrelated(unused.drop(index=known.index), known, used.task)
    unused = unused.sample(n=min(most, len(unused)), random_state=seed)
    pool = pd.concat([unused, used.acceptance, used.selection])[:most]
    return Rows(used.task, encoded(pool), len(pool) - len(unused), encoded(used.selection[:TRIAL_ROWS]))


def _unrelated(unused: pd.DataFrame, known: pd.DataFrame, task: Task) -> pd.DataFrame:
    """The unused rows that say nothing of what the known ones do."""
    groups = related_rows(pd.concat([known, unused])[[*task.text_columns]].itertuples(index=False))
    return unused[~np.isin(groups[len(known) :], groups[: len(known)])]


def answers_of(state: FinishedRun, arguments: argparse.Namespace, sizes: Sizes, progress: Progress) -> Answers:
    """Let every candidate answer the pool, which takes minutes."""
    progress.stage("reading the pool")
    rows = rows_of(state, arguments.data, arguments.pool_rows, arguments.seed)
    sizes.check_room(len(rows.pool))
    names, removed, logits = [], [], []
    parameters, all_of_encoder = state.baseline.model.num_parameters(), encoder_parameters(state.plan)
    count = state.record.rounds + 1 + arguments.random_plans
    progress.stage("answering the pool")
    for number, (name, model, plan) in enumerate(candidates_of(state, rows, arguments)):
        progress.step(number, count, name)
        with apply_plan(model.model, plan):
            logits.append(predict(model, rows.pool, state.record.options.batch_size))
        names.append(name)
        removed.append((all_of_encoder - encoder_parameters(plan)) / parameters)
    return Answers(np.array(names), np.array(removed), np.stack(logits), rows.pool.labels, rows.held_back)


def candidates_of(
    state: FinishedRun, rows: Rows, arguments: argparse.Namespace
) -> Iterator[tuple[str, LoadedModel, ApproximationPlan]]:
    """The baseline, every round of the run, and the baseline under random plans that lose as little as trials may."""
    for step in range(state.record.rounds + 1):
        state.choose(step)
        yield f"round {step}" if step else "baseline", state.student, state.plan
    state.choose(0)
    options = state.record.options
    trials = Evaluator(state.baseline, rows.task, rows.trials, state.plan, batch_size=options.batch_size)
    most = trials.measure().loss * (1 + options.prune_threshold + options.first_slack)
    plans = random_plans(state.plan, arguments.most_removed, arguments.seed)
    harmless = (plan for plan in plans if trials.measure_trial(plan).loss <= most)
    for number, plan in enumerate(islice(harmless, arguments.random_plans), start=1):
        yield f"random plan {number}", state.baseline, plan


def random_plans(empty: ApproximationPlan, most_removed: int, seed: int) -> Iterator[ApproximationPlan]:
    """Plans without end, each of which removes a few random blocks, heads and groups."""
    targets = list(empty.grid.targets())
    random = np.random.default_rng(seed)
    while True:
        plan = empty
        for index in random.integers(len(targets), size=random.integers(1, most_removed + 1)):
            if not plan.removes(targets[index]):
                plan = plan.without(targets[index]) or plan
        yield plan


def made_of(record: RunRecord, arguments: argparse.Namespace) -> str:
    """What the answers depend on, as text."""
    names = ("data", "pool_rows", "random_plans", "most_removed", "seed")
    asked = {name: getattr(arguments, name) for name in names}
    return json.dumps({"run": record.model_dump(mode="json"), **asked}, default=str)


def load_answers(cache: Path, made: str) -> Answers:
    """Answers that an earlier call kept.

    Raises:
        AxformError: it is no such file, or one of another run or of other options.
    """
    try:
        with np.load(cache) as arrays:
            kept = dict(arrays)
        found = str(kept.pop("made"))
        answers = Answers(**{**kept, "held_back": int(kept["held_back"])})
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        raise AxformError(f"--cache {cache}: not a readable file of answers; name another, or delete it.") from None
    if found != made:
        raise AxformError(
            f"--cache {cache}: holds the answers of another run or pool, or of other plans; ask for the same, or name "
            "another file."
        )
    return answers


def save_answers(cache: Path, answers: Answers, made: str) -> None:
    """Keep the answers in one step."""
    staging = beside(cache, "tmp")
    with writing(cache):
        with staging.open("wb") as handle:
            np.savez_compressed(handle, made=np.array(made), **vars(answers))
        staging.replace(cache)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder made by `axform optimize`")
    parser.add_argument("--data", type=Path, help="folder with the task's data (default the run's own)")
    parser.add_argument("--cache", type=Path, help="keep the answers in this .npz, or take them from there")
    parser.add_argument("--pool-rows", type=int, default=4000, help="rows to answer at most (default 4000)")
    parser.add_argument("--random-plans", type=int, default=30, help="candidates beside the rounds (default 30)")
    parser.add_argument(
        "--most-removed", type=int, default=12, help="elements that a random plan removes (default 1-12)"
    )
    parser.add_argument("--tasks", type=int, default=1000, help="tasks to play (default 1000)")
    parser.add_argument("--judging", type=int, default=375, help="rows that judge, of each task (default 375)")
    parser.add_argument("--deciding", type=int, default=375, help="rows that decide (default 375)")
    parser.add_argument("--reported", type=int, default=872, help="rows that only report (default 872)")
    parser.add_argument("--max-drop", type=float, help="share of the metric that may be lost (default the run's own)")
    parser.add_argument("--confidence", type=float, default=0.9, help="level of the interval (default 0.9)")
    parser.add_argument("--seed", type=int, default=0, help="of the pool, the plans and the tasks")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    check_numbers(arguments)

    record = RunFolder(arguments.run).read_record()
    options = record.options
    max_drop = options.max_drop if arguments.max_drop is None else arguments.max_drop
    bound = Bound(record.metric, max_drop, options.focus, arguments.confidence)
    sizes = Sizes(arguments.judging, arguments.deciding, arguments.reported)
    made = made_of(record, arguments)
    for file in (arguments.cache, arguments.json):
        if file is not None:
            with writing(file), tempfile.TemporaryFile(dir=file.parent):
                pass  # what cannot be written is said before the work, not after it
    with showing_progress() as progress, computing_with(default_threads()):
        if arguments.cache is not None and arguments.cache.exists():
            answers = load_answers(arguments.cache, made)
        else:
            answers = answers_of(FinishedRun(RunFolder(arguments.run), 0), arguments, sizes, progress)
            if arguments.cache is not None:
                save_answers(arguments.cache, answers, made)
        outcomes = simulate(answers, bound, sizes, arguments.tasks, arguments.seed, progress)
    out.print(outcome_table(outcomes, answers, bound, arguments))
    if arguments.json is not None:
        write_json(arguments.json, figures(outcomes, answers, bound, sizes, arguments))


def check_numbers(arguments: argparse.Namespace) -> None:
    """Refuse numbers that make no tasks."""
    for name in ("pool_rows", "most_removed", "tasks", "judging", "deciding", "reported"):
        positive(f"--{name.replace('_', '-')}", getattr(arguments, name))
    for name in ("random_plans", "seed"):
        if getattr(arguments, name) < 0:
            raise AxformError(f"--{name.replace('_', '-')} {getattr(arguments, name)}: give a whole number from 0 on.")
    if not 0.5 < arguments.confidence < 1:
        raise AxformError(f"--confidence {arguments.confidence}: give a level between 0.5 and 1, such as 0.9.")
    if arguments.max_drop is not None and not 0 <= arguments.max_drop <= 1:
        raise AxformError(f"--max-drop {arguments.max_drop}: give a share between 0 and 1, such as 0.005.")


def outcome_table(
    outcomes: Mapping[str, Outcome], answers: Answers, bound: Bound, arguments: argparse.Namespace
) -> Table:
    result = table(
        f"{arguments.tasks:,} tasks of {arguments.judging} judging, {arguments.deciding} deciding and "
        f"{arguments.reported} reported rows",
        ("the choice is", "breaks the bound, reported rows", "truly", "parameters removed", "nothing removed"),
        [(way, *(f"{share:.1%}" for share in vars(outcome).values())) for way, outcome in outcomes.items()],
    )
    broken = breaks_truly(answers, bound)[1:]
    result.caption = (
        f"pool of {len(answers.labels):,} rows, {answers.held_back:,} of them held back by the run; {bound.metric}, "
        f"--max-drop {bound.max_drop:g}, --confidence {bound.confidence:g}; {broken.sum()} of {len(broken)} candidates "
        f"truly break the bound; shares are good to {1 / np.sqrt(arguments.tasks):.1%}"
    )
    result.caption_justify = "left"
    return result


def figures(
    outcomes: Mapping[str, Outcome], answers: Answers, bound: Bound, sizes: Sizes, arguments: argparse.Namespace
) -> dict[str, Any]:
    """As JSON, with every candidate's change on the whole pool."""
    metrics = [compute_metric(bound.metric, logits, answers.labels) for logits in answers.logits]
    candidates = zip(answers.names, answers.removed, metrics, breaks_truly(answers, bound), strict=True)
    return {
        "tasks": arguments.tasks,
        "sizes": asdict(sizes),
        "pool_rows": len(answers.labels),
        "held_back_rows": answers.held_back,
        "bound": asdict(bound),
        "ways": {way: asdict(outcome) for way, outcome in outcomes.items()},
        "candidates": [
            {"name": str(name), "removed": float(removed), "metric": metric, "breaks_truly": bool(breaks)}
            for name, removed, metric, breaks in candidates
        ],
    }


if __name__ == "__main__":
    run_app(main)
