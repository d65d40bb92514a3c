"""One row per bundle: metric before and after, parameters, file size, latency ratios, trials and search time (Markdown).

axform bench bundles/sst2-speed --batch 1,8 --seq 32,128      (the latency columns come from the last bench)
python samples/benchmarks/focus_table.py bundles/*
"""

from __future__ import annotations

import argparse
from pathlib import Path

from axform.core.intervals import Change
from axform.runtime.bundle import Bundle
from axform.toolchain.run_folder import RunRecord

SHAPES = ((1, 32), (8, 128))


def with_interval(change: Change) -> str:
    interval = f"{100 * change.low:+.2f} to {100 * change.high:+.2f}"
    return f"{100 * change.before:.2f} -> {100 * change.after:.2f} ({interval})"


def latency(bundle: Bundle, batch: int, sequence: int) -> str:
    for shape in bundle.manifest.results.get("bench", {}).get("shapes", ()):
        if (shape["batch"], shape["sequence"]) == (batch, sequence):
            interval = "-" if shape["ratio_low"] is None else f"{shape['ratio_low']:.2f}-{shape['ratio_high']:.2f}"
            return f"{shape['ratio']:.2f}x ({interval})"
    return "not measured"


def row(bundle: Bundle) -> list[str]:
    record = RunRecord.model_validate(bundle.manifest.run)
    before, after = bundle.manifest.baseline_size, bundle.manifest.model_size
    check = bundle.manifest.results.get("check")
    return [
        record.options.task.removeprefix("glue/"),
        record.options.focus,
        *(with_interval(one) for one in (record.acceptance, record.report)),
        f"{before.parameters / 1e6:.1f} -> {after.parameters / 1e6:.1f} M",
        f"{before.bytes / 1e6:.1f} -> {after.bytes / 1e6:.1f} MB",
        *(latency(bundle, *shape) for shape in SHAPES),
        f"{record.trials} in {record.search_seconds:.0f} s",
        f"{float(check['numeric']['max_abs_error']):.0e}" if check else "not checked",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+")
    columns = [
        "task",
        "focus",
        "metric on rows that decided, %",
        "reported metric, %",
        "parameters",
        "file",
        *(f"latency ratio ({batch}, {sequence})" for batch, sequence in SHAPES),
        "trials",
        "error to PyTorch",
    ]
    rows = [row(Bundle(path)) for path in parser.parse_args().bundles]
    for cells in (columns, ["---"] * len(columns), *rows):
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
