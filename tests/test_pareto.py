"""All rounds of a run side by side, any of them exported; and what a plan leaves of a model."""

from __future__ import annotations

import json
import random
import sys
from xml.etree import ElementTree

import pytest
from axform.core.costs import encoder_flops, encoder_parameters, file_flops
from axform.core.plan import ApproximationPlan
from axform.exporters.export import export
from axform.exporters.rewrites import prune_heads, shrink_groups, skip_blocks
from axform.exporters.scoped_graph import ScopedGraph
from axform.runtime.bundle import Bundle
from axform.runtime.parity import check_bundle
from axform.toolchain.run_folder import RunFolder
from support import plan_of, random_plan, run_command, tiny_model


def test_every_round_is_shown_drawn_and_can_be_exported(capsys, finished, tmp_path):
    run, picture, figures = finished[0], tmp_path / "rounds.svg", tmp_path / "rounds.json"
    code, captured = run_command(capsys, "pareto", run, "--seq", 16, "--plot", picture, "--json", figures)
    assert code == 0, captured.err
    record = RunFolder(run).read_record()
    states = json.loads(figures.read_text())
    assert [state["step"] for state in states] == list(range(record.rounds + 1))
    assert states[0]["ratio"] == 1 and states[0]["changes"] == 0
    assert states[record.round]["is_accepted"] and states[record.round]["bytes"] < states[0]["bytes"]
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")
    assert "rows that no trial saw" in " ".join(captured.out.split())

    bundle, _ = export(run, tmp_path / "zero", step=0)
    assert bundle.manifest.step == 0 and bundle.manifest.plan.changes() == 0
    assert check_bundle(bundle).task.model == check_bundle(bundle).task.baseline
    assert Bundle(finished[1]).manifest.step == record.round


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plot", "none/rounds.svg"], "--plot none/rounds.svg: there is no folder none"),
        (["--seq", "16", "--plot", "rounds.docx"], "name a file that ends in .svg, .png or .pdf"),
        (["--seq", "4096"], "the model takes at most"),
        (["--batch", "0"], "--batch 0: give a whole number from 1 on"),
    ],
)
def test_bad_arguments_of_pareto(capsys, finished, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, captured = run_command(capsys, "pareto", finished[0], *arguments)
    assert code == 2 and message in " ".join(captured.err.split())


def test_a_plot_without_matplotlib(capsys, finished, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, captured = run_command(capsys, "pareto", finished[0], "--plot", tmp_path / "a.svg")
    assert code == 2 and "pip install 'axform[plot]'" in captured.err


@pytest.mark.parametrize("seed", range(6))
def test_parameters_are_those_that_the_rewrites_leave(exported, seed):
    loaded, baseline = exported["bert"]
    plan = random_plan(loaded, random.Random(seed))
    nothing = ApproximationPlan.empty(plan.model, plan.group_size)
    graph = ScopedGraph(baseline)
    removed = sum(
        rewrite(graph, plan, loaded.family).parameters_removed for rewrite in (skip_blocks, prune_heads, shrink_groups)
    )
    assert encoder_parameters(nothing) - encoder_parameters(plan) == removed


def test_flops_by_hand():
    """Two layers of 32 features, 4 heads, 64 neurons, at 10 tokens."""
    loaded = tiny_model("bert")
    plan = ApproximationPlan.empty(loaded.identity(), 8)
    attention, feed_forward = 2 * 10 * 4 * 32 * 32 + 2 * 2 * 10 * 10 * 32, 2 * 10 * 2 * 32 * 64
    assert encoder_flops(plan, 10) == 2 * (attention + feed_forward)
    removed = ("layer.0.ffn", "layer.1.attn.head.0", "layer.1.attn.head.2", "layer.1.attn.in.group.0")
    plan = plan_of(loaded.identity(), 8, *removed, "layer.1.attn 4 majority")
    halved = 2 * 10 * (3 * 24 * 16 + 16 * 32) + 2 * 2 * 10 * 4 * 16
    assert encoder_flops(plan, 10) == attention + halved + feed_forward


def test_flops_of_a_file_by_hand():
    """It computes keys and values of the last attention for all 10 tokens, and all else there and behind it for one."""
    identity = tiny_model("bert").identity()
    attention, feed_forward = 2 * 10 * 4 * 32 * 32 + 2 * 2 * 10 * 10 * 32, 2 * 10 * 2 * 32 * 64
    last, one_token = 2 * 10 * 2 * 32 * 32 + 2 * 2 * 32 * 32 + 2 * 2 * 10 * 32, feed_forward // 10
    plan = ApproximationPlan.empty(identity, 8)
    assert file_flops(plan, 10) == attention + feed_forward + last + one_token
    assert file_flops(plan_of(identity, 8, "layer.1.attn"), 10) == last + 2 * one_token
    assert file_flops(plan_of(identity, 8, "layer.0.attn", "layer.1.attn"), 10) == 2 * one_token
    matched = plan_of(identity, 8, "layer.1.attn 4 majority")
    projections, chosen = 2 * 10 * 3 * 32 * 32 + 2 * 32 * 32, 2 * 2 * 10 * 4 * 32
    assert file_flops(matched, 10) == attention + feed_forward + projections + chosen + one_token
