"""Sessions that write down how long each node takes, by ONNX Runtime's profiler."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import AxformError
from .graph_nodes import GraphNode, read_nodes
from .session import Provider, create_session, provider_of

__all__ = ["MOST_RUNS", "NodeTime", "Profile", "ProfiledSession"]

MOST_RUNS = 200
"""That are profiled: the profiler stops after a million events, and what it writes is read in one piece."""
_OF_A_NODE = "_kernel_time"
"""How the name of the event ends in which a node computes."""


@dataclass(frozen=True)
class NodeTime:
    name: str
    operator: str
    milliseconds: float
    """Median over the runs."""


@dataclass(frozen=True)
class Profile:
    nodes: list[NodeTime]
    graph: list[GraphNode]
    """The optimized graph, whose nodes these are."""
    milliseconds: float
    """Median of a whole run, with what lies between the nodes."""


class ProfiledSession:
    """A session whose runs are profiled; what it writes lies in the empty ``folder``, which must outlive it.

    Raises:
        AxformError: as `create_session`, or it runs on a provider whose nodes cannot be timed one by one.
    """

    def __init__(self, model: Path, provider: Provider, threads: int, folder: Path) -> None:
        self._optimized = folder / "optimized.onnx"

        def configure(options: Any) -> None:
            options.enable_profiling = True
            options.profile_file_prefix = str(folder / "profile")
            options.optimized_model_filepath = str(self._optimized)
            # One file would end where protobuf does, at 2 GB.
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
            options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")

        self.session = create_session(model, provider, threads, spinning=False, configure=configure)
        if provider_of(self.session) != "CPU":
            self.session.end_profiling()
            raise AxformError(
                f"--layers: {provider_of(self.session)} does not run one node after the other on the processor, so the "
                "profiler cannot tell how long each takes; take --provider cpu."
            )

    def finish(self, runs: int) -> Profile:
        """What the last ``runs`` of the session took; it may not be used any more."""
        events = json.loads(Path(self.session.end_profiling()).read_text(encoding="utf-8"))
        whole = sorted((event["ts"], event["dur"]) for event in events if event["name"] == "model_run")[-runs:]
        starts = np.array([start for start, _ in whole])
        times: dict[tuple[str, str, str], np.ndarray] = defaultdict(lambda: np.zeros(runs))
        for event in _top_level(event for event in events if event["name"].endswith(_OF_A_NODE)):
            run = int(np.searchsorted(starts, event["ts"], side="right")) - 1
            if run >= 0:
                told = event["args"]
                key = (told.get("node_index", ""), event["name"].removesuffix(_OF_A_NODE), told["op_name"])
                times[key][run] += event["dur"] / 1000
        nodes = [NodeTime(name, operator, float(np.median(taken))) for (_, name, operator), taken in times.items()]
        return Profile(nodes, read_nodes(self._optimized), float(np.median([length for _, length in whole])) / 1000)


def _top_level(events: Any) -> list[Any]:
    """Without those of nodes inside another, such as those of a loop's body, whose time is that of the loop as well."""
    kept: list[Any] = []
    for event in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
        if not kept or event["ts"] >= kept[-1]["ts"] + kept[-1]["dur"]:
            kept.append(event)
    return kept
