"""Dense products and convolutions: PyTorch against our criterion benchmarks, in turns.

    cargo bench -p whit-kernels --no-run      # prints the two executables
    python bench/peers/gemm.py --matmul target/release/deps/matmul-... --conv2d target/release/deps/conv2d-...

Every case is timed in PyTorch, in ours, and in PyTorch again, on the same two threads; the table
gives GFLOP/s and the ratio of ours to the better of PyTorch's two.
"""

import argparse
import json
import re
import statistics
import subprocess
import time

import torch
import torch.nn.functional as F

UNITS = {"ns": 1e-9, "µs": 1e-6, "us": 1e-6, "ms": 1e-3, "s": 1.0}


def median_seconds(run, seconds=0.5):
    for _ in range(2):
        run()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def our_seconds(executable, name):
    done = subprocess.run([executable, "--bench", "--exact", name], capture_output=True, text=True, check=True)
    found = re.search(r"time:\s+\[\S+ \S+ (\S+) (\S+) \S+ \S+\]", done.stdout)
    if found is None:
        raise SystemExit(f"{executable} has no benchmark {name}")
    return float(found[1]) * UNITS[found[2]]


def matmul_cases():
    sizes = [(256, 256, 256), (512, 512, 512), (1024, 1024, 1024), (2048, 256, 1024), (2048, 256, 2048)]
    for rows, depth, columns in sizes:
        flops = 2 * rows * depth * columns
        for kind in ["nn", "nt", "tn"]:
            left = torch.rand(depth, rows).t() if kind == "tn" else torch.rand(rows, depth)
            right = torch.rand(columns, depth).t() if kind == "nt" else torch.rand(depth, columns)
            name = f"matmul/{kind}/{rows}x{depth}x{columns}"
            yield name, flops, lambda left=left, right=right: left @ right
    for rows, inputs, outputs in [(1, 2048, 2048), (1, 2048, 8192), (256, 2048, 2048), (256, 2048, 8192)]:
        # Types of 8 bits stand beside PyTorch's bf16: that is what they are wanted to beat.
        types = {"f32": torch.float32, "bf16": torch.bfloat16, "int8": torch.bfloat16, "q8_0": torch.bfloat16}
        for name, dtype in types.items():
            x, weight = torch.rand(rows, inputs).to(dtype), torch.rand(outputs, inputs).to(dtype)
            flops = 2 * rows * inputs * outputs
            yield f"packed_linear/{name}/{rows}x{inputs}x{outputs}", flops, lambda x=x, w=weight: F.linear(x, w)


def conv2d_cases():
    cases = [(320, 320, 64, 3, 1), (128, 128, 256, 3, 1), (320, 320, 64, 1, 1), (320, 320, 64, 3, 2), (640, 640, 16, 3, 1)]
    for channels, outputs, size, kernel, stride in cases:
        name = f"{channels}x{size}x{size}-{outputs}-k{kernel}-s{stride}"
        flops = 2 * channels * outputs * kernel**2 * (size // stride) ** 2
        x, weight = torch.rand(1, channels, size, size), torch.rand(outputs, channels, kernel, kernel)

        def forward(x=x, weight=weight, stride=stride, padding=kernel // 2):
            return F.conv2d(x, weight, stride=stride, padding=padding)

        yield f"conv2d/f32/{name}", flops, forward
        half = [x.bfloat16(), weight.bfloat16()]
        yield f"conv2d/bf16/{name}", flops, lambda half=half, forward=forward: forward(*half)
        tracked = [x.clone().requires_grad_(), weight.clone().requires_grad_()]

        def training(tracked=tracked, forward=forward):
            torch.autograd.grad(forward(*tracked).sum(), tracked)

        yield f"conv2d_training/f32/{name}", 3 * flops, training


def measure(executable, cases, inference):
    for name, flops, run in cases:
        if executable is None:
            return
        with torch.inference_mode(inference and "training" not in name):
            before = median_seconds(run)
            ours = our_seconds(executable, name)
            peer = min(before, median_seconds(run))
        yield {"case": name, "whit": flops / ours / 1e9, "pytorch": flops / peer / 1e9, "ratio": peer / ours}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--matmul", help="the executable of benches/matmul.rs")
    parser.add_argument("--conv2d", help="the executable of benches/conv2d.rs")
    parser.add_argument("--filter", default="", help="only cases whose name matches this expression")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    def wanted(cases):
        return (case for case in cases if re.search(options.filter, case[0]))

    if not options.json:
        print(f"PyTorch {torch.__version__}, {options.threads} threads, GFLOP/s")
        print(f"{'case':45} {'whit':>8} {'pytorch':>8} {'ratio':>6}")
    for executable, cases in [(options.matmul, matmul_cases()), (options.conv2d, conv2d_cases())]:
        for row in measure(executable, wanted(cases), inference=True):
            if options.json:
                print(json.dumps(row), flush=True)
            else:
                print(f"{row['case']:45} {row['whit']:8.0f} {row['pytorch']:8.0f} {row['ratio']:6.2f}", flush=True)


if __name__ == "__main__":
    main()
