"""Random plans over all families: the rewritten graph computes what PyTorch computes with the plan applied."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from axform.exporters.baseline import export_baseline, named_outputs
from axform.exporters.export import rewrite
from axform.exporters.scoped_graph import ScopedGraph
from axform.toolchain.apply import apply_plan
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import FAMILIES, cpu_session, random_batch, random_plan, tiny_model


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_rewritten_graph_equals_applied_plan(exported, family, seed):
    loaded, baseline = exported[family]
    generator = random.Random(seed)
    plan = random_plan(loaded, generator)
    outputs = []
    batches = [random_batch(loaded, generator) for _ in range(3)]
    for heads, with_library in (("fold", False), ("pad", False), ("fold", True)):
        graph = ScopedGraph(baseline)
        rewrite(graph, plan, loaded.family, heads)
        optimized = cpu_session(graph.to_proto(), with_library)
        outputs.append([optimized.run(["logits"], {k: v.numpy() for k, v in batch.items()})[0] for batch in batches])
    with apply_plan(loaded.model, plan), torch.inference_mode():
        expected = [loaded.model(**batch).logits.numpy() for batch in batches]
    for folded, padded, by_kernel, wanted in zip(*outputs, expected, strict=True):
        np.testing.assert_allclose(folded, wanted, atol=1e-4, rtol=0)
        np.testing.assert_allclose(by_kernel, wanted, atol=1e-4, rtol=0)
        np.testing.assert_allclose(padded, folded, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_baseline_has_dynamic_shapes_and_the_models_names(exported, family):
    loaded, baseline = exported[family]
    assert [value.name for value in baseline.graph.input] == loaded.inputs
    for value in baseline.graph.input:
        assert [d.dim_param for d in value.type.tensor_type.shape.dim] == ["batch", "sequence"]
    plain = cpu_session(baseline)
    for sizes in ((1, 1), (1, 64), (7, 2)):
        batch = random_batch(loaded, random.Random(0), sizes)
        with torch.inference_mode():
            wanted = loaded.model(**batch).logits.numpy()
        np.testing.assert_allclose(
            plain.run(["logits"], {k: v.numpy() for k, v in batch.items()})[0], wanted, atol=1e-4, rtol=0
        )


def test_every_output_of_the_model_is_kept():
    loaded = tiny_model("bert")
    loaded.model.config.output_hidden_states = True
    proto = export_baseline(loaded)
    names = ["logits", "hidden_states.0", "hidden_states.1", "hidden_states.2"]
    assert [value.name for value in proto.graph.output] == names
    plan = random_plan(loaded, random.Random(5))
    graph = ScopedGraph(proto)
    rewrite(graph, plan, loaded.family)
    batch = random_batch(loaded, random.Random(0))
    with apply_plan(loaded.model, plan):
        expected = named_outputs(loaded.model, batch)
    results = cpu_session(graph.to_proto()).run(names, {k: v.numpy() for k, v in batch.items()})
    real = batch["attention_mask"].bool().numpy()
    for name, result in zip(names, results, strict=True):
        wanted = expected[name].numpy()
        if name != "logits":  # what stands at padded positions is nobody's answer
            result, wanted = result[real], wanted[real]
        np.testing.assert_allclose(result, wanted, atol=1e-4, rtol=0)


def test_exported_files_do_not_name_the_exporting_machine(exported):
    _, baseline = exported["bert"]
    assert b"site-packages" not in baseline.SerializeToString()
    assert b".py" not in baseline.SerializeToString()
