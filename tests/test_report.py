"""The report: what it says, what it cannot be made to say, and how it looks in a browser."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from axform import quickstart
from axform.core.costs import encoder_parameters
from axform.core.plan import ApproximationPlan, ModelIdentity
from axform.core.targets import Target
from axform.report.page import rendered
from axform.report.plan_map import map_of
from axform.runtime.bundle import Bundle, GraphSize, RewriteSummary, StoredCodes, write_manifest
from axform.toolchain.run_folder import RunFolder
from support import plan_of, random_bits, random_plan, run_command, tiny_model

BROWSER = Path("/usr/bin/chromium-headless-shell")
HOSTILE = '<script>alert(1)</script>"\' onload="x" {{ 7 * 7 }} $x$ &lt; https://example.org/a.js'
WITHOUT_END = {"meta", "link", "br", "hr", "img"}


class Page(HTMLParser):
    """What a browser would make of a page: text, tags, attributes, and whether tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in WITHOUT_END and not self.get_starttag_text().endswith("/>"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.words.append(data)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def values(self, name: str) -> list[str]:
        return [value for _, found, value in self.attributes if found == name]


def timing(median: float) -> dict:
    return {"median": median, "p10": 0.9 * median, "p90": 1.2 * median, "p99": 1.5 * median}


def results(seed: int, word: str = "plain") -> dict:
    """Results of check, bench and layers that another seed gives other numbers; ``word`` wherever text may stand."""
    draw = random.Random(seed)
    numeric = {
        "samples": draw.randint(40, 90),
        "batches": draw.randint(3, 9),
        "max_abs_error": draw.uniform(1e-7, 9e-6),
        "worst_sample": draw.randint(100, 999),
        "worst_output": word,
        "tolerance": 1e-4,
        "changed": draw.random(),
    }
    task = {"metric": "accuracy", "samples": draw.randint(500, 5000), "baseline": draw.uniform(0.7, 0.8), "bound": 0.1}
    task |= {"model": task["baseline"] + 0.01, "low": draw.uniform(-0.02, 0), "high": draw.uniform(0.02, 0.04)}
    shapes = []
    for batch, sequence in ((1, 32), (8, 32)):
        before, after = draw.uniform(40, 60), draw.uniform(20, 30)
        shapes.append(
            {"batch": batch, "sequence": sequence, "runs": draw.randint(20, 60), "baseline": timing(before),
             "model": timing(after), "ratio": before / after, "ratio_low": 0.7 + 0.1 * batch, "ratio_high": 3.5,
             "same_form": timing(0.9 * before), "plan_ratio": 0.9 * before / after, "plan_low": 1.0, "plan_high": 3.0}
        )  # fmt: skip
    common = {"provider": "CPU", "threads": draw.randint(2, 64), "machine": word, "versions": {word: word}}
    parts = [{"part": word, "baseline": draw.uniform(1, 9), "model": draw.uniform(0, 1), "done": word}]
    operators = [{"operator": word, "baseline_calls": 3, "model_calls": 2, "baseline": 2.5, "model": 1.25}]
    return {
        "check": {"provider": "CPU", "numeric": numeric, "task": task, "passed": True},
        "bench": common | {"shapes": shapes, "load_seconds": (0.5, 0.25)},
        "layers": common
        | {"batch": 1, "sequence": 32, "runs": 9, "parts": parts, "operators": operators}
        | {"plain": (9.5, 4.5), "profiled": (9.75, 4.75)},
    }


def with_values(bundle: Path, **values) -> Bundle:
    manifest = Bundle(bundle).manifest.model_copy(update=values)
    write_manifest(bundle, manifest)
    return Bundle(bundle)


def full(bundle: Path, seed: int, word: str = "plain") -> Bundle:
    draw = random.Random(seed)
    code = StoredCodes(
        tensor=word, module=word, shape=(4, 4), bits=3, storage_bits=4.0, group=draw.randint(8, 999),
        bytes=draw.randint(1000, 9999), scales=(0.1, 0.2), largest=0.6,
    )  # fmt: skip
    return with_values(
        bundle,
        results=results(seed, word),
        task=word,
        labels=[word, "b"],
        stays_float=[word],
        axform_version=word,
        rewrites=[RewriteSummary(rewrite=word, changes=[(word, word)], nodes_removed=7, parameters_removed=seed)],
        codes=[code],
        baseline_size=GraphSize(parameters=draw.randint(10**6, 10**7), nodes=300, bytes=8_000_000),
        model_size=GraphSize(parameters=draw.randint(10**5, 10**6), nodes=200, bytes=draw.randint(10**6, 4 * 10**6)),
    )


@pytest.mark.parametrize("seed", [1, 2])
def test_what_was_measured_is_what_is_said(bundle_copy, seed):
    bundle = full(bundle_copy, seed)
    said, found, manifest = Page(rendered(bundle)).text, results(seed), bundle.manifest
    task, shapes = found["check"]["task"], found["bench"]["shapes"]
    before, after = manifest.baseline_size, manifest.model_size
    ratios = sorted(shape["ratio"] for shape in shapes)
    interval = f"{100 * task['low']:+.2f} to {100 * task['high']:+.2f}"
    metric = f"{100 * task['baseline']:.2f} → {100 * task['model']:.2f}"
    smaller = f"{100 - 100 * after.bytes / before.bytes:.0f} % smaller"
    assert (
        f"{ratios[0]:.2f}x to {ratios[1]:.2f}x faster, {smaller}, accuracy {metric} ({interval}), check passes" in said
    )
    for shape in shapes:
        assert (
            f"batch {shape['batch']}, 32 tokens {shape['baseline']['median']:.1f} {shape['model']['median']:.1f}"
            in said
        )
        assert f"{shape['plan_ratio']:.2f}x (1.00 to 3.00)" in said
    numeric, codes = found["check"]["numeric"], manifest.codes[0]
    for expected in (
        f"{numeric['max_abs_error']:.1e} 1.0e-04 {numeric['samples']} in {numeric['batches']} batches",
        f"{100 * numeric['changed']:.1f} %",
        f"2 shapes (1 not sure), {found['bench']['threads']} threads, CPU",
        f"{before.parameters:,} {after.parameters:,}",
        f"3 4 {codes.group} 1 {codes.bytes:,} bytes",
        f"--threads {found['bench']['threads']} --provider cpu --layers",
    ):
        assert expected in said


@pytest.mark.parametrize("seed", range(6))
def test_the_picture_shows_the_plan(seed):
    """Every cell against what the plan itself says of its target; together the shares of the layers are its parameters."""
    loaded, generator = tiny_model("bert", layers=3), random.Random(seed)
    plan = random_bits(random_plan(loaded, generator), generator)
    drawn = map_of(plan)
    for number, row in enumerate(drawn.layers):
        for kind, block in (("attn.head", row.heads), ("attn.in.group", row.inputs), ("ffn.group", row.neurons)):
            targets = [Target(number, kind, index) for index in range(plan.grid.count(kind))]
            if plan.removes(targets[0].parent):
                assert block.cells == () and "removed" in block.description
                continue
            for cell, target in zip(block.cells, targets, strict=True):
                bits = None if kind == "attn.in.group" else plan.bits_of(target)
                kept = "kept" if bits is None else str(bits.bits)
                assert cell.state == ("removed" if plan.removes(target) else kept)
                assert cell.width == plan.grid.width(target)
    whole = encoder_parameters(ApproximationPlan.empty(plan.model, plan.group_size))
    assert sum(row.left for row in drawn.layers) * whole / 3 == pytest.approx(encoder_parameters(plan))
    assert drawn.embeddings.state == ("kept" if plan.word_embeddings is None else str(plan.word_embeddings.bits))


def test_a_model_of_very_many_groups_is_drawn_in_few_cells():
    shape = {"num_layers": 300, "num_heads": 4, "hidden_size": 512, "intermediate_size": 2048}
    model = ModelIdentity(family="bert", **shape)
    removed = [f"layer.0.ffn.group.{index}" for index in range(0, 2048, 2)] + ["layer.1.ffn.group.0"]
    drawn = map_of(plan_of(model, 1, *removed))
    alternating, one = drawn.layers[0].neurons.cells, drawn.layers[1].neurons.cells
    assert [(cell.state, cell.width) for cell in alternating] == [("kept", 1024), ("removed", 1024)]
    assert [(cell.state, cell.width) for cell in one] == [("removed", 1), ("kept", 2047)]
    assert len(drawn.layers) + drawn.omitted == 300 and drawn.omitted > 0


def test_text_from_a_manifest_is_text(bundle_copy):
    page = Page(rendered(full(bundle_copy, 1, HOSTILE)))
    honest = Page(rendered(full(bundle_copy, 1)))
    drawn = {"g", "path", "use", "text", "defs"}  # of which a chart with longer labels may need more or less
    assert page.tags.keys() == honest.tags.keys() and page.tags["script"] == 0
    assert all(page.tags[tag] == honest.tags[tag] for tag in page.tags.keys() - drawn)
    names = {name for _, name, _ in page.attributes}
    assert names == {name for _, name, _ in honest.attributes} and not any(name.startswith("on") for name in names)
    assert "alert(1)" in page.text and "{{ 7 * 7 }}" in page.text
    command = page.text.split("To make it again ")[1].split(" axform check ")[0]
    assert shlex.split(command)[5] == HOSTILE
    places = [*page.values("href"), *page.values("src"), *page.values("xlink:href")]
    assert all(place.startswith("#") or place == "data:," for place in places)


def test_ids_are_unique_and_links_lead_somewhere(finished):
    page = Page(rendered(Bundle(finished[1]), finished[0]))
    ids = Counter(page.values("id"))
    assert max(ids.values()) == 1
    links = [*page.values("href"), *page.values("xlink:href")]
    clips = [f"#{found}" for value in page.values("clip-path") for found in re.findall(r"url\(#(.*?)\)", value)]
    assert {link[1:] for link in (*links, *clips) if link.startswith("#")} <= ids.keys()


def test_the_printed_command_times_layers_at_the_same_shape(bundle_copy):
    found = results(1)
    shape = found["bench"]["shapes"][0]
    found["bench"]["shapes"] = [shape | {"batch": batch, "sequence": 128} for batch in (8, 1)]
    for batch, listed in ((8, "8,1"), (1, "1,8")):
        found["layers"] |= {"batch": batch, "sequence": 128}
        assert f"--batch {listed} --seq 128" in Page(rendered(with_values(bundle_copy, results=found))).text


def test_what_is_missing_is_named_with_its_command(tiny_bundle):
    said = Page(rendered(Bundle(tiny_bundle))).text
    name = tiny_bundle.name
    for command in (f"axform check {name}", f"axform bench {name}", f"axform bench {name} --layers"):
        assert f"This brings it: {command}" in said
    assert "not checked yet" in said and "faster" not in said
    assert f"axform-export MODEL --plan plan.json --task text-classification --data DATA --out {name}" in said


@pytest.mark.parametrize(
    "damaged",
    [
        {"check": {"numeric": 1}, "bench": {"shapes": []}, "layers": {"parts": "none"}},
        {"check": {}, "bench": {"shapes": [{"batch": 1}]}, "layers": {}},
    ],
)
def test_results_that_cannot_be_read_count_as_missing(bundle_copy, damaged):
    assert Page(rendered(with_values(bundle_copy, results=damaged))).text.count("This brings it: axform") == 3


def test_figures_without_a_number(bundle_copy):
    """They stand in the tables; a chart that cannot hold them is left out."""
    found = results(1)
    found["bench"]["shapes"][0]["ratio"] = "Infinity"
    found["bench"]["shapes"][1]["model"]["p99"] = "NaN"
    found["check"]["numeric"]["max_abs_error"] = "Infinity"
    found["layers"]["parts"][0]["model"] = "-Infinity"
    zero = GraphSize(parameters=0, nodes=0, bytes=0)
    page = Page(rendered(with_values(bundle_copy, results=found, baseline_size=zero, model_size=zero)))
    assert "check FAILS" in page.text and page.tags["figure"] == 1


def test_the_same_bundle_gives_the_same_bytes(bundle_copy):
    bundle = full(bundle_copy, 3)
    code = "import sys; from pathlib import Path; from axform.runtime.bundle import Bundle; "
    code += "from axform.report.page import rendered; sys.stdout.write(rendered(Bundle(Path(sys.argv[1]))))"
    other = subprocess.run(
        [sys.executable, "-c", code, str(bundle_copy)],
        env={**os.environ, "PYTHONHASHSEED": "7", "PYTHONIOENCODING": "utf-8", "TZ": "Asia/Tokyo"},
        capture_output=True, check=True, cwd="/",
    )  # fmt: skip
    assert other.stdout.decode() == rendered(bundle)


def test_a_run_brings_its_rounds_and_trials(finished):
    run, path = finished
    bundle = Bundle(path)
    page, bare = Page(rendered(bundle, run)), Page(rendered(bundle))
    record = RunFolder(run).read_record()
    trials = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()[2:]]
    rounds = [RunFolder(run).round(number).read_record() for number in range(record.rounds + 1)]
    assert all(f"{100 * one.change.after:.2f}" in page.text for one in rounds)
    assert all(f"{trial['element']} {trial['change']}" in page.text for trial in trials)
    accepted = sum(trial["verdict"] == "prune" for trial in trials)
    assert f"Trials of round 1: what may go: {accepted} accepted" in page.text
    assert page.tags["figure"] >= bare.tags["figure"] + 3
    asks = f"axform report {path.name} --run RUN"
    assert asks in bare.text and asks not in page.text


