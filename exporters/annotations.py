"""What an ONNX file says of its weights in fewer bits: `GraphProto.quantization_annotation`.

The standard names the tensor of the scales; bits, shape and the rest stand beside it under axform's own keys, since codes of
5 to 7 bits lie in the file as a stream of bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import onnx

from ..core.quantization import largest_code
from ..runtime.bundle import StoredCodes

__all__ = ["CodesAnnotation", "annotate", "annotations_of", "stored_codes"]

_SCALES, _BITS, _SHAPE, _GROUP, _MODULE = "SCALE_TENSOR", "axform.bits", "axform.shape", "axform.group", "axform.module"


@dataclass(frozen=True)
class CodesAnnotation:
    """One initializer that holds codes."""

    tensor: str
    scales: str
    """The initializer that holds their scales."""
    bits: int
    shape: tuple[int, ...]
    """Of the codes, whatever form they are stored in."""
    group: int
    """Codes that share a scale."""
    module: str
    """Path of the torch module whose weights they are."""

    @property
    def values(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """That so many codes of so many bits take."""
        return (self.values * self.bits + 7) // 8


def annotate(graph: onnx.GraphProto, annotations: Iterable[CodesAnnotation]) -> None:
    """Write what is said of initializers into a graph, in the place of what it said before."""
    del graph.quantization_annotation[:]
    for one in annotations:
        entries = {
            _SCALES: one.scales,
            _BITS: str(one.bits),
            _SHAPE: ",".join(map(str, one.shape)),
            _GROUP: str(one.group),
            _MODULE: one.module,
        }
        annotation = graph.quantization_annotation.add(tensor_name=one.tensor)
        for key, value in entries.items():
            annotation.quant_parameter_tensor_names.add(key=key, value=value)


def annotations_of(graph: onnx.GraphProto) -> list[CodesAnnotation]:
    """What `annotate` wrote; what others wrote under the standard's keys alone is left out."""
    found = []
    for annotation in graph.quantization_annotation:
        entries = {entry.key: entry.value for entry in annotation.quant_parameter_tensor_names}
        if {_SCALES, _BITS, _SHAPE, _GROUP, _MODULE} <= entries.keys():
            shape = tuple(int(size) for size in entries[_SHAPE].split(","))
            group, bits = int(entries[_GROUP]), int(entries[_BITS])
            found.append(
                CodesAnnotation(annotation.tensor_name, entries[_SCALES], bits, shape, group, entries[_MODULE])
            )
    return found


def stored_codes(graph: onnx.GraphProto, weights: Iterable[onnx.TensorProto]) -> list[StoredCodes]:
    """What a graph with these initializers stores in fewer bits, as a bundle tells it."""
    said, found = annotations_of(graph), []
    names = {name for one in said for name in (one.tensor, one.scales)}
    tensors = {tensor.name: tensor for tensor in weights if tensor.name in names}
    for one in said:
        scales = onnx.numpy_helper.to_array(tensors[one.scales])
        size = len(tensors[one.tensor].raw_data)
        found.append(
            StoredCodes(
                tensor=one.tensor,
                module=one.module,
                shape=one.shape,
                bits=one.bits,
                storage_bits=8 * size / one.values,
                group=one.group,
                bytes=size + scales.nbytes,
                largest=float(scales.max()) * largest_code(one.bits),
                scales=(float(scales.min()), float(scales.max())),
            )
        )
    return found
