"""A latency gate for test suites: the fixture ``axform_gate``. Nothing heavy is imported before it is used.

def test_latency(axform_gate):
    axform_gate("bundles/sst2", batch=1, seq=128, max_regression=0.05)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .runtime.gate import GateReport

__all__ = ["axform_gate", "pytest_terminal_summary"]

_REPORTS = pytest.StashKey[list[Any]]()


@pytest.fixture
def axform_gate(request: pytest.FixtureRequest) -> Callable[..., GateReport]:
    """Fails the test where a model is surely slower than it may be, skips it where the machine is too noisy to say."""

    def call(
        bundle: str | Path,
        *,
        reference: str | Path | None = None,
        batch: int | Iterable[int] = 1,
        seq: int | Iterable[int] = 128,
        undecided: str = "skip",
        **options: Any,
    ) -> GateReport:
        """Judge a bundle against its own recorded gain, or against ``reference``.

        Args:
            bundle, reference: bundle folders or .onnx files.
            batch, seq: one or several.
            undecided: what becomes of a test without a verdict: ``skip``, ``fail`` or ``pass``.
            options: those of `axform.runtime.gate.gate`, such as ``max_regression``, ``threads`` and ``seconds``.

        Raises:
            AxformError: see there.
        """
        from .errors import AxformError
        from .runtime.gate import gate
        from .summaries import gate_line

        if undecided not in ("skip", "fail", "pass"):
            raise AxformError(f"undecided {undecided!r}: give skip, fail or pass.")
        report = gate(
            Path(bundle),
            None if reference is None else Path(reference),
            batches=[batch] if isinstance(batch, int) else list(batch),
            sequences=[seq] if isinstance(seq, int) else list(seq),
            **options,
        )
        request.config.stash.setdefault(_REPORTS, []).append(report)
        for shape in report.shapes:
            name = f"axform_gate {shape.batch}x{shape.sequence}"
            request.node.user_properties.append((name, gate_line(report, shape)))  # JUnit's properties
        lines = "\n".join(gate_line(report, shape) for shape in report.shapes)
        if report.verdict == "FAIL" or (report.verdict == "UNDECIDED" and undecided == "fail"):
            pytest.fail(f"{report.candidate}: {report.verdict}\n{lines}", pytrace=False)
        if report.verdict == "UNDECIDED" and undecided == "skip":
            pytest.skip(f"{report.candidate}: undecided; {lines}")
        return report

    return call


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """One line for each shape that was judged."""
    reports = config.stash.get(_REPORTS, [])
    if not reports:
        return
    from .summaries import gate_line

    terminalreporter.section("latency gate")
    for report in reports:
        for shape in report.shapes:
            terminalreporter.line(f"{report.candidate}: {gate_line(report, shape)}")
