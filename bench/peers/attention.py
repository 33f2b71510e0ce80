"""Attention against PyTorch's scaled_dot_product_attention, f32 on two threads, in alternating turns.

    cargo build --release -p whit-kernels --example attention
    python bench/peers/attention.py target/release/examples/attention

Prints one JSON line for each shape: the best seconds of each side and `ratio`, PyTorch's time over ours.
"""

import json
import os
import subprocess
import sys
import time

os.environ["OMP_NUM_THREADS"] = "2"
import torch  # noqa: E402
from torch.nn.functional import scaled_dot_product_attention  # noqa: E402

# heads, kv heads, queries, keys, head_dim, causal, pass
SHAPES = [
    (16, 16, 1024, 1024, 64, True, "forward"),
    (16, 16, 1024, 1024, 64, False, "forward"),
    (16, 16, 4096, 4096, 64, True, "forward"),
    (16, 16, 4096, 4096, 64, False, "forward"),
    (32, 8, 1024, 1024, 64, True, "forward"),
    (32, 8, 2048, 2048, 64, True, "forward"),
    (16, 16, 1024, 1024, 128, True, "forward"),
    (16, 16, 1024, 1024, 128, False, "forward"),
    (32, 8, 1, 8192, 64, False, "forward"),
    (32, 8, 1, 32768, 64, False, "forward"),
    (16, 16, 1, 8192, 64, False, "forward"),
    (32, 8, 16, 8192, 64, False, "forward"),
    (32, 8, 81, 8192, 64, False, "forward"),
    (16, 16, 1024, 1024, 64, True, "backward"),
    (16, 16, 1024, 1024, 64, False, "backward"),
    (16, 16, 4096, 4096, 64, True, "backward"),
    (16, 16, 1024, 1024, 128, True, "backward"),
    (32, 8, 1024, 1024, 64, True, "backward"),
]


def shortest(run, seconds):
    """The shortest of the runs of about `seconds`."""
    run()
    begin, best, count = time.perf_counter(), float("inf"), 0
    while count < 3 or time.perf_counter() - begin < seconds:
        best, count = min(best, run()), count + 1
    return best


def peer(heads, kv_heads, queries, keys, head_dim, causal, what):
    """Seconds of PyTorch at one shape."""
    backward = what == "backward"
    q = torch.randn(1, heads, queries, head_dim, requires_grad=backward)
    k, v = (torch.randn(1, kv_heads, keys, head_dim, requires_grad=backward) for _ in range(2))

    def run():
        grouped = {"enable_gqa": True} if heads != kv_heads else {}
        begin = time.perf_counter()
        output = scaled_dot_product_attention(q, k, v, is_causal=causal, **grouped)
        if backward:
            gradient = torch.ones_like(output)
            q.grad = k.grad = v.grad = None
            begin = time.perf_counter()
            output.backward(gradient)
        return time.perf_counter() - begin

    with torch.set_grad_enabled(backward):
        return shortest(run, 0.5)


def ours(binary, heads, kv_heads, queries, keys, head_dim, causal, what):
    """Seconds of the given binary at one shape."""
    words = [binary, *map(str, (heads, kv_heads, queries, keys, head_dim)), "causal" if causal else "full", what]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)["ours"]


def main():
    binary, wanted = sys.argv[1], sys.argv[2:]
    torch.set_num_threads(2)
    torch.manual_seed(0)
    for shape in SHAPES:
        if wanted and shape[-1] not in wanted:
            continue
        turns = [(peer(*shape), ours(binary, *shape)) for _ in range(2)]
        torch_best, our_best = (min(times) for times in zip(*turns))
        names = ("heads", "kv_heads", "queries", "keys", "head_dim", "causal", "pass")
        record = dict(zip(names, shape), torch=torch_best, ours=our_best, ratio=torch_best / our_best)
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
