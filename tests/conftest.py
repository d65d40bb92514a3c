from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

# Tiny models gain nothing from threads, and lose much where other processes hold the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # some tests import onnxruntime themselves


# The server needs processes that share a socket.
collect_ignore_glob = [] if os.name == "posix" else ["test_serving_*.py", "test_deploy.py"]


@pytest.fixture(scope="session")
def exported() -> dict:
    """Family -> (tiny model, its baseline graph); exporting takes seconds, so each is exported once."""
    from axform.exporters.baseline import export_baseline
    from support import FAMILIES, tiny_model

    result = {}
    for family in FAMILIES:
        loaded = tiny_model(family)
        result[family] = (loaded, export_baseline(loaded))
    return result


@pytest.fixture(scope="session")
def sentiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from support import save_sentiment

    return save_sentiment(tmp_path_factory.mktemp("sentiment"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, sentiment: Path) -> tuple[Path, Path]:
    """(run, bundle) of a small, finished run that pruned something. Tests must not change them."""
    from axform.exporters.export import export
    from axform.toolchain.optimize import optimize
    from axform.toolchain.options import OptimizeOptions
    from support import save_pretrained_only

    folder = tmp_path_factory.mktemp("finished")
    model = save_pretrained_only(folder / "pretrained", layers=3)
    options = OptimizeOptions(
        model=str(model),
        task="text-classification",
        data=str(sentiment),
        learning_rate=3e-3,
        baseline_epochs=6,
        final_epochs=1,
        group_size=16,
        max_drop=0.05,
        prune_threshold=0.1,
        approximate_threshold=0.3,
    )
    optimize(options, folder / "run")
    export(folder / "run", folder / "bundle")
    return folder / "run", folder / "bundle"


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bundle with sign matching, without a run. Tests must not change it."""
    from bundles import make_bundle

    return make_bundle(tmp_path_factory.mktemp("tiny_bundle"))


@pytest.fixture
def bundle_copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle, to be changed."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
