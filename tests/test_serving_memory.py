"""A server that loads its bundles again does not grow, and answers whoever came before."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest
from axform.serving import repository as repositories
from axform.serving.repository import Repository
from axform.serving.runners import Runners
from axform.serving.settings import ServeSettings
from serving_process import with_tokenizer


@pytest.mark.parametrize("change", ["load", "unload"])
def test_a_session_that_is_not_served_any_more_is_gone_at_once(tiny_bundle, tmp_path, monkeypatch, change):
    """Python's search for circles is off: in a server it may not come for hours."""
    bundle = with_tokenizer(tiny_bundle, tmp_path / "bundle")
    given_back = []
    monkeypatch.setattr(repositories, "give_back", lambda: given_back.append(change))
    monkeypatch.setattr(repositories, "_UNTIL_FREED", 0.01)

    async def serve() -> list[weakref.ref]:
        runners = Runners(1)
        repository = Repository(ServeSettings(bundles={"m": str(bundle)}), runners)
        await repository.load("m")
        model = repository.model("m")
        await model.classify(["a b"], None)
        gone = [weakref.ref(part) for part in (model, model._session, model._batcher)]
        del model
        await getattr(repository, change)("m")
        await asyncio.sleep(0.2)
        runners.close()
        return gone

    gc.collect()
    gc.disable()
    try:
        assert [part() for part in asyncio.run(serve())] == [None] * 3
    finally:
        gc.enable()
    assert given_back == [change]


@pytest.mark.parametrize("change", ["load", "unload"])
def test_a_text_whose_tokens_are_made_meanwhile_is_answered(tiny_bundle, tmp_path, change):
    bundle = with_tokenizer(tiny_bundle, tmp_path / "bundle")

    async def serve() -> tuple[tuple[int, ...], int]:
        runners = Runners(1)
        repository = Repository(ServeSettings(bundles={"m": str(bundle)}), runners)
        await repository.load("m")
        model = repository.model("m")
        changed, encode = threading.Event(), model._tokenization.encode

        def encode_late(texts: list[str]) -> object:
            assert changed.wait(30)
            return encode(texts)

        model._tokenization.encode = encode_late
        asked = asyncio.create_task(model.classify(["good " * 1000], None))
        await asyncio.sleep(0)
        await getattr(repository, change)("m")
        changed.set()
        scores = await asyncio.wait_for(asked, 30)
        runners.close()
        return scores.shape, repository.entry("m").counts.waiting

    assert asyncio.run(serve()) == ((1, 2), 0)
