"""The section of the search: the curve of its rounds and its trials, from the run folder, or what the manifest knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..core.intervals import Change
from ..runtime.bundle import Manifest
from ..toolchain.run_folder import RoundRecord
from .pictures import curve_chart, trials_chart
from .recorded import Recorded
from .search import Search, SearchStory
from .sections import LEVEL, Figure, Section
from .tables import Table, count, interval, metric_name, percent, points, signed_points

__all__ = ["search_section"]

_MOST_TRIALS = 200
"""Of one search that are listed; all are drawn."""
_FEWEST_DRAWN = 3
"""Trials that make a picture."""
_ROUNDS = (("model", "kept"), ("refused", "refused"), ("bound", "the bound"))
_TRIALS = (("model", "accepted"), ("refused", "refused"), ("early", "ended early or beyond the edge: at least so much"))


def search_section(name: str, manifest: Manifest, recorded: Recorded, story: SearchStory | None) -> Section:
    title = "The search"
    if story is not None:
        return _told(title, story)
    more = f"axform report {name} --run RUN"
    if recorded.run is None or recorded.round is None:
        missing = "The plan came from no run, or its record is not in the bundle."
        return Section("search", title, missing=missing)
    record = recorded.run
    changes = [("decided what is kept", record.acceptance), ("reported", record.report)]
    table = _changes_table(metric_name(manifest.metric), changes)
    text = (
        f"Round {manifest.step} of {record.rounds} after {count(record.trials)} trials in "
        f"{record.search_seconds:,.0f} s; trained on {count(record.train_rows)} rows."
    )
    missing = "The bundle holds the run's sums only; its rounds and trials are in its folder."
    return Section("search", title, text, missing=missing, command=more, tables=(table,))


def _changes_table(metric: str, changes: Sequence[tuple[str, Change]]) -> Table:
    rows = [
        (
            what,
            count(change.rows),
            points(change.before),
            points(change.after),
            signed_points(change.estimate),
            interval(change.low, change.high),
        )
        for what, change in changes
    ]
    columns = ("rows that", "rows", "baseline", "result", "change", f"{LEVEL} interval")
    return Table.of(f"{metric.capitalize()} × 100 in PyTorch", columns, rows)


def _told(title: str, story: SearchStory) -> Section:
    record, first = story.record, story.rounds[0]
    metric = metric_name(record.metric)
    sure = record.options.confidence
    reach = "reach" if sure is None else f"reach, with the lower end of its {100 * sure:g} % interval,"
    text = (
        f"{record.rounds} rounds, of which number {record.round} counts; {count(record.trials)} trials in "
        f"{record.search_seconds:,.0f} s. A round is a search and the fine-tuning after it. To be kept its {metric} has to "
        f"{reach} {points(story.bound)} on {count(first.change.rows)} rows that no trial saw, and to keep the bound on "
        "average over those that judged trials, too."
    )
    figures = [*_curves(story, f"{metric} × 100")]
    for number, search in enumerate(story.searches):
        drawn = _trials_figure(number, search)
        if drawn is not None:
            figures.append(drawn)
    tables = [
        _rounds_table(story),
        _changes_table(metric, [("decided what is kept", record.acceptance), ("reported", record.report)]),
        *(_trials_table(search) for search in story.searches if search.trials),
    ]
    return Section("search", title, text, figures=tuple(figures), tables=tuple(tables))


def _curves(story: SearchStory, metric: str) -> list[Figure]:
    first, found = story.rounds[0], []
    for name, what, costs in (
        (
            "flops",
            "FLOPs of the encoder left, %",
            [_left(one.encoder_flops, first.encoder_flops) for one in story.rounds],
        ),
        ("parameters", "parameters left, %", [_left(one.parameters, first.parameters) for one in story.rounds]),
    ):
        states = [
            (
                str(number),
                cost,
                100 * one.change.after,
                (100 * (one.change.before + one.change.low), 100 * (one.change.before + one.change.high))
                if number
                else None,
                one.is_accepted,
            )
            for number, (one, cost) in enumerate(zip(story.rounds, costs, strict=True))
        ]
        svg = curve_chart(f"rounds-{name}", states, 100 * story.bound, (what, metric))
        if svg is not None:
            caption = f"Every round by its number: {metric} on rows that no trial saw, with the {LEVEL} interval of its change"
            found.append(Figure(svg, caption, f"{metric} against {what}, a mark for each round", _ROUNDS))
    return found


def _left(after: int, before: int) -> float:
    return 100 * after / before if before else 0.0


def _trials_figure(number: int, search: Search) -> Figure | None:
    if len(search.trials) < _FEWEST_DRAWN:
        return None
    svg = trials_chart(f"trials-{number}", [(trial[0], trial[3], trial[4]) for trial in search.trials])
    if svg is None:
        return None
    caption = f"Trials of {search.title}: {_counted(search)}"
    return Figure(svg, caption, "The loss of every trial over that of the start", _TRIALS)


def _counted(search: Search) -> str:
    outcomes = Counter(trial[4] for trial in search.trials)
    return ", ".join(f"{outcomes[one]} {one}" for one in ("accepted", "refused", "ended early") if outcomes[one])


def _rounds_table(story: SearchStory) -> Table:
    first = story.rounds[0]
    columns = (
        "round",
        "from",
        "slack",
        "outcome",
        "metric × 100",
        f"change, {LEVEL} interval",
        "parameters",
        "FLOPs",
        "trials",
    )
    rows = [_round_row(number, one, first) for number, one in enumerate(story.rounds)]
    return Table.of("Rounds", columns, rows, "Slack is the loss that a search may cost beyond the thresholds.")


def _round_row(number: int, one: RoundRecord, first: RoundRecord) -> tuple[str, ...]:
    change = one.change
    return (
        str(number) if number else "0, the baseline",
        str(one.start) if number else "",
        f"{one.slack:g}",
        "kept" if one.is_accepted else "refused",
        points(change.after),
        f"{signed_points(change.estimate)} ({interval(change.low, change.high)})" if number else "",
        percent(one.parameters, first.parameters),
        percent(one.encoder_flops, first.encoder_flops),
        count(one.trials),
    )


def _trials_table(search: Search) -> Table:
    rows = [
        (str(number), element, change, f"{loss:.4f}", outcome)
        for number, element, change, loss, outcome in search.trials[:_MOST_TRIALS]
    ]
    rest = len(search.trials) - len(rows)
    note = f"{rest} more are in the run folder." if rest else ""
    columns = ("trial", "part", "what", "loss, of that at the start", "outcome")
    return Table.of(f"Trials of {search.title}", columns, rows, note, text=(1, 2), is_folded=True)
