"""What does a real Triton say of a model repository?

The wheel of nvidia-pytriton carries Triton's server without the ONNX Runtime backend, so a repository that Triton accepts
ends at exactly one text, that this backend is not there; whatever is wrong with a configuration ends at another one. It
wants numpy < 2, so give it an environment of its own:

    python3 -m venv triton && triton/bin/pip install 'numpy<2' nvidia-pytriton==0.7.0
    python samples/triton_oracle.py repo --server triton/lib/python3.*/site-packages/pytriton/tritonserver/bin/tritonserver

The exit code is 0 when every model is accepted, else 1. Nothing listens: the server ends before it would. It does not see
whether names, types and sizes are those of the graph; `axform triton --check` does.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

ACCEPTED = (
    "Invalid argument: unable to find backend library for backend 'onnxruntime', try specifying runtime on the model "
    "configuration."
)
_SECONDS = 120
_SAID = re.compile(
    r"(?:Poll failed for model directory|failed to load(?: model)?) '(?P<model>[^']+)'(?: version \d+)?: (?P<text>.*?)\"?$"
)


def verdicts(repository: Path, server: Path) -> dict[str, str]:
    """Name of each model -> what Triton says of it; `ACCEPTED` for one that it takes."""
    command = [
        str(server),
        f"--model-repository={repository.resolve()}",
        f"--backend-directory={backends_of(server)}",
        "--disable-auto-complete-config",  # with it, faults are left to the backend, which is not there
        *("--allow-http=0", "--allow-grpc=0", "--allow-metrics=0"),
    ]
    ended = subprocess.run(
        command,
        env=environment_of(server),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    found = {path.name: "nothing was said of it" for path in sorted(repository.iterdir()) if path.is_dir()}
    for line in ended.stdout.splitlines():
        said = _SAID.search(line)
        if said is not None:
            found[said["model"]] = said["text"]
    return found


def backends_of(server: Path) -> Path:
    """The folder of backends that the wheel brings."""
    return server.resolve().parent.parent / "backends"


def site_packages_of(server: Path) -> Path:
    """The site-packages that the wheel is installed in."""
    return server.resolve().parents[3]


def environment_of(server: Path) -> dict[str, str]:
    """The environment that finds the libraries that the wheel brings."""
    return {**os.environ, "LD_LIBRARY_PATH": str(site_packages_of(server) / "nvidia_pytriton.libs")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--server", type=Path, default=os.environ.get("AXFORM_TRITON_SERVER"), help="tritonserver")
    options = parser.parse_args()
    if options.server is None or not options.server.is_file():
        parser.error("name the tritonserver with --server or AXFORM_TRITON_SERVER")
    if not options.repository.is_dir():
        parser.error(f"{options.repository}: no such folder")
    found = verdicts(options.repository, options.server)
    for model, text in found.items():
        print(f"{model}: {'accepted' if text == ACCEPTED else text}")
    sys.exit(0 if found and all(text == ACCEPTED for text in found.values()) else 1)


if __name__ == "__main__":
    main()
