"""Operators of ai.axform written out: the same numbers with no function in the file, and nothing else lost."""

from __future__ import annotations

import random

import numpy as np
import onnx
import pytest
from axform.core.opset import DOMAIN
from axform.core.plan import Bits
from axform.core.targets import Target
from axform.exporters import cli as export_cli
from axform.exporters.annotations import annotations_of
from axform.exporters.export import rewrite
from axform.exporters.passes import LAYOUT, Subject, inline_functions, run_passes
from axform.exporters.scoped_graph import ScopedGraph
from onnx import parser
from support import FAMILIES, cpu_session, plan_of, random_batch, run_command


def answers(proto: onnx.ModelProto, batch) -> np.ndarray:
    return cpu_session(proto).run(["logits"], {name: value.numpy() for name, value in batch.items()})[0]


def modules_of(proto: onnx.ModelProto, op: str) -> set[str]:
    graph = ScopedGraph(proto)
    return {graph.module_of(node) for node in graph.graph.nodes if node.op == op}


@pytest.mark.parametrize("precision", [None, "int8", "fp16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_without_functions_answers_alike(exported, family, precision):
    loaded, baseline = exported[family]
    plan = plan_of(loaded.identity(), 8, "layer.0.attn 5 majority")
    for address, bits in (("layer.0.ffn.group.0", 5), ("layer.1.ffn.group.1", 7), ("layer.1.ffn.group.2", 3)):
        plan = plan.with_part(Bits(target=Target.parse(address), bits=bits))
    plan = plan.with_part(Bits(target=Target.outside("embeddings.word"), bits=6))
    graphs = [ScopedGraph(baseline) for _ in range(2)]
    for graph, last in zip(graphs, ((), ("inline",)), strict=True):
        rewrite(graph, plan, loaded.family)
        names = (*LAYOUT, *((precision,) if precision else ()), *last)
        reports = run_passes(graph, names, Subject(plan, loaded.family))
        assert not reports[-1].refused
    whole, inlined = (graph.to_proto() for graph in graphs)
    assert whole.functions and not inlined.functions
    assert not any(node.domain == DOMAIN for node in inlined.graph.node)
    assert DOMAIN not in {entry.domain for entry in inlined.opset_import}
    onnx.checker.check_model(inlined, full_check=True)
    written = [change.what for change in reports[-1].done]
    assert written.count("SignMatchingAttention written out") == 1 and "UnpackBits written out" in written
    batch = random_batch(loaded, random.Random(1), (3, 9))
    np.testing.assert_array_equal(answers(inlined, batch), answers(whole, batch))
    assert list(annotations_of(inlined.graph)) == list(annotations_of(whole.graph))
    assert modules_of(inlined, "TopK") == modules_of(whole, "SignMatchingAttention") != {""}


def test_what_only_a_function_can_say_is_refused_and_left(exported):
    graph = ScopedGraph(exported["bert"][1])
    body = 'Strange (x) => (y) { s = Constant <value_string: string = "a"> () y = Identity (x) }'
    graph.add_function(parser.parse_function(f'<opset_import: ["" : 18], domain: "{DOMAIN}"> {body}'))
    (logits,) = graph.graph.outputs
    strange = graph.insert("Strange", "strange", [logits])
    strange.inputs[0].domain = DOMAIN
    graph.graph.outputs = [strange]
    (change,) = inline_functions(graph).refused
    assert change.refused == "Constant says its value_string"
    assert [function.name for function in graph.to_proto().functions] == ["Strange"]


def test_nothing_to_write_out_is_one_error(finished, tmp_path, capsys):
    words = [finished[0], "--out", tmp_path / "bundle", "--inline"]
    code, captured = run_command(capsys, *words, app=export_cli)
    assert code == 2 and "--inline: the model calls no operator of ai.axform" in " ".join(captured.err.split())
    assert not (tmp_path / "bundle").exists()
