"""What Triton has to know of an ONNX file, read from the graph without its weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ...core.opset import DOMAIN
from ...errors import AxformError
from ..tensors import DataType, data_type

if TYPE_CHECKING:
    import onnx

__all__ = ["Graph", "GraphPort", "read_graph"]

_SPELLED = {"FLOAT": "float", "DOUBLE": "double"}
"""ONNX Runtime's names of types that are not ONNX's in small letters."""


@dataclass(frozen=True)
class GraphPort:
    """An input or output of a graph."""

    name: str
    onnx_type: str
    """As ONNX calls it, such as INT64."""
    shape: tuple[int | str, ...] | None
    """A name for each free dimension; None where the graph does not say how many there are."""

    @property
    def kind(self) -> DataType | None:
        """None for a type that axform does not serve, such as texts."""
        return data_type(f"tensor({_SPELLED.get(self.onnx_type, self.onnx_type.lower())})")

    @property
    def config_type(self) -> str | None:
        """In Triton's configuration; None for a type that its backend does not take."""
        if self.onnx_type == "STRING":
            return "TYPE_STRING"
        return None if self.kind is None else self.kind.config_name


@dataclass(frozen=True)
class Graph:
    """What `read_graph` found."""

    path: Path
    inputs: tuple[GraphPort, ...]
    overridable: tuple[GraphPort, ...]
    """Weights that a request may replace, as in files of before ONNX IR 4."""
    outputs: tuple[GraphPort, ...]
    opset: int
    """Of ONNX's own operators."""
    own_operators: frozenset[str]
    """Those of axform's domain that it uses."""
    without_body: frozenset[str]
    """Those of them that need the op library, since the file carries no function body."""
    quantizes_while_running: bool
    """So that an answer depends on what else is in its batch."""
    external: tuple[str, ...]
    """Files beside it that hold weights."""


def read_graph(path: Path) -> Graph:
    """Read a graph, and see that the files of its weights are there and long enough.

    Raises:
        AxformError: no ONNX file, or weights are missing.
    """
    import onnx

    if path.is_dir():  # where the weights of a model are many files, Triton takes a folder of that name
        path = path / "model.onnx"
    try:
        proto = onnx.load(path, load_external_data=False)
    except FileNotFoundError:
        raise AxformError(f"{path}: no such file; put the model there.") from None
    except Exception as error:  # protobuf's own, which says nothing that helps
        raise AxformError(f"{path}: cannot be read as an ONNX file ({type(error).__name__}); copy it again.") from None
    if not proto.graph.output:
        raise AxformError(f"{path}: is no ONNX model (a graph without outputs); copy it again.")
    nodes = list(_nodes(proto.graph.node))
    nodes += [node for function in proto.functions for node in _nodes(function.node)]
    own = frozenset(node.op_type for node in nodes if node.domain == DOMAIN)
    bodies = {function.name for function in proto.functions if function.domain == DOMAIN}
    weights = {tensor.name for tensor in proto.graph.initializer}
    return Graph(
        path=path,
        inputs=tuple(_port(value) for value in proto.graph.input if value.name not in weights),
        overridable=tuple(_port(value) for value in proto.graph.input if value.name in weights),
        outputs=tuple(_port(value) for value in proto.graph.output),
        opset=next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0),
        own_operators=own,
        without_body=own - bodies,
        quantizes_while_running=any(node.op_type == "DynamicQuantizeLinear" for node in nodes),
        external=_external_files(path, proto),
    )


def _port(value: Any) -> GraphPort:
    import onnx

    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        return GraphPort(value.name, "no tensor", None)
    shape = None
    if tensor.HasField("shape"):
        shape = tuple(
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"{value.name}.{axis}"
            for axis, dim in enumerate(tensor.shape.dim)
        )
    return GraphPort(value.name, onnx.TensorProto.DataType.Name(tensor.elem_type), shape)


def _nodes(nodes: Iterable[Any]) -> Iterator[Any]:
    """Nodes, and those of the graphs inside them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner.node)


def _external_files(path: Path, proto: onnx.ModelProto) -> tuple[str, ...]:
    import onnx

    needed: dict[str, int] = {}
    for tensor in proto.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        name = entries.get("location", "")
        inside = PurePosixPath(name)
        if not name or inside.is_absolute() or ".." in inside.parts:
            raise AxformError(
                f"{path}: the weight {tensor.name} lies in {name!r}, outside of its folder; export it again."
            )
        end = int(entries.get("offset", "0") or 0) + int(entries.get("length", "0") or 0)
        needed[name] = max(end, needed.get(name, 0))
    for name, size in needed.items():
        file = path.parent / name
        if not file.is_file():
            raise AxformError(f"{file}: no such file, but {path.name} has weights in it; copy it, too.")
        if file.stat().st_size < size:
            raise AxformError(f"{file}: ends before the weights that {path.name} has in it; copy it again.")
    return tuple(sorted(needed))