def test_the_printed_command_asks_for_the_same_run(capsys, finished, monkeypatch):
    options = RunFolder(finished[0]).read_record().options
    command = Page(rendered(Bundle(finished[1]))).text.split("To make it again ")[1].split(" axform-export")[0]
    asked = []

    def remember(options, *_, **__):
        asked.append(options)
        raise KeyboardInterrupt

    monkeypatch.setattr("axform.toolchain.optimize.optimize", remember)
    run_command(capsys, *shlex.split(command)[1:])
    changed = {"data": "DATA", "model": Path(options.model).name}
    assert asked[0] == options.model_copy(update=changed)


def test_the_command_writes_here_and_leaves_the_bundle_as_it_was(capsys, bundle_copy, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda place: opened.append(place) or False)
    before = {path: path.read_bytes() for path in bundle_copy.iterdir()}
    code, captured = run_command(capsys, "report", bundle_copy, "--open")
    assert code == 0, captured.err
    assert "bundle-report.html" in captured.out and "no browser could be started" in captured.err
    assert opened == [(here / "bundle-report.html").as_uri()]
    assert {path: path.read_bytes() for path in bundle_copy.iterdir()} == before
    Bundle(bundle_copy).verify()
    code, _ = run_command(capsys, "report", bundle_copy, "--out", "other.html")
    assert code == 0 and (here / "other.html").read_bytes() == (here / "bundle-report.html").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{empty}"], "not a bundle (no axform.json)"),
        (["{bundle}", "--out", "none/a.html"], "--out none/a.html: there is no folder none"),
        (["{bundle}", "--out", "{empty}"], "is a folder; name a file"),
        (["{bundle}", "--out", "{bundle}/model.onnx"], "is a file of the bundle itself"),
        (["{bundle}", "--run", "{empty}"], "not a run folder"),
        (["{bundle}", "--run", "{run}"], "is not the run that"),
    ],
)
def test_bad_arguments(capsys, bundle_copy, finished, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    places = {"empty": tmp_path / "empty", "bundle": bundle_copy, "run": finished[0]}
    code, captured = run_command(capsys, "report", *(argument.format(**places) for argument in arguments))
    assert code == 2 and message in " ".join(captured.err.split())
    assert not list(tmp_path.glob("*.html"))
    Bundle(bundle_copy).verify()


def test_a_plan_that_came_from_no_run(capsys, bundle_copy, finished, tmp_path):
    with_values(bundle_copy, step=None)
    code, captured = run_command(capsys, "report", bundle_copy, "--run", finished[0], "--out", tmp_path / "a.html")
    assert code == 2 and "was exported from a plan, not from a run" in " ".join(captured.err.split())


@pytest.mark.parametrize("line", ["", "{}", '{"settings": {}}', '{"settings": {}}\n{"trial": "x"}'])
def test_a_damaged_journal(capsys, finished, tmp_path, line):
    run = Path(shutil.copytree(finished[0], tmp_path / "run"))
    (run / "trials.jsonl").write_text(line)
    code, captured = run_command(capsys, "report", finished[1], "--run", run, "--out", tmp_path / "a.html")
    assert code == 2 and "trials.jsonl: damaged" in " ".join(captured.err.split())


@pytest.mark.parametrize("module", ["jinja2", "matplotlib.figure"])
def test_without_its_libraries(capsys, tiny_bundle, tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    code, captured = run_command(capsys, "report", tiny_bundle, "--out", tmp_path / "a.html")
    assert code == 2 and "pip install 'axform[report]'" in captured.err
    quickstart._report(Bundle(tiny_bundle), tmp_path / "a.html", tmp_path)
    assert "no report: " in capsys.readouterr().err and not (tmp_path / "a.html").exists()


def test_the_quickstart_ends_with_a_report(capsys, finished, tmp_path):
    quickstart._report(Bundle(finished[1]), tmp_path / "report-speed.html", finished[0])
    assert "report-speed.html" in capsys.readouterr().out.replace("\n", "")
    assert "Trials of round 1" in (tmp_path / "report-speed.html").read_text()


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not BROWSER.exists():
        pytest.skip(f"no browser at {BROWSER}")
    with sync_api.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=str(BROWSER), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize(("scheme", "word"), [("light", "plain"), ("dark", HOSTILE + "x" * 300)])
def test_in_a_browser(browser, bundle_copy, tmp_path, scheme, word):
    """Nothing is loaded or run, nothing complains, and a phone does not have to scroll sideways."""
    file = tmp_path / "report.html"
    file.write_text(rendered(full(bundle_copy, 1, word)), encoding="utf-8")
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme, offline=True)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    root = "document.documentElement"
    assert page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")
    colours = {
        selector: page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).{name}")
        for selector, name in (
            ("body", "backgroundColor"),
            (".picture text", "fill"),
            (".cell.kept", "backgroundColor"),
        )
    }
    back, letters = (brightness(colours[name]) for name in ("body", ".picture text"))
    assert (back > 200 and letters < 130) if scheme == "light" else (back < 60 and letters > 130)
    assert page.evaluate(
        "[...document.querySelectorAll('.picture svg')].every(one => one.getBoundingClientRect().height > 40)"
    )
    assert said == [] and asked == [file.as_uri()]
    context.close()


def brightness(colour: str) -> float:
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3
