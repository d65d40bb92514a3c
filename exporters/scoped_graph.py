"""A graph whose nodes know the torch module they came from.

torch.onnx.export writes the module path into each node's metadata, which onnx-graphsurgeon drops on import. So the
scopes are read from the ModelProto first, looked up by the name of a node's first output (unique in a graph), and
written back on the way out. Rewrites ask for the nodes of a module and never match operator patterns.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.ir.tensor import LazyValues

from ..core.opset import SCOPES
from .annotations import CodesAnnotation, annotate, annotations_of

__all__ = ["Linear", "RewriteRefused", "ScopedGraph", "is_matrix", "type_of", "values_of"]

_FLOATS = "fV"
"""Kinds of numpy's types that are: its own, and those that it knows from elsewhere, such as bfloat16."""


def type_of(constant: gs.Constant) -> np.dtype:
    """Of the values of an initializer, which stay on their way from the file until they are asked for."""
    held = constant._values
    if isinstance(held, LazyValues):
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(held.tensor.data_type))
    return np.dtype(held.dtype)


def is_matrix(tensor: gs.Tensor) -> bool:
    """Whether it is an initializer of float32 weights with two dimensions."""
    return isinstance(tensor, gs.Constant) and len(tensor.shape) == 2 and type_of(tensor) == np.float32


def values_of(constant: gs.Constant) -> np.ndarray:
    """Of an initializer, read anew from the file; it keeps none of them, since what replaces it is as large."""
    held = constant._values
    return np.asarray(held.load() if isinstance(held, LazyValues) else held)


class RewriteRefused(Exception):
    """The graph does not look as the rewrite needs it; the text says what was found where."""


