"""One row per bundle of a run: metric before and after, what is gone, rounds, trials, sizes, latency ratios (Markdown).

    axform check bundles/sst2-speed; axform bench bundles/sst2-speed --threads 1 --batch 1,8 --seq 32,128
    python samples/benchmarks/focus_table.py bundles/*

Metrics are those of the last check, latencies those of the last bench. The last rows are the means over the tasks, one
for each focus.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import geometric_mean, mean

from axform.console import run_app
from axform.core.intervals import Change
from axform.core.plan import ApproximationPlan, Focus
from axform.core.techniques import Remove
from axform.errors import AxformError
from axform.runtime.bundle import Bundle
from axform.runtime.latency import LatencyReport, ShapeLatency
from axform.toolchain.run_folder import RunRecord

SHAPES = ((1, 32), (1, 128), (8, 128))
COLUMNS = (
    "task",
    "focus",
    "metric on rows that decided, %",
    "on the reported split, %",
    "check",
    "blocks, heads, FFN groups, ATTN input groups gone",
    "rounds made, kept",
    "trials",
    "parameters",
    "file",
    *(f"latency ratio ({batch}, {sequence})" for batch, sequence in SHAPES),
)


def with_interval(change: Change) -> str:
    interval = f"{100 * change.low:+.2f} to {100 * change.high:+.2f}"
    return f"{100 * change.before:.2f} -> {100 * change.after:.2f} ({interval})"


def ratios(bundle: Bundle) -> list[ShapeLatency | None]:
    """Of each of `SHAPES`, None where it was not timed."""
    report = bundle.manifest.results.get("bench")
    shapes = LatencyReport.model_validate(report).shapes if report else []
    timed = {(shape.batch, shape.sequence): shape for shape in shapes}
    return [timed.get(shape) for shape in SHAPES]


def ratio_cell(timed: ShapeLatency | None) -> str:
    if timed is None:
        return "not measured"
    interval = "" if timed.ratio_low is None else f" ({timed.ratio_low:.2f}-{timed.ratio_high:.2f})"
    return f"{timed.ratio:.2f}x{interval}"


def gone(plan: ApproximationPlan) -> str:
    kinds = Counter(
        "block" if part.target.is_block else part.target.kind for part in plan.parts if isinstance(part, Remove)
    )
    return ", ".join(str(kinds[kind]) for kind in ("block", "attn.head", "ffn.group", "attn.in.group"))


def record_of(bundle: Bundle) -> RunRecord:
    if bundle.manifest.run is None:
        raise AxformError(
            f"{bundle.path}: was not exported from a run, so nothing is known of rounds and trials; leave it out."
        )
    return RunRecord.model_validate(bundle.manifest.run)


def row(bundle: Bundle, record: RunRecord) -> list[str]:
    before, after = bundle.manifest.baseline_size, bundle.manifest.model_size
    check = bundle.manifest.results.get("check")
    return [
        record.options.task.removeprefix("glue/"),
        record.options.focus,
        *(with_interval(one) for one in (record.acceptance, record.report)),
        "not run" if check is None else "passes" if check["passed"] else "fails",
        gone(bundle.manifest.plan),
        f"{record.rounds}, {record.round}",
        f"{record.trials} in {record.search_seconds / 60:.1f} min",
        f"{before.parameters / 1e6:.1f} -> {after.parameters / 1e6:.1f} M",
        f"{before.bytes / 1e6:.1f} -> {after.bytes / 1e6:.1f} MB",
        *map(ratio_cell, ratios(bundle)),
    ]


def mean_row(focus: Focus, bundles: Sequence[tuple[Bundle, RunRecord]]) -> list[str]:
    """Means over the tasks: of changes, and geometric ones of ratios."""
    records = [record for _, record in bundles]
    changes = [[record.acceptance.estimate for record in records], [record.report.estimate for record in records]]
    timed = zip(*(ratios(bundle) for bundle, _ in bundles), strict=True)
    means = [
        "not measured" if None in shapes else f"{geometric_mean(shape.ratio for shape in shapes if shape):.2f}x"
        for shapes in timed
    ]
    return [f"mean of {len(bundles)}", focus, *(f"{100 * mean(one):+.2f}" for one in changes), *[""] * 6, *means]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+")
    bundles = [Bundle(path) for path in parser.parse_args().bundles]
    made = [(bundle, record_of(bundle)) for bundle in bundles]
    rows = [row(*one) for one in made]
    for focus in dict.fromkeys(record.options.focus for _, record in made):
        rows.append(mean_row(focus, [one for one in made if one[1].options.focus == focus]))
    for cells in (COLUMNS, ["---"] * len(COLUMNS), *rows):
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    run_app(main)
