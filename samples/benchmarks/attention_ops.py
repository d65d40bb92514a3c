"""SignMatchingAttention against the attention it replaces, at the same shapes.

    python samples/benchmarks/attention_ops.py                    CPU: ONNX Runtime's MultiHeadAttention, ONNX Attention
    python samples/benchmarks/attention_ops.py --provider cuda    CUDA, float16: fused MultiHeadAttention, PyTorch SDPA

All candidates run in turn, round after round, with inputs and outputs bound in place; medians over the rounds and their
ratios are printed, and written with `--json FILE`. `--plot FILE` draws time against the length on logarithmic axes.
With `--threads 2` and more the op with one thread takes its turn as well, and the speed-up is printed.
Where no GPU is at hand, `--provider cuda` prints the roofline estimate only.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from axform import custom_ops
from onnx import TensorProto, helper

OPSET = 23


@dataclass(frozen=True)
class Shape:
    """Self-attention of `batch` sequences of `length`, of which the op keeps `kept` keys a head."""

    batch: int
    heads: int
    length: int
    head_size: int
    kept: int


SHAPES = (
    Shape(8, 12, 128, 64, 16),
    Shape(8, 12, 512, 64, 64),
    Shape(1, 12, 1024, 64, 128),
    Shape(1, 12, 4096, 64, 128),
    Shape(1, 12, 16384, 64, 128),
)
ONE_THREAD = "axform, one thread"
LONGEST_CPU_BASELINE = 4096  # full attention over 16384 takes 10 s a call and 13 GB for its scores

# Peak numbers for the roofline, from NVIDIA's data sheets: (float16 tensor TFLOP/s dense, memory TB/s, L2 cache MB).
GPUS = {"H100 SXM": (989.0, 3.35, 50), "H200": (989.0, 4.8, 50), "A100": (312.0, 2.0, 40), "L4": (121.0, 0.3, 48)}


def model(kind: str, shape: Shape, element: int) -> bytes:
    """One attention node: "axform" (with key_mask), "MultiHeadAttention" (com.microsoft) or "Attention" (ONNX)."""
    split = [shape.batch, shape.heads, shape.length, shape.head_size]
    joined = [shape.batch, shape.length, shape.heads * shape.head_size]
    dims = joined if kind == "MultiHeadAttention" else split
    infos = [helper.make_tensor_value_info(name, element, dims) for name in ("Q", "K", "V")]
    names = ["Q", "K", "V"]
    attributes: dict[str, Any] = {}
    domain = ""
    if kind == "axform":
        infos.append(helper.make_tensor_value_info("key_mask", TensorProto.BOOL, [shape.batch, shape.length]))
        names.append("key_mask")
        attributes, domain = {"k": shape.kept}, "ai.axform"
    elif kind == "MultiHeadAttention":
        attributes, domain = {"num_heads": shape.heads}, "com.microsoft"
    op = "SignMatchingAttention" if kind == "axform" else kind
    node = helper.make_node(op, names, ["Y"], domain=domain, **attributes)
    graph = helper.make_graph([node], "attention", infos, [helper.make_tensor_value_info("Y", element, dims)])
    opsets = [("", OPSET), ("com.microsoft", 1), ("ai.axform", 1)]
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid(*opset) for opset in opsets], ir_version=10
    ).SerializeToString()


def onnxruntime_call(kind: str, shape: Shape, provider: str, threads: int) -> Callable[[], None]:
    """A call of one node with everything bound in place."""
    element, dtype = (TensorProto.FLOAT16, np.float16) if provider == "cuda" else (TensorProto.FLOAT, np.float32)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if kind == "axform":
        custom_ops.register(options)
    name = "CUDAExecutionProvider" if provider == "cuda" else "CPUExecutionProvider"
    session = ort.InferenceSession(model(kind, shape, element), options, providers=[name])
    if session.get_providers()[0] != name:
        raise RuntimeError(f"ONNX Runtime offers no {name}; install onnxruntime-gpu and check the driver")
    random = np.random.default_rng(0)
    binding = session.io_binding()
    for node in session.get_inputs():
        if node.name == "key_mask":
            value = np.ones(node.shape, np.bool_)
        else:
            value = random.standard_normal(node.shape).astype(dtype)
        binding.bind_ortvalue_input(node.name, ort.OrtValue.ortvalue_from_numpy(value, provider, 0))
    output = ort.OrtValue.ortvalue_from_shape_and_type(session.get_outputs()[0].shape, dtype, provider, 0)
    binding.bind_ortvalue_output("Y", output)

    def call() -> None:
        session.run_with_iobinding(binding)

    return call


def torch_call(shape: Shape) -> Callable[[], None]:
    """PyTorch's scaled_dot_product_attention in float16 on the GPU, which picks its flash kernel."""
    import torch

    dims = (shape.batch, shape.heads, shape.length, shape.head_size)
    q, k, v = (torch.randn(dims, device="cuda", dtype=torch.float16) for _ in range(3))

    def call() -> None:
        torch.nn.functional.scaled_dot_product_attention(q, k, v)
        torch.cuda.synchronize()

    return call


