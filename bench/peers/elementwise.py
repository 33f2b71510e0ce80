"""Activations, norms, softmax and their kin: PyTorch against our criterion benchmarks, in turns.

    cargo bench -p whit-kernels --bench elementwise --no-run      # prints the executable
    python bench/peers/elementwise.py target/release/deps/elementwise-...

Every case is timed in PyTorch, in ours, and in PyTorch again, on the same two threads; the table
gives the fastest run of each in microseconds and the ratio of PyTorch's to ours. `_training` is
forward and backward. PyTorch runs eagerly, as a model without a compiler would. Both sides keep freed
memory (glibc's tunables), because otherwise page faults of the results are most of what is measured.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import torch
import torch.nn.functional as F

SHAPES = [(512, 3072), (8192, 512), (512, 2048)]
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "1073741824"}


def fastest_microseconds(run, seconds=0.1):
    for _ in range(3):
        run()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 10:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times) * 1e6


def our_microseconds(executable, name):
    """The fastest sample of a benchmark, from what criterion leaves in its folder."""
    with tempfile.TemporaryDirectory() as folder:
        command = [executable, "--bench", "--noplot", "--exact", name]
        subprocess.run(command, env=os.environ | {"CRITERION_HOME": folder}, capture_output=True, check=True)
        found = list(pathlib.Path(folder).rglob("new/sample.json"))
        if not found:
            raise SystemExit(f"{executable} has no benchmark {name}")
        sample = json.loads(found[0].read_text())
        return min(time / runs for time, runs in zip(sample["times"], sample["iters"])) / 1e3


def functions(width):
    weight, bias = torch.randn(width), torch.randn(width)
    return {
        "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "silu": F.silu,
        "softmax": lambda x: F.softmax(x, -1),
        "log_softmax": lambda x: F.log_softmax(x, -1),
        "layer_norm": lambda x: F.layer_norm(x, (width,), weight, bias),
        "rms_norm": lambda x: F.rms_norm(x, (width,), weight, 1e-5),
    }


def inference_cases():
    for rows, width in SHAPES:
        x, y, weight = torch.randn(rows, width), torch.randn(rows, width), torch.randn(width)
        for name, function in functions(width).items():
            yield f"{name}/{rows}x{width}", lambda f=function, x=x: f(x)
        yield f"silu_mul/{rows}x{width}", lambda x=x, y=y: F.silu(x) * y

        def add_rms_norm(x=x, y=y, weight=weight, width=width):
            total = x + y
            return total, F.rms_norm(total, (width,), weight, 1e-5)

        yield f"add_rms_norm/{rows}x{width}", add_rms_norm


def training_cases():
    for rows, width in SHAPES:
        x = torch.randn(rows, width, requires_grad=True)
        for name, function in functions(width).items():
            yield f"{name}_training/{rows}x{width}", lambda f=function, x=x: torch.autograd.grad(f(x).sum(), x)
        targets = torch.arange(rows) * 7 % width
        yield (
            f"cross_entropy_training/{rows}x{width}",
            lambda x=x, targets=targets: torch.autograd.grad(F.cross_entropy(x, targets), x),
        )


def rotate(x, cos, sin):
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def other_cases():
    image, weight, bias = torch.randn(1, 320, 64, 64), torch.randn(320), torch.randn(320)
    yield "group_norm_silu/320x64x64", lambda: F.silu(F.group_norm(image, 32, weight, bias))
    heads, cos, sin = torch.randn(512, 32, 64), torch.randn(512, 1, 64), torch.randn(512, 1, 64)
    yield "rotary_halves/512x32x64", lambda: rotate(heads, cos, sin)
    parameter = torch.zeros(1 << 22, requires_grad=True)
    parameter.grad = torch.randn(1 << 22)
    fused = torch.optim.AdamW([parameter], lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1, fused=True)
    yield "adamw/4194304", fused.step


def measure(executable, pattern):
    for cases, inference in [(inference_cases(), True), (training_cases(), False), (other_cases(), True)]:
        for name, run in cases:
            if not re.search(pattern, name):
                continue
            with torch.set_grad_enabled(not inference):
                before = fastest_microseconds(run)
                ours = our_microseconds(executable, name)
                peer = min(before, fastest_microseconds(run))
            yield {"case": name, "whit": round(ours, 1), "pytorch": round(peer, 1), "ratio": round(peer / ours, 2)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("executable", help="the executable of benches/elementwise.rs")
    parser.add_argument("--filter", default="", help="only cases whose name matches this expression")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    if not ALLOCATOR.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)
    torch.set_num_threads(options.threads)
    if not options.json:
        print(f"PyTorch {torch.__version__}, {options.threads} threads, microseconds")
        print(f"{'case':36} {'whit':>9} {'pytorch':>9} {'ratio':>6}")
    for row in measure(options.executable, options.filter):
        if options.json:
            print(json.dumps(row), flush=True)
        else:
            print(f"{row['case']:36} {row['whit']:9.1f} {row['pytorch']:9.1f} {row['ratio']:6.2f}", flush=True)


if __name__ == "__main__":
    main()
