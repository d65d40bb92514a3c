"""What only POSIX systems have is not needed to import the package, nor to use what is no server."""

from __future__ import annotations

import os
import subprocess
import sys

WITHOUT_POSIX = """
import os, signal, socket, sys
import filelock  # takes msvcrt on Windows
for name in ("fcntl", "resource", "pwd", "grp", "termios", "pty", "syslog"):
    sys.modules[name] = None
for module, names in (
    (os, ("fork", "sched_getaffinity", "sched_setaffinity", "getuid", "geteuid", "killpg", "setsid")),
    (signal, ("SIGKILL", "SIGHUP", "SIGUSR1")),
    (socket, ("SO_REUSEPORT", "AF_UNIX")),
):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
"""


def test_the_cli_and_the_runtime_need_nothing_of_posix(bundle_copy):
    script = f"""{WITHOUT_POSIX}
import axform.cli, axform.console, axform.pytest_plugin, axform.runtime, axform.plots
from axform import custom_ops
from axform.core.cores import usable_cores
from axform.runtime.latency import machine_name
assert usable_cores() >= 1 and machine_name()
sys.argv = ["axform", "check", {str(bundle_copy)!r}]
axform.cli.main()
"""
    outcome = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert "passed" in outcome.stdout.lower(), outcome.stdout
