"""The documents point at what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_scripts_exist(document):
    text = document.read_text(encoding="utf-8")
    linked = [document.parent / target for target in re.findall(r"\]\((?!http)([^)#]+)", text)]
    named = [ROOT / script for script in re.findall(r"\b(?:samples|custom_ops)/[\w/]+\.py", text)]
    assert [path for path in (*linked, *named) if not path.exists()] == []


def test_the_readme_leads_to_every_document():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in DOCUMENTS if path.name != "README.md" and f"{path.name})" not in readme] == []
