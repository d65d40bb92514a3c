"""The search as its run folder tells it: rounds kept and refused, and every trial."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from ..core.bounds import smallest_accepted
from ..errors import AxformError
from ..runtime.bundle import Bundle
from ..toolchain.journal import TrialRecord
from ..toolchain.run_folder import RoundRecord, RunFolder, RunRecord
from ..toolchain.significance import Verdict

__all__ = ["Search", "SearchStory", "story_of"]

_JOURNAL = re.compile(r"(trials|bits)(?:-x([0-9.e+-]*?))?(?:-([0-9]{1,4}))?\.jsonl")
_REMEDY = "leave --run out, or make the run again with `axform optimize --overwrite`"


@dataclass(frozen=True)
class Search:
    """The trials of one search."""

    title: str
    trials: tuple[tuple[int, str, str, float, str], ...]
    """(number, element, change, loss over that of the start, accepted / refused / ended early)."""

    def count(self, outcome: str) -> int:
        return sum(trial[4] == outcome for trial in self.trials)


@dataclass(frozen=True)
class SearchStory:
    record: RunRecord
    rounds: tuple[RoundRecord, ...]
    """By number; 0 is the baseline."""
    bound: float
    """The smallest metric that the rows which decide accept."""
    searches: tuple[Search, ...]


def story_of(run_path: Path, bundle: Bundle) -> SearchStory:
    """Read the run that a bundle was exported from.

    Raises:
        AxformError: not a finished run, another one, or a damaged file.
    """
    run = RunFolder(run_path)
    record = run.read_record()
    step = bundle.manifest.step
    if step is None:
        raise AxformError(f"--run {run_path}: {bundle.path} was exported from a plan, not from a run; leave --run out.")
    if not 0 <= step <= record.rounds or run.round(step).read_plan() != bundle.manifest.plan:
        raise AxformError(
            f"--run {run_path}: is not the run that {bundle.path} was exported from; name that one, or leave --run out."
        )
    rounds = tuple(run.round(number).read_record() for number in range(record.rounds + 1))
    options = record.options
    bound = smallest_accepted(rounds[0].change.before, options.max_drop, options.focus)
    return SearchStory(record, rounds, bound, _searches(run_path))


def _searches(run_path: Path) -> tuple[Search, ...]:
    """All searches whose journals are there, in the order of rounds."""
    found = []
    for path in run_path.glob("*.jsonl"):
        name = _JOURNAL.fullmatch(path.name)
        if name is not None:
            what, times, number = name.groups()
            found.append((int(number or 1), what == "bits", _numeric(times), path))
    return tuple(_search(path, number, is_bits, times) for number, is_bits, times, path in sorted(found))


def _numeric(times: str | None) -> float:
    try:
        return 1.0 if times is None else float(times)
    except ValueError:
        return 1.0


def _search(path: Path, number: int, is_bits: bool, times: float) -> Search:
    try:
        first, *lines = path.read_text(encoding="utf-8").splitlines()
        json.loads(first)["settings"]
        records = [TrialRecord.model_validate_json(line) for line in lines]
        start = records[0].loss
    except (OSError, ValueError, RecursionError, LookupError, TypeError) as error:
        reason = (str(error).splitlines() or ["unreadable"])[0]
        raise AxformError(f"{path}: damaged ({reason}); {_REMEDY}.") from None
    slack = "" if times == 1 else f", with {times:g} times the slack"
    return Search(
        f"round {number}: {'bits' if is_bits else 'what may go'}{slack}",
        tuple(
            (trial.trial, trial.element, trial.change, trial.loss / start if start else 1.0, _outcome(trial))
            for trial in records[1:]
        ),
    )


def _outcome(trial: TrialRecord) -> str:
    if trial.metric is None:
        return "ended early"
    asked = Verdict.APPROXIMATE if trial.change == "sign matching" else Verdict.PRUNE
    return "accepted" if trial.verdict in (Verdict.PRUNE, asked) else "refused"
