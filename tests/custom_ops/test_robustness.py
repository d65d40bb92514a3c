"""Loading, unloading, threads, and what the library shows to the outside."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from ops_support import attention_model, random_case, session

ROUNDS = int(os.environ.get("AXFORM_OPS_ROUNDS", "60"))
MAPPED, RESIDENT = 0, 1
"""Fields of /proc/self/statm."""


def test_sixteen_threads_share_a_session(library: Path) -> None:
    model = attention_model("SignMatchingAttention", k=16)
    shared = session(model, library, threads=2)
    cases = [random_case(seed, 2, 2, 90 + seed, 90 + seed, 32, masked=0.2) for seed in range(16)]
    alone = [shared.run(None, case.feeds())[0] for case in cases]

    def many(index: int) -> bool:
        return all(np.array_equal(shared.run(None, cases[index].feeds())[0], alone[index]) for _ in range(20))

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(many, range(16)))


def process_bytes(field: int) -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[field])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc to see this process's memory")
def test_load_run_unload_does_not_grow(library: Path) -> None:
    """AXFORM_OPS_ROUNDS=1000 makes it a long run."""
    models = [attention_model("SignMatchingAttention", k=8), attention_model("HardAttention", k=8)]
    case = random_case(0, 2, 4, 128, 128, 64, masked=0.2)

    def rounds(count: int) -> None:
        for _ in range(count):
            for model in models:
                session(model, library).run(None, case.feeds())
        gc.collect()

    rounds(30)
    before = process_bytes(RESIDENT)
    rounds(ROUNDS)
    assert process_bytes(RESIDENT) - before < 4_000_000 + 1_000 * ROUNDS


def test_failing_runs_do_not_grow(library: Path) -> None:
    running = session(attention_model("SignMatchingAttention", k=8), library)
    good = random_case(0, 1, 2, 64, 64, 32, masked=0.2)
    bad = {**good.feeds(), "key_mask": np.ones((1, 63), np.bool_)}
    before = 0
    for round_number in range(300):
        if round_number == 100:
            before = process_bytes(RESIDENT) if Path("/proc/self/statm").exists() else 0
        with pytest.raises(Exception, match="key_mask has shape"):
            running.run(None, bad)
    if before:
        assert process_bytes(RESIDENT) - before < 3_000_000
    assert np.isfinite(running.run(None, good.feeds())[0]).all()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc to see this process's memory")
def test_memory_goes_by_the_threads_of_the_session(library: Path) -> None:
    """One thread takes the 2.3 MB of one head, not as many as the machine has cores."""
    shape = (1, 64, 16384, 8)
    query, keys = np.ones((1, 64, 1, 8), np.float32), np.ones(shape, np.float32)
    running = session(attention_model("HardAttention", mask=False, k=8), library, threads=1)
    running.run(None, {"Q": query, "K": keys[:, :, :8], "V": keys[:, :, :8]})
    before = process_bytes(MAPPED)
    running.run(None, {"Q": query, "K": keys, "V": keys})
    assert process_bytes(MAPPED) - before < 6_000_000  # the arena takes powers of two


def test_exported_symbols(library: Path) -> None:
    nm = shutil.which("nm")
    if nm is None or sys.platform != "linux":
        pytest.skip("needs nm, on Linux")
    listing = subprocess.run([nm, "-D", "--defined-only", str(library)], capture_output=True, text=True, check=True)
    symbols = {line.split()[-1] for line in listing.stdout.splitlines()}
    assert symbols == {"RegisterCustomOps", "axform_build_info"}


def test_needs_no_gpu_libraries(library: Path) -> None:
    readelf = shutil.which("readelf")
    if readelf is None or sys.platform != "linux":
        pytest.skip("needs readelf, on Linux")
    dynamic = subprocess.run([readelf, "-d", str(library)], capture_output=True, text=True, check=True).stdout
    needed = [line for line in dynamic.splitlines() if "NEEDED" in line]
    assert not [line for line in needed if "cuda" in line or "onnxruntime" in line]


def test_registering_twice(library: Path) -> None:
    from axform import custom_ops

    options = ort.SessionOptions()
    custom_ops.register(options)
    custom_ops.register(options)
    model = attention_model("SignMatchingAttention", k=8)
    case = random_case(0, 1, 1, 20, 20, 16, masked=0.0)
    result = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, case.feeds())[0]
    assert result.shape == case.q.shape


def test_several_options_and_sessions_at_once(library: Path) -> None:
    model = attention_model("SignMatchingAttention", k=8)
    case = random_case(0, 1, 1, 40, 40, 16, masked=0.0)
    sessions = [session(model, library) for _ in range(8)]
    results = [s.run(None, case.feeds())[0] for s in sessions]
    assert all(np.array_equal(results[0], result) for result in results)


def test_build_info(library: Path) -> None:
    from axform import custom_ops

    info = custom_ops.build_info()
    assert info["cpu_instruction_sets"][-1] == "generic"
    assert info["cpu_dispatched"] in info["cpu_instruction_sets"]
    assert (info["cuda_version"] is None) == (info["cuda_architectures"] == [])
    assert info["abi_version"] == 17


def test_missing_library_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from axform import custom_ops

    monkeypatch.setenv("AXFORM_OPS_LIBRARY", str(tmp_path / "none.so"))
    assert not custom_ops.is_available()
    with pytest.raises(custom_ops.OpLibraryUnavailable, match="correct or unset it"):
        custom_ops.get_library_path()
    monkeypatch.delenv("AXFORM_OPS_LIBRARY")
    monkeypatch.setattr(custom_ops, "_package_folders", lambda: [str(tmp_path)])
    with pytest.raises(custom_ops.OpLibraryMissing, match="reinstall axform"):
        custom_ops.register(ort.SessionOptions())


def cut(library: bytes) -> bytes:
    return library[:50_000]


def for_another_machine(library: bytes) -> bytes:
    return library[:18] + bytes([library[18] ^ 0xFF]) + library[19:]


def without_its_symbols(library: bytes) -> bytes:
    return library.replace(b"RegisterCustomOps", b"RegisterCustomXYZ").replace(
        b"axform_build_info", b"axform_built_info"
    )


def not_a_library(_: bytes) -> bytes:
    return b"text"


@pytest.mark.skipif(sys.platform != "linux", reason="damages an ELF file")
@pytest.mark.parametrize("damage", [cut, for_another_machine, without_its_symbols, not_a_library])
def test_a_library_that_cannot_be_loaded_is_said_once(
    library: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    damage: Callable[[bytes], bytes],
) -> None:
    from axform import custom_ops

    damaged = tmp_path / "damaged.so"
    damaged.write_bytes(damage(library.read_bytes()))
    monkeypatch.setenv("AXFORM_OPS_LIBRARY", str(damaged))
    assert not custom_ops.is_available() and not custom_ops.is_available()
    assert len(caplog.records) == 1 and f"no op library: {damaged} cannot be loaded (" in caplog.text
    for refused in (custom_ops.build_info, lambda: custom_ops.register(ort.SessionOptions())):
        with pytest.raises(custom_ops.OpLibraryUnavailable, match="Models still run, on the function bodies"):
            refused()


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("AXFORM_CPU_ISA", "avx1024", "AXFORM_CPU_ISA=avx1024 is not followed: known are "),
        ("AXFORM_OPS_LIBRARY", __file__, f"no op library: {__file__} cannot be loaded"),
    ],
)
def test_what_is_not_followed_is_one_line_for_the_user(library: Path, variable: str, value: str, message: str) -> None:
    program = "from axform import custom_ops\nfor _ in range(2): custom_ops.is_available()"
    environment = {**os.environ, variable: value}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stderr.startswith(message) and result.stderr.count("\n") == 1


def test_importing_needs_neither_onnxruntime_nor_torch() -> None:
    program = (
        "import sys\n"
        "for name in ('onnxruntime', 'torch', 'onnx', 'numpy'): sys.modules[name] = None\n"
        "from axform import custom_ops\n"
        "custom_ops.is_available()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_shapes_are_inferred(library: Path, tmp_path: Path) -> None:
    """Names of symbolic dimensions pass from Q and V to the output."""
    import onnx
    from onnx import TensorProto, helper
    from ops_support import OPSET

    def info(name: str, dims: list) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)

    node = helper.make_node("SignMatchingAttention", ["Q", "K", "V"], ["A"], domain="ai.axform", k=4)
    graph = helper.make_graph(
        [node, helper.make_node("Relu", ["A"], ["Y"])],
        "graph",
        [info("Q", ["b", 2, "n", 8]), info("K", ["b", 2, "m", 8]), info("V", ["b", 2, "m", 6])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.axform", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    running = session(model.SerializeToString(), library)
    assert running.get_outputs()[0].shape == ["b", 2, "n", 6]
