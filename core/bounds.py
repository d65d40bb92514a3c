"""What a metric may fall to, for the search that removes parts and for the check of what was exported."""

from __future__ import annotations

from .plan import Focus

__all__ = ["smallest_accepted"]


def smallest_accepted(baseline_metric: float, max_drop: float, focus: Focus | None) -> float:
    """The smallest metric that is still acceptable: ``max_drop`` is a share of the baseline's.

    The accuracy focus promises to gain, so it may not fall at all.
    """
    allowed = 0.0 if focus == "accuracy" else max_drop
    return baseline_metric - allowed * abs(baseline_metric)
