from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def library() -> Path:
    """The op library; tests that need it skip where it was not built."""
    from axform import custom_ops

    try:
        return custom_ops.get_library_path()
    except custom_ops.OpLibraryMissing as missing:
        pytest.skip(str(missing))