class ScopedGraph:
    """An onnx-graphsurgeon graph with module scopes."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._scopes: dict[str, tuple[str, ...]] = {}
        for node in proto.graph.node:
            for entry in node.metadata_props:
                if entry.key == SCOPES:
                    self._scopes[node.output[0]] = tuple(ast.literal_eval(entry.value))
        self._annotations = {one.tensor: one for one in annotations_of(proto.graph)}
        self._in_4_bits: set[str] = set()
        self._scales: set[str] = set()
        proto = self._without_4_bits(proto)
        self._ir_version = proto.ir_version
        self._producer = proto.producer_name
        self.functions: dict[tuple[str, str], onnx.FunctionProto] = {(f.domain, f.name): f for f in proto.functions}
        """The model-local ones, by domain and name; a file holds those that it calls."""
        self.graph: gs.Graph = gs.import_onnx(proto)
        self.graph.functions.clear()  # they are kept above, as they are; exporting them as well would double them
        self._names = set(self.graph.tensors())

    def to_proto(self) -> onnx.ModelProto:
        """The cleaned-up graph as a ModelProto, with scopes and the functions that it calls."""
        proto = self.bare_proto()
        proto.graph.initializer.extend(self.weights())
        return proto

    def weights(self) -> Iterator[onnx.TensorProto]:
        """The initializers in use, one after the other, since together they are as large as the model."""
        for name, constant in self._constants().items():
            if name in self._in_4_bits:
                yield onnx.numpy_helper.from_array(constant.values.astype(ml_dtypes.int4), name)
            else:
                yield OnnxExporter.export_tensor_proto(constant)

    def bare_proto(self) -> onnx.ModelProto:
        """`to_proto` without the initializers."""
        self.tidy()
        proto = self._without_values()
        for node in proto.graph.node:
            if node.output[0] in self._scopes:
                node.metadata_props.add(key=SCOPES, value=str(list(self._scopes[node.output[0]])))
        called = {(node.domain, node.op_type) for node in proto.graph.node}
        functions = [function for name, function in self.functions.items() if name in called]
        proto.functions.extend(functions)
        idle = {domain for domain, _ in self.functions} - {domain for domain, _ in called}
        imports = [entry for entry in proto.opset_import if entry.domain not in idle]
        missing = {function.domain for function in functions} - {entry.domain for entry in imports}
        del proto.opset_import[:]
        proto.opset_import.extend([*imports, *(onnx.helper.make_opsetid(domain, 1) for domain in sorted(missing))])
        proto.ir_version = self._ir_version
        proto.producer_name = self._producer
        annotate(proto.graph, self.annotations)
        return proto

    def add_function(self, function: onnx.FunctionProto) -> None:
        """Add a model-local function once."""
        self.functions[function.domain, function.name] = function

    def set_opset(self, version: int) -> None:
        """Say which version of ONNX's own operators the nodes, and those of functions, are of."""
        self.graph.opset = version
        self.graph.import_domains = [
            onnx.helper.make_opsetid(entry.domain, version if entry.domain in ("", "ai.onnx") else entry.version)
            for entry in self.graph.import_domains or [onnx.helper.make_opsetid("", version)]
        ]
        for function in self.functions.values():
            for entry in function.opset_import:
                if entry.domain in ("", "ai.onnx"):
                    entry.version = version
        oldest = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", version)])
        self._ir_version = min(self._ir_version, oldest)

    def tidy(self) -> None:
        """Remove dead nodes and restore the topological order; the graph's inputs stay."""
        self.graph.cleanup(remove_unused_graph_inputs=False).toposort()

    def nodes_in(self, module: str, op: str | None = None) -> Iterator[gs.Node]:
        """Nodes that came from a module or one inside it, in graph order."""
        for node in self.graph.nodes:
            if node.outputs and module in self._scopes.get(node.outputs[0].name, ())[:-1] and op in (None, node.op):
                yield node

    def only_node_in(self, module: str, op: str) -> gs.Node:
        """The single node of a type in a module.

        Raises:
            RewriteRefused: there is none, or there are several.
        """
        nodes = list(self.nodes_in(module, op))
        if len(nodes) != 1:
            raise RewriteRefused(f"{module} has {len(nodes)} {op} nodes where one is needed")
        return nodes[0]

    def linear(self, module: str) -> Linear:
        """The linear layer exported from a module: MatMul (and Add) or Gemm."""
        return Linear(self, module)

    def constant(self, name: str, values: np.ndarray) -> gs.Constant:
        """A new initializer with a name not used so far."""
        return gs.Constant(self._unique(name), np.asarray(values, order="C"))  # which leaves a scalar one

    def scales(self, name: str, values: np.ndarray) -> gs.Constant:
        """The same for scales of codes about which the file says nothing."""
        constant = self.constant(name, values)
        self._scales.add(constant.name)
        return constant

    def codes(
        self,
        name: str,
        stored: np.ndarray,
        bits: int,
        scales: gs.Constant,
        group: int,
        shape: Sequence[int],
        module: str,
    ) -> gs.Constant:
        """A new initializer of codes, about which the file says so.

        Args:
            stored: int8 codes of 4 (INT4 in the file) or 8 bits, or a stream of bytes with codes of any other size.
            group: codes that share one of ``scales``.
            shape: of the codes.
        """
        constant = self.constant(name, stored)
        self._annotations[constant.name] = CodesAnnotation(
            constant.name, scales.name, bits, tuple(shape), group, module
        )
        if bits == 4 and stored.dtype == np.int8:
            self._in_4_bits.add(constant.name)
        return constant

    def scales_are_now(self, new: gs.Constant, old: gs.Constant) -> None:
        """Let what is said of codes name ``new`` where it named ``old`` as their scales."""
        for name, said in self._annotations.items():
            if said.scales == old.name:
                self._annotations[name] = replace(said, scales=new.name)

    def is_int4(self, constant: gs.Constant) -> bool:
        """Whether the file stores these int8 codes as INT4."""
        return constant.name in self._in_4_bits

    def codes_in_4_bits(self) -> list[tuple[gs.Constant, CodesAnnotation]]:
        """The initializers in use that the file stores as INT4, as int8 codes here, and what it says of them."""
        constants = self._constants()
        return [(constants[one.tensor], one) for one in self.annotations if one.tensor in self._in_4_bits]

    @property
    def annotations(self) -> list[CodesAnnotation]:
        """Of the codes that are in use."""
        used = self._constants()
        return [one for name, one in self._annotations.items() if name in used]

    def insert(
        self, op: str, name: str, inputs: list[gs.Tensor], like: gs.Node | None = None, **attrs: object
    ) -> gs.Variable:
        """Add a node with one output, in the scope of the node ``like``; returns the output."""
        return self.insert_many(op, name, 1, inputs, like, **attrs)[0]

    def insert_many(
        self, op: str, name: str, count: int, inputs: list[gs.Tensor], like: gs.Node | None = None, **attrs: object
    ) -> list[gs.Variable]:
        """The same with that many outputs."""
        outputs = [gs.Variable(self._unique(name)) for _ in range(count)]
        node = gs.Node(op=op, name=outputs[0].name, inputs=inputs, outputs=outputs, attrs=dict(attrs))
        self.graph.nodes.append(node)
        if like is not None:
            modules = self._scopes.get(like.outputs[0].name, ("",))[:-1]
            self._scopes[outputs[0].name] = (*modules, outputs[0].name)
        return outputs

    def module_of(self, node: gs.Node) -> str:
        """Path of the innermost torch module that a node came from; empty where none is known."""
        modules = self._scopes.get(node.outputs[0].name, ("",))[:-1]
        return modules[-1] if modules else ""

    def take_over(self, new: gs.Variable, old: gs.Node) -> None:
        """Let the node that makes ``new`` make the only output of ``old`` in its place, under the same name."""
        (output,), (maker,) = old.outputs, new.inputs
        old.outputs.clear()
        self._scopes.pop(new.name, None)
        maker.outputs = [output]

    def residual_add(self, branch: gs.Tensor, module: str) -> tuple[gs.Node, gs.Tensor]:
        """The Add that joins the output ``branch`` of a block with the block's input: (the node, the other operand)."""
        consumers = list(branch.outputs)
        if len(consumers) != 1 or consumers[0].op != "Add":
            found = ", ".join(node.op for node in consumers) or "nothing"
            raise RewriteRefused(f"{module} feeds {found} where a single residual Add is needed")
        add = consumers[0]
        return add, add.inputs[1] if add.inputs[0] is branch else add.inputs[0]

    def replace_everywhere(self, old: gs.Tensor, new: gs.Tensor) -> None:
        """Let every consumer of ``old``, the graph's outputs included, read ``new``."""
        for node in list(old.outputs):
            node.inputs = [new if tensor is old else tensor for tensor in node.inputs]
        self.graph.outputs = [new if tensor is old else tensor for tensor in self.graph.outputs]

    def parameters(self) -> int:
        """Number of floating-point values and codes in the initializers that are in use; scales are not counted."""
        said = self.annotations
        codes, scales = {one.tensor for one in said}, self._scales | {one.scales for one in said}
        return sum(one.values for one in said) + sum(
            math.prod(tensor.shape)
            for name, tensor in self._constants().items()
            if name not in codes | scales and (type_of(tensor).kind in _FLOATS or type_of(tensor) == np.int8)
        )

    def _constants(self) -> dict[str, gs.Constant]:
        tensors = (tensor for node in self.graph.nodes for tensor in node.inputs)
        return {tensor.name: tensor for tensor in tensors if isinstance(tensor, gs.Constant)}

    def _without_4_bits(self, proto: onnx.ModelProto) -> onnx.ModelProto:
        """The same with INT4 initializers, which onnx-graphsurgeon does not know, as INT8."""
        names = {tensor.name for tensor in proto.graph.initializer if tensor.data_type == onnx.TensorProto.INT4}
        if not names:
            return proto
        self._in_4_bits |= names
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        for tensor in copy.graph.initializer:
            if tensor.name in names:
                codes = onnx.numpy_helper.to_array(tensor).astype(np.int8)
                tensor.CopyFrom(onnx.numpy_helper.from_array(codes, tensor.name))
        return copy

    def _without_values(self) -> onnx.ModelProto:
        """As onnx-graphsurgeon writes it, which would copy every initializer twice."""
        held = [(constant, constant._values) for constant in self._constants().values()]
        nothing = LazyValues(onnx.TensorProto(data_type=onnx.TensorProto.FLOAT, dims=[0]))
        try:
            for constant, _ in held:
                constant.values = nothing
            proto: onnx.ModelProto = gs.export_onnx(self.graph, do_type_check=False)
        finally:
            for constant, values in held:
                constant.values = values
        del proto.graph.initializer[:]
        return proto

    def _unique(self, name: str) -> str:
        unique, number = name, 1
        while unique in self._names:
            unique, number = f"{name}.{number}", number + 1
        self._names.add(unique)
        return unique


