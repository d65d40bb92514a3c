"""What a metric may fall to, for the search that removes parts and for the check of what was exported."""

from __future__ import annotations

from .intervals import Change
from .plan import Focus

__all__ = ["keeps_bound", "smallest_accepted"]


def smallest_accepted(baseline_metric: float, max_drop: float, focus: Focus | None) -> float:
    """The smallest metric that is still acceptable: ``max_drop`` is a share of the baseline's.

    The accuracy focus promises to gain, so it may not fall at all.
    """
    allowed = 0.0 if focus == "accuracy" else max_drop
    return baseline_metric - allowed * abs(baseline_metric)


def keeps_bound(change: Change, max_drop: float, focus: Focus | None, *, to_the_end: bool = False) -> bool:
    """Whether a metric's change stays within ``max_drop``.

    Args:
        to_the_end: ask for the lower end of the change's interval, not for the estimate alone.
    """
    reached = change.before + change.low if to_the_end else change.after
    return reached >= smallest_accepted(change.before, max_drop, focus)
