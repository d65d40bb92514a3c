"""Registers and spills of each CUDA kernel and architecture, as a Markdown table, from what ptxas printed.

cmake -S custom_ops -B build/ops -DAXFORM_CUDA=ON -DAXFORM_CUDA_VERBOSE=ON
cmake --build build/ops 2>&1 | python custom_ops/tools/kernel_table.py
"""

from __future__ import annotations

import re
import subprocess
import sys

ENTRY = re.compile(r"Compiling entry function '(.*)' for 'sm_(\d+)'")
SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")


def kernels(log: str) -> dict[str, dict[int, str]]:
    """Kernel -> architecture -> registers a thread, and bytes spilled where there are any."""
    found: dict[str, dict[int, str]] = {}
    name, architecture, spilled = "", 0, ""
    for line in log.splitlines():
        if entry := ENTRY.search(line):
            name = re.sub(r"^void |axform::cuda::|\(.*", "", entry[1])
            architecture, spilled = int(entry[2]), ""
        elif name and not spilled and (spills := SPILLS.search(line)):
            spilled = "no" if spills[1] == spills[2] == "0" else f" ({spills[1]} B spilled)"
        elif name and (used := REGISTERS.search(line)):
            found.setdefault(name, {})[architecture] = used[1] + spilled.replace("no", "")
            name = ""
    return found


def main() -> None:
    log = subprocess.run(["c++filt"], input=sys.stdin.read(), capture_output=True, text=True, check=True).stdout
    table = kernels(log)
    if not table:
        sys.exit("no kernels in the input; build with -DAXFORM_CUDA_VERBOSE=ON from scratch")
    architectures = sorted({a for row in table.values() for a in row})
    print("| kernel | " + " | ".join(f"sm_{a}" for a in architectures) + " |")
    print("|---" * (len(architectures) + 1) + "|")
    for kernel, row in sorted(table.items()):
        print(f"| `{kernel}` | " + " | ".join(row.get(a, "") for a in architectures) + " |")


if __name__ == "__main__":
    main()
