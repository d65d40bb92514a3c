"""The head of a report: what the bundle is, and in one line what it gained."""

from __future__ import annotations

from ..core.costs import file_flops
from ..core.plan import ApproximationPlan
from ..runtime.bundle import Manifest
from ..runtime.latency import LatencyReport
from ..runtime.parity import ParityReport, TaskParity
from .recorded import Recorded
from .tables import Fact, change_of, count, interval, megabytes, metric_name, percent, points, signed_points, threads_of

__all__ = ["cards_of", "encoder_share", "verdict_of", "what_it_is"]

ENCODER_TOKENS = 128
"""Length for which FLOPs are told."""


def verdict_of(manifest: Manifest, recorded: Recorded) -> str:
    """E.g. ``2.31x to 2.52x faster, 26 % smaller, accuracy 80.67 -> 81.18 (-0.29 to +1.32), check passes``."""
    before, after = manifest.baseline_size, manifest.model_size
    said = [] if recorded.bench is None else [_speed(recorded.bench)]
    said.append(change_of(after.bytes, before.bytes))
    if recorded.check is None:
        said.append("not checked yet")
    else:
        said += [_task(recorded.check.task), "check passes" if recorded.check.passed else "check FAILS"]
    return ", ".join(said)


def what_it_is(manifest: Manifest) -> str:
    model, focus = manifest.plan.model, manifest.plan.focus
    words = (
        f"{manifest.task}; {model.family} of {model.num_layers} layers, {model.num_heads} heads and hidden size "
        f"{model.hidden_size}, in {manifest.precision}"
    )
    return words if focus is None else f"{words}; {focus} focus"


def cards_of(manifest: Manifest, recorded: Recorded) -> list[Fact]:
    """The figures that people look for first."""
    before, after = manifest.baseline_size, manifest.model_size
    cards = [] if recorded.bench is None else [_latency_card(recorded.bench)]
    detail = f"{megabytes(before.bytes)} → {megabytes(after.bytes)}"
    cards.append(Fact("File", change_of(after.bytes, before.bytes), detail))
    left = percent(after.parameters, before.parameters)
    cards.append(Fact("Parameters", f"{left} left", f"{count(before.parameters)} → {count(after.parameters)}"))
    cards.append(Fact("Encoder", f"{encoder_share(manifest.plan)} left", f"of its FLOPs, at {ENCODER_TOKENS} tokens"))
    if recorded.check is not None:
        cards += _check_cards(recorded.check)
    return cards


def encoder_share(plan: ApproximationPlan) -> str:
    whole = ApproximationPlan.empty(plan.model, plan.group_size)
    return percent(file_flops(plan, ENCODER_TOKENS), file_flops(whole, ENCODER_TOKENS))


def _latency_card(bench: LatencyReport) -> Fact:
    """Of the shapes those are not sure whose interval holds a ratio of 1."""
    ends = [(shape.ratio_low, shape.ratio_high) for shape in bench.shapes]
    unsure = sum(low is None or high is None or low <= 1 <= high for low, high in ends)
    shapes = f"{len(ends)} shape" + ("s" if len(ends) != 1 else "") + (f" ({unsure} not sure)" if unsure else "")
    return Fact("Latency", _speed(bench), f"{shapes}, {threads_of(bench.threads)}, {bench.provider}")


def _check_cards(check: ParityReport) -> list[Fact]:
    task = check.task
    return [
        Fact(
            metric_name(task.metric).capitalize(),
            f"{points(task.baseline)} → {points(task.model)}",
            f"{signed_points(task.model - task.baseline)} ({interval(task.low, task.high)}) on {count(task.samples)} samples",
        ),
        Fact(
            "Check",
            "passes" if check.passed else "fails",
            f"numbers agree with PyTorch to {check.numeric.max_abs_error:.1e}",
            "good" if check.passed else "bad",
        ),
    ]


def _speed(bench: LatencyReport) -> str:
    """Of all shapes, from the least to the most."""
    ratios = [shape.ratio for shape in bench.shapes]
    least, most = (f"{value:.2f}x" for value in (min(ratios), max(ratios)))
    span = least if least == most else f"{least} to {most}"
    if min(ratios) >= 1:
        return f"{span} faster"
    return f"{span} as fast" + (", which is slower" if max(ratios) < 1 else "")


def _task(task: TaskParity) -> str:
    return (
        f"{metric_name(task.metric)} {points(task.baseline)} → {points(task.model)} ({interval(task.low, task.high)})"
    )
