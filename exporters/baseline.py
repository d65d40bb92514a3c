"""The unoptimized ONNX graph of a model: torch.onnx.export (dynamo), opset 23, dynamic batch and sequence."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import onnx
import torch
from torch import Tensor

from ..core.opset import OPSET, SCOPES
from ..toolchain.models import LoadedModel

__all__ = ["export_baseline", "named_outputs"]

_EXAMPLE_BATCH, _EXAMPLE_SEQUENCE = 2, 7
"""Sizes of the traced example; 0 and 1 would freeze a dimension."""


def export_baseline(loaded: LoadedModel) -> onnx.ModelProto:
    """Export a model on the CPU.

    Inputs are those of the model's forward that its tokenizer provides, (batch, sequence) int64; outputs carry the
    names of the model's output fields. Each node keeps the path of the torch module it came from.
    """
    model = loaded.model.to("cpu").eval()
    inputs = _example(loaded)
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with _quiet():
        program = torch.onnx.export(
            model,
            (),
            kwargs=inputs,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=dict.fromkeys(inputs, dynamic),
            output_names=list(named_outputs(model, inputs)),
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    _name_dimensions(proto)
    _keep_only_scopes(proto)
    proto.producer_name = "axform"
    return proto


def _example(loaded: LoadedModel) -> dict[str, Tensor]:
    vocabulary = loaded.model.config.vocab_size
    tokens = torch.arange(_EXAMPLE_BATCH * _EXAMPLE_SEQUENCE).reshape(_EXAMPLE_BATCH, _EXAMPLE_SEQUENCE)
    example = {}
    for name in loaded.inputs:
        if name == "input_ids":
            example[name] = (tokens + 2) % vocabulary
        elif name == loaded.family.attention_mask:
            example[name] = torch.ones_like(tokens)
            example[name][-1, _EXAMPLE_SEQUENCE // 2 :] = 0
        else:
            example[name] = torch.zeros_like(tokens)
    return example


def named_outputs(model: torch.nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run a model: its output fields by name, the parts of a tuple as ``name.0``, ``name.1`` and so on."""
    with torch.inference_mode():
        outputs = model(**inputs)
    named: dict[str, Tensor] = {}
    for name, value in outputs.items():
        if isinstance(value, Tensor):
            named[name] = value
        else:
            named |= {f"{name}.{index}": part for index, part in enumerate(value)}
    return named


def _name_dimensions(proto: onnx.ModelProto) -> None:
    """Call the two dynamic dimensions batch and sequence, which torch numbers per input."""
    names = {}
    for value in proto.graph.input:
        for axis, dimension in zip(("batch", "sequence"), value.type.tensor_type.shape.dim, strict=True):
            names[dimension.dim_param] = axis
    for value in (*proto.graph.input, *proto.graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = names.get(dimension.dim_param, dimension.dim_param)
    del proto.graph.value_info[:]


def _keep_only_scopes(proto: onnx.ModelProto) -> None:
    """Drop the metadata that names source files and stack traces of the exporting machine."""
    for node in proto.graph.node:
        scopes = [entry.value for entry in node.metadata_props if entry.key == SCOPES]
        del node.metadata_props[:]
        for value in scopes:
            node.metadata_props.add(key=SCOPES, value=value)
    for holder in (proto, proto.graph, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del holder.metadata_props[:]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch.onnx.export prints progress and warns of things that do not concern the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