class Linear:
    """A linear layer in the graph. Initializers are replaced, never changed: others may share them."""

    def __init__(self, graph: ScopedGraph, module: str) -> None:
        self._graph = graph
        self.module = module
        products = [
            node
            for op in ("MatMul", "Gemm")
            for node in graph.nodes_in(module, op)
            if isinstance(node.inputs[1], gs.Constant) and len(node.inputs[1].shape) == 2
        ]
        if len(products) != 1:
            raise RewriteRefused(f"{module} has {len(products)} products with a weight matrix where one is needed")
        self._product = products[0]
        transposed = self._product.op == "Gemm" and self._product.attrs.get("transB", 0)
        self._out_axis = 0 if transposed else 1
        self._bias_node, self._bias_index = self._find_bias()

    @property
    def input(self) -> gs.Tensor:
        return self._product.inputs[0]

    @input.setter
    def input(self, tensor: gs.Tensor) -> None:
        self._product.inputs[0] = tensor

    @property
    def output(self) -> gs.Tensor:
        return (self._bias_node or self._product).outputs[0]

    @property
    def node(self) -> gs.Node:
        return self._product

    @property
    def is_transposed(self) -> bool:
        """The initializer is (outputs, inputs), not (inputs, outputs)."""
        return self._out_axis == 0

    @property
    def weights(self) -> np.ndarray:
        """(outputs, inputs)."""
        values = values_of(self._product.inputs[1])
        return values if self.is_transposed else values.T

    def keep_inputs(self, positions: Sequence[int]) -> None:
        """Keep the weights of these input features only."""
        self._take(self._product, 1, positions, 1 - self._out_axis)

    def keep_outputs(self, positions: Sequence[int]) -> None:
        """Keep the weights and biases of these output features only."""
        self._take(self._product, 1, positions, self._out_axis)
        if self._bias_node is not None and math.prod(self._bias_node.inputs[self._bias_index].shape) > 1:
            self._take(self._bias_node, self._bias_index, positions, -1)

    def _take(self, node: gs.Node, index: int, positions: Sequence[int], axis: int) -> None:
        old = node.inputs[index]
        node.inputs[index] = self._graph.constant(
            f"{self.module}.{old.name}", values_of(old).take(positions, axis=axis)
        )

    def _find_bias(self) -> tuple[gs.Node | None, int]:
        if self._product.op == "Gemm":
            return (self._product, 2) if len(self._product.inputs) > 2 else (None, 0)
        consumers = list(self._product.outputs[0].outputs)
        if (
            len(consumers) == 1
            and consumers[0].op == "Add"
            and consumers[0] in self._graph.nodes_in(self.module, "Add")
        ):
            for index, tensor in enumerate(consumers[0].inputs):
                if isinstance(tensor, gs.Constant):
                    return consumers[0], index
        return None, 0
