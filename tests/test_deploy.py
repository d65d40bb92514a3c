"""The files in samples/deploy: what they install is enough to serve, and they ask for what the server offers."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from axform.cli import app
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from serving_process import serving, with_tokenizer

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

pytest.importorskip("uvicorn")
pytest.importorskip("tritonclient.grpc")
ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "samples" / "deploy"
DOCKERFILES = ["Dockerfile.cpu", "Dockerfile.gpu"]
BLOCKER = """
import sys
from importlib.machinery import PathFinder

class Rest:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {blocked} else PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [Rest if finder is PathFinder else finder for finder in sys.meta_path]
"""


def requirements() -> list[Requirement]:
    lines = (DEPLOY / "requirements-serve.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def installed_with(wanted: list[Requirement]) -> set[str]:
    """The distributions that pip would install for ``wanted``, by their normal names."""
    found: set[tuple[str, frozenset[str]]] = set()
    while wanted:
        requirement = wanted.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in found:
            continue
        found.add(key)
        for line in importlib.metadata.requires(key[0]) or []:
            needed = Requirement(line)
            extras = ["", *requirement.extras]
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                wanted.append(needed)
    return {name for name, _ in found}


def modules_of_others(distributions: set[str]) -> set[str]:
    """The importable names of everything else that is installed here."""
    owners = {
        module: {canonicalize_name(name) for name in names}
        for module, names in importlib.metadata.packages_distributions().items()
    }
    return {module for module, names in owners.items() if not names & (distributions | {"axform"})}


def test_the_list_is_enough_to_serve(tiny_bundle, tmp_path, monkeypatch):
    runtimes = {"onnxruntime", "onnxruntime-gpu"} & {
        canonicalize_name(found.metadata["Name"]) for found in importlib.metadata.distributions()
    }
    distributions = installed_with([*requirements(), *map(Requirement, runtimes)])
    assert not distributions & {"torch", "transformers", "axform", "onnx", "pandas", "scipy"}
    blocked = modules_of_others(distributions)
    assert {"torch", "transformers", "onnx", "pytest"} <= blocked
    (tmp_path / "sitecustomize.py").write_text(BLOCKER.format(blocked=sorted(blocked)), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))
    outcome = subprocess.run([sys.executable, "-c", "import transformers"], capture_output=True, text=True, check=False)
    assert "No module named 'transformers'" in outcome.stderr

    bundle = with_tokenizer(tiny_bundle, tmp_path / "tiny")
    with serving(bundle) as server:
        body = json.dumps({"texts": ["a good film"]}).encode()
        with urllib.request.urlopen(f"http://{server.http}/v1/models/tiny/classify", body, timeout=10) as answer:
            assert len(json.loads(answer.read())["predictions"]) == 1
        with urllib.request.urlopen(f"http://{server.http}/metrics", timeout=10) as answer:
            assert b'axform_requests_total{model="tiny",outcome="success",worker="0"} 1.0' in answer.read()
        assert server.stop() == 0
    script = "import sys; from axform.cli import main; main()"
    subprocess.run([sys.executable, "-c", script, "check", str(bundle)], check=True, capture_output=True)


def test_the_list_has_the_bounds_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ours = {str(Requirement(line)) for line in (*project["dependencies"], *project["optional-dependencies"]["serve"])}
    assert {str(requirement) for requirement in requirements()} <= ours
    assert {str(Requirement(line)) for line in project["optional-dependencies"]["serve"]} <= set(
        map(str, requirements())
    )


def serve_options(arguments: list[str]) -> dict[str, Any]:
    """As `axform serve` reads them; fails where it does not know one."""
    command: Any = typer.main.get_command(app)
    return dict(command.commands["serve"].make_context("serve", list(arguments)).params)


def entrypoint(dockerfile: str) -> list[str]:
    text = (DEPLOY / dockerfile).read_text(encoding="utf-8")
    words: list[str] = json.loads(re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)[-1])
    assert words[:2] == ["axform", "serve"]
    return words[2:]


def patience(arguments: list[str]) -> float:
    """Seconds that the server may take to end."""
    from axform.serving import supervisor

    return serve_options(arguments)["drain_delay"] + supervisor.DRAIN_SECONDS + supervisor._KILL_AFTER


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_an_image_holds_what_the_list_says_and_runs_as_nobody(dockerfile):
    text = (DEPLOY / dockerfile).read_text(encoding="utf-8")
    options = serve_options([*entrypoint(dockerfile), "/bundles/model"])
    assert options["host"] == "0.0.0.0"
    assert f"EXPOSE {options['port']} {options['grpc_port']}" in text
    assert f"http://127.0.0.1:{options['port']}/v2/health/ready" in text
    last = text.rpartition("\nFROM ")[2]
    assert re.search(r"^USER 10001:10001$", last, re.MULTILINE) and "pip install" not in last
    installed = re.findall(r"pip install ((?:.|\\\n)*?)(?:\n[^ ]|\\\n +&&)", text)
    assert len(installed) == 2 and "-r /requirements/requirements-serve.txt" in installed[0]
    assert "--no-deps" in installed[1]
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in source.split())


def test_compose_asks_for_what_the_server_offers():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    axform = services["axform"]
    arguments = [*entrypoint(Path(axform["build"]["dockerfile"]).name), *axform["command"]]
    options = serve_options(arguments)
    assert [port.rpartition(":")[2] for port in axform["ports"]] == [str(options["port"]), str(options["grpc_port"])]
    assert all(port.startswith("127.0.0.1:") for port in axform["ports"])
    (mount,) = axform["volumes"]
    assert mount["read_only"] and options["bundles"][0].startswith(mount["target"])
    assert float(axform["stop_grace_period"].removesuffix("s")) >= patience(arguments)
    assert options["workers"] <= float(axform["deploy"]["resources"]["limits"]["cpus"])
    configs = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["configs"]
    (scrape,) = yaml.safe_load(configs["prometheus"]["content"])["scrape_configs"]
    assert scrape["static_configs"][0]["targets"] == [f"axform:{options['port']}"]


def test_kubernetes_asks_for_what_the_server_offers():
    documents = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")))
    kinds = {document["kind"]: document for document in documents}
    pod = kinds["Deployment"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    arguments = [*entrypoint("Dockerfile.cpu"), *container["args"]]
    options = serve_options(arguments)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": options["port"], "grpc": options["grpc_port"]}
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(options["port"])
    assert pod["spec"]["terminationGracePeriodSeconds"] >= patience(arguments)
    ready, live = container["readinessProbe"], container["livenessProbe"]
    assert ready["httpGet"] == container["startupProbe"]["httpGet"] == {"path": "/v2/health/ready", "port": "http"}
    assert live["httpGet"] == {"path": "/v2/health/live", "port": "http"}
    longest_look = (ready["periodSeconds"] + ready["timeoutSeconds"]) * ready["failureThreshold"]
    assert longest_look < options["drain_delay"]
    (volume,) = container["volumeMounts"]
    assert volume["readOnly"] and options["bundles"][0].startswith(volume["mountPath"])
    assert container["securityContext"]["readOnlyRootFilesystem"] and pod["spec"]["securityContext"]["runAsNonRoot"]
    labels = pod["metadata"]["labels"]
    assert kinds["Deployment"]["spec"]["selector"]["matchLabels"] == labels == kinds["Service"]["spec"]["selector"]
    assert {port["targetPort"] for port in kinds["Service"]["spec"]["ports"]} == set(ports)
    assert kinds["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == kinds["Deployment"]["metadata"]["name"]


@pytest.mark.parametrize("folder", [".github/workflows", "samples/ci"])
def test_workflows_are_pinned_and_may_do_nothing_by_default(folder):
    files = sorted((ROOT / folder).glob("*.yml"))
    assert files
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert yaml.safe_load(text)["permissions"] == {}
        assert [
            use for use in re.findall(r"uses: (.*)", text) if not re.fullmatch(r"\S+@[0-9a-f]{40} # v[\d.]+", use)
        ] == []
        named = re.findall(r"\b(?:samples|tests|custom_ops)/[\w./-]+\.(?:py|txt|yaml|cpu|gpu)\b", text)
        assert [name for name in named if not (ROOT / name).exists()] == []