def measure(calls: dict[str, Callable[[], None]], seconds: float, least: int, threads: int) -> dict[str, float]:
    """Median milliseconds a call, the candidates taking turns for about `seconds`."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while min(map(len, times.values())) < least or time.perf_counter() < end:
        for name, call in calls.items():
            if threads > 1:
                # The last candidate's threads look for work for some 50 ms, on cores that the next one needs.
                time.sleep(0.1)
                call()
            for _ in range(1 if threads == 1 else 3):
                start = time.perf_counter()
                call()
                times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def roofline(shape: Shape) -> dict[str, dict[str, float]]:
    """Lower bounds in microseconds for float16 on each GPU, from bytes of memory moved and floating-point operations."""
    heads = shape.batch * shape.heads
    tensor = 2 * heads * shape.length * shape.head_size
    # Signs: Q and K once. Attention: the kept rows of K and V, and Y. Sign bits are written and read.
    bytes_op = 3 * tensor + 2 * 2 * heads * shape.kept * shape.head_size + heads * shape.length * 16
    flops_op = 4 * heads * shape.length * shape.kept * shape.head_size
    bytes_full = 4 * tensor
    flops_full = 4 * heads * shape.length**2 * shape.head_size
    result = {}
    for name, (teraflops, terabytes, cache) in GPUS.items():
        again = tensor if 2 * tensor > cache * 1e6 else 0  # attention reads Q from the L2 cache where Q and K fit
        op = max((bytes_op + again) / terabytes, flops_op / teraflops) * 1e-6
        full = max(bytes_full / terabytes, flops_full / teraflops) * 1e-6
        result[name] = {"axform": op, "full attention": full, "ratio": full / op}
    return result


def print_roofline() -> None:
    print("\nRoofline, float16, microseconds (a bound from data-sheet peaks, not a measurement):")
    print(f"{'shape (B, H, n, D, K)':28}" + "".join(f"{name:>30}" for name in GPUS))
    for shape in SHAPES:
        cells = [f"{r['axform']:.1f} / {r['full attention']:.1f} = {r['ratio']:.1f}x" for r in roofline(shape).values()]
        print(f"{tuple(asdict(shape).values())!s:28}" + "".join(f"{cell:>30}" for cell in cells))
    print("(sign matching / full attention; two launches cost another 4 to 6 microseconds)")


def gpu_at_hand() -> bool:
    return (
        "CUDAExecutionProvider" in ort.get_available_providers() and custom_ops.build_info()["cuda_version"] is not None
    )


def candidates(shape: Shape, provider: str, threads: int) -> dict[str, Callable[[], None]]:
    calls = {"axform": onnxruntime_call("axform", shape, provider, threads)}
    if provider == "cpu" and threads > 1:
        calls[ONE_THREAD] = onnxruntime_call("axform", shape, provider, 1)
    if provider == "cuda":
        calls["MultiHeadAttention"] = onnxruntime_call("MultiHeadAttention", shape, provider, threads)
        try:
            calls["SDPA"] = torch_call(shape)
        except (ImportError, AssertionError, RuntimeError) as reason:
            print(f"PyTorch SDPA left out: {reason}")
    elif shape.length <= LONGEST_CPU_BASELINE:
        for kind in ("MultiHeadAttention", "Attention"):
            calls[kind] = onnxruntime_call(kind, shape, provider, threads)
    return calls


def processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def plot(rows: list[dict[str, Any]], path: Path, unit: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 5))
    for name in sorted({name for row in rows for name in row["milliseconds"]}):
        # One sequence's worth: the shapes differ in batch.
        measured = [row for row in rows if name in row["milliseconds"]]
        lengths = [row["shape"]["length"] for row in measured]
        times = [row["milliseconds"][name] / row["shape"]["batch"] for row in measured]
        axes.loglog(lengths, times, marker="o", base=2, label=name)
    axes.set_xlabel("sequence length")
    axes.set_ylabel("milliseconds a sequence, 12 heads of 64")
    axes.yaxis.set_major_formatter(pyplot.FormatStrFormatter("%g"))
    axes.set_title(f"Sign matching against full attention\n{unit}", fontsize="medium")
    axes.set_xticks([shape.length for shape in SHAPES], [str(shape.length) for shape in SHAPES])
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--provider", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="threads of each CPU session (default 1)")
    parser.add_argument("--seconds", type=float, default=6.0, help="measuring time for each shape (default 6)")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--plot", type=Path, help="draw time against length here (png, svg or pdf)")
    options = parser.parse_args()

    info = custom_ops.build_info()
    if options.provider == "cuda" and not gpu_at_hand():
        print("No CUDA execution provider, or no CUDA kernels in the op library: nothing is measured.")
        print_roofline()
        return
    if options.provider == "cuda":
        where = "CUDA, float16"
    else:
        where = (
            f"{processor()}, {info['cpu_dispatched']}, {options.threads} thread{'s' * (options.threads > 1)}, float32"
        )
    print(f"{where}; ONNX Runtime {ort.__version__}; median milliseconds")
    rows: list[dict[str, Any]] = []
    for shape in SHAPES:
        calls = candidates(shape, options.provider, options.threads)
        medians = measure(calls, options.seconds, least=5, threads=options.threads)
        others = [value for name, value in medians.items() if name not in ("axform", ONE_THREAD)]
        ratio = min(others) / medians["axform"] if others else None
        rows.append({"shape": asdict(shape), "milliseconds": medians, "ratio": ratio})
        cells = "  ".join(f"{name} {value:.3f}" for name, value in medians.items())
        summary = f"  ratio {ratio:.2f}" if ratio else ""
        if ONE_THREAD in medians:
            summary += f"  {options.threads} threads {medians[ONE_THREAD] / medians['axform']:.2f}x"
        print(f"{tuple(asdict(shape).values())!s:28} {cells}{summary}", flush=True)
    by_length = {row["shape"]["length"]: row["milliseconds"]["axform"] for row in rows}
    print(f"growth from 4096 to 16384 keys: {by_length[16384] / by_length[4096]:.2f}x (4x is linear)")
    if options.provider == "cuda":
        print_roofline()
    if options.json:
        result = {"where": where, "onnxruntime": ort.__version__, "build": info, "rows": rows}
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    if options.plot:
        plot(rows, options.plot, where)


if __name__ == "__main__":
    main()
