"""What a rewrite did, and where it could not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ..scoped_graph import RewriteRefused, ScopedGraph

__all__ = ["Change", "Recorder", "RewriteReport"]


@dataclass(frozen=True)
class Change:
    """One place that was rewritten (``refused`` is None) or left alone."""

    place: str
    what: str
    refused: str | None = None


@dataclass(frozen=True)
class RewriteReport:
    """Result of one rewrite over a whole graph."""

    rewrite: str
    changes: list[Change]
    nodes_removed: int
    """Nodes fewer than before; negative when the rewrite inserts more than it removes."""
    parameters_removed: int

    @property
    def done(self) -> list[Change]:
        return [change for change in self.changes if change.refused is None]

    @property
    def refused(self) -> list[Change]:
        return [change for change in self.changes if change.refused is not None]


@dataclass
class Recorder:
    """Collects the changes of a rewrite while it runs, between the node counts before and after."""

    graph: ScopedGraph
    nodes: int
    parameters: int
    changes: list[Change] = field(default_factory=list)

    @classmethod
    def begin(cls, graph: ScopedGraph) -> Recorder:
        graph.tidy()
        return cls(graph, len(graph.graph.nodes), graph.parameters())

    def attempt(self, place: str, what: str, rewrite: Callable[[], None]) -> None:
        """Run one rewrite; a refusal is recorded with its reason."""
        try:
            rewrite()
        except RewriteRefused as reason:
            self.changes.append(Change(place, what, str(reason)))
        else:
            self.changes.append(Change(place, what))

    def report(self, name: str) -> RewriteReport:
        """Remove what became dead, and count."""
        self.graph.tidy()
        return RewriteReport(
            name,
            self.changes,
            nodes_removed=self.nodes - len(self.graph.graph.nodes),
            parameters_removed=self.parameters - self.graph.parameters(),
        )
