"""The client answers texts as transformers does on the same model, and needs neither it nor torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import transformers
from axform.errors import AxformError
from axform.exporters.export import export
from axform.runtime import Prediction, load
from axform.toolchain.models import load_fine_tuned
from bundles import with_its_checksums
from support import BAD, FILLER, GOOD


@pytest.fixture(scope="module")
def unpruned(finished, tmp_path_factory) -> Path:
    """A bundle whose model is the run's baseline, so that transformers has the same one."""
    folder = tmp_path_factory.mktemp("client") / "bundle"
    export(finished[0], folder, step=0)
    return folder


@pytest.fixture(scope="module")
def texts() -> list[str]:
    random = np.random.default_rng(0)
    words = [*GOOD, *BAD, *FILLER, "neverseen"]
    return ["", *(" ".join(random.choice(words, length)) for length in random.integers(1, 90, 40))]


@pytest.fixture(scope="module")
def pipeline(finished):
    loaded = load_fine_tuned(finished[0] / "baseline")
    return transformers.pipeline("text-classification", model=loaded.model, tokenizer=loaded.tokenizer, device="cpu")


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_texts_are_answered_as_by_transformers(unpruned, texts, pipeline, batch_size):
    wanted = pipeline(texts, top_k=None, truncation=True)
    client = load(unpruned, "cpu", batch_size=batch_size)
    scores = client.scores(texts)
    assert scores.shape == (41, 2) and scores.dtype == np.float32
    for row, answer in zip(scores, wanted, strict=True):
        expected = {entry["label"]: entry["score"] for entry in answer}
        np.testing.assert_allclose(row, [expected[label] for label in client.labels], atol=1e-5, rtol=0)
    found = client(texts)
    assert [one.label for one in found] == [answer[0]["label"] for answer in wanted]
    assert [one.score for one in found] == pytest.approx([answer[0]["score"] for answer in wanted], abs=1e-5)


def test_pairs_are_answered_as_by_transformers(unpruned, texts, pipeline):
    pairs = list(zip(texts[1:25], reversed(texts[1:25]), strict=True))
    wanted = pipeline([{"text": a, "text_pair": b} for a, b in pairs], truncation=True)
    found = load(unpruned, "cpu")(pairs)
    assert [one.label for one in found] == [answer["label"] for answer in wanted]
    assert [one.score for one in found] == pytest.approx([answer["score"] for answer in wanted], abs=1e-5)


def test_texts_lose_their_beginning_where_the_tokenizer_says_so(unpruned, texts, pipeline, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(unpruned, tmp_path / "bundle"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"truncation_side": "left"}))
    monkeypatch.setattr(pipeline.tokenizer, "truncation_side", "left")
    wanted = pipeline(texts, truncation=True)
    assert [one.score for one in load(folder, "cpu")(texts)] == pytest.approx(
        [answer["score"] for answer in wanted], abs=1e-5
    )
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(AxformError, match=r"tokenizer_config\.json: damaged .*export again"):
        load(folder, "cpu")


def test_one_text_has_one_answer(unpruned):
    client = load(unpruned, "cpu")
    assert client("a great film") == client(["a great film"])[0]
    assert client(("a great film", "with a plot")) == client([("a great film", "with a plot")])[0]
    assert client([]) == [] and client.scores([]).shape == (0, 2)
    assert client("great superb lovely film").label != client("awful bleak dull film").label


def test_a_regression_has_values(unpruned, tmp_path):
    folder = Path(shutil.copytree(unpruned, tmp_path / "regression"))
    with_its_checksums(folder, labels=[])
    client = load(folder, "cpu")
    assert client("a great film") == Prediction("", float(client.logits(["a great film"])[0, 0]))


@pytest.mark.parametrize("wrong", [3, None, b"bytes", ("a", 1), ("a", "b", "c"), ("a",), ["nested"]])
def test_what_is_no_text(unpruned, wrong):
    with pytest.raises(AxformError, match=r"text 1: .* is neither a text nor a pair of texts"):
        load(unpruned, "cpu")(["good", wrong])


def test_bundles_without_a_tokenizer_of_their_own(unpruned, tmp_path):
    folder = Path(shutil.copytree(unpruned, tmp_path / "bundle"))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(AxformError, match=r"tokenizer\.json: cannot be read .*export again"):
        load(folder, "cpu")
    (folder / "tokenizer.json").unlink()
    manifest = json.loads((folder / "axform.json").read_text())
    del manifest["files"]["tokenizer.json"]
    (folder / "axform.json").write_text(json.dumps(manifest))
    with pytest.raises(AxformError, match="only transformers can make tokens for this model; use load_session"):
        load(folder, "cpu")


def test_a_client_imports_neither_torch_nor_transformers(unpruned):
    script = """
import sys
from axform.runtime import load
load(sys.argv[1])("a great film")
heavy = {"torch", "transformers", "onnx", "axform.exporters", "datasets", "pandas", "sklearn", "scipy"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", script, unpruned], check=True)
