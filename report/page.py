"""The page: sections, the picture of the plan and the template together, as one file that asks for nothing else.

The same bundle and run give the same bytes. What a manifest says is somebody else's text, which the template escapes; and
the page's own policy lets a browser neither run a script nor load anything, whatever stands in it.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import AxformError
from ..files import real_path, write_text
from ..plots import import_matplotlib
from ..runtime.bundle import Bundle
from .commands import commands_of
from .plan_map import map_of
from .recorded import recorded_in
from .search import story_of
from .search_section import search_section
from .sections import machine_section, proof_section, size_section
from .tables import percent
from .time_sections import latency_section, layers_section
from .verdict import cards_of, verdict_of, what_it_is

__all__ = ["check_installed", "default_file", "rendered", "write_report"]

_REMEDY = "run `pip install 'axform[report]'`"


def check_installed() -> None:
    """Say before any work what is missing.

    Raises:
        AxformError: Jinja2 or matplotlib is not installed.
    """
    _import_jinja2()
    try:
        import_matplotlib()
    except AxformError:
        raise AxformError(f"the report draws with matplotlib, which is not installed; {_REMEDY}.") from None


def default_file(bundle: Path) -> Path:
    """In the current folder. Not in the bundle, which holds what was sealed and nothing else, and may be read-only."""
    return Path(f"{real_path(bundle).name}-report.html")


def write_report(bundle: Bundle, file: Path, run: Path | None = None) -> None:
    """Write the report of a bundle in one step.

    Args:
        run: the run folder that it was exported from, for the rounds and trials of its search.

    Raises:
        AxformError: a library is not installed, another run, or a file that cannot be written or is one of the bundle's.
    """
    inside = [bundle.path / name for name in (*bundle.manifest.files, "axform.json", ".axform")]
    if real_path(file) in map(real_path, inside):
        raise AxformError(f"--out {file}: is a file of the bundle itself; name another one.")
    write_text(file, rendered(bundle, run))


def rendered(bundle: Bundle, run: Path | None = None) -> str:
    """The report's HTML; arguments and errors are those of `write_report`."""
    check_installed()
    manifest, name = bundle.manifest, real_path(bundle.path).name
    recorded = recorded_in(manifest)
    story = None if run is None else story_of(run, bundle)
    commands = commands_of(name, manifest, recorded)
    template = _environment().get_template("page.html.j2")
    return template.render(
        name=name,
        verdict=verdict_of(manifest, recorded),
        what=what_it_is(manifest),
        cards=cards_of(manifest, recorded),
        plan=map_of(manifest.plan),
        plan_json=manifest.plan.model_dump_json(indent=2),
        sections=[
            proof_section(name, recorded.check),
            latency_section(name, recorded.bench),
            layers_section(name, recorded.layers),
            search_section(name, manifest, recorded, story),
            size_section(manifest),
            machine_section(manifest, recorded, name, commands),
        ],
        precision=manifest.precision,
        axform_version=manifest.axform_version,
    )


def _environment() -> Any:
    jinja2 = _import_jinja2()
    texts = {
        path.name: path.read_text(encoding="utf-8")
        for path in files(__package__).joinpath("templates").iterdir()
        if path.name.endswith((".j2", ".css"))
    }
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(texts),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    return environment


def _import_jinja2() -> Any:
    try:
        import jinja2
    except ImportError:
        raise AxformError(f"the report is written with Jinja2, which is not installed; {_REMEDY}.") from None
    return jinja2
