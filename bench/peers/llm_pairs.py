"""Times Whit and its peers on a Llama of a real shape, taking turns, and prints who is faster by how much.

    python bench/peers/llm_pairs.py --peers PEERS/llm.py [--whit target/release/whit] [--shape llama-1b]
        [--gguf-dir DIR] [--types q4_k_m,q8_0] [--rounds 3] [--threads 2] [--prompt 512] [--decode 64]
        [--out records.jsonl]

Run it with the Python that holds the peers (PyTorch, transformers, llama-cpp-python), on a machine that does nothing
else. PEERS/llm.py is the peers' script: it makes the GGUF files in DIR once, and prints one JSON object a line with
`peer`, `what` (prefill or decode) and `per_s`. In every round each program runs once, so that a noisy minute hits
all of them; medians over the rounds are compared, and only their ratios mean anything on another machine.

Whit times the very same GGUF files where DIR is given, and random weights of the same shape otherwise.
"""

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", required=True, help="the peers' script")
    parser.add_argument("--whit", default="target/release/whit")
    parser.add_argument("--shape", default="llama-1b")
    parser.add_argument("--gguf-dir", type=Path)
    parser.add_argument("--types", default="q4_k_m,q8_0", help="Whit's weight types")
    parser.add_argument("--kinds", default="gguf", help="the peers: gguf, hf or both")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--decode", type=int, default=64)
    parser.add_argument("--out", type=Path, help="append every measurement here, one JSON object a line")
    return parser.parse_args()


def lines(command):
    """The JSON objects that a program prints, one a line."""
    done = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def peers(options):
    """One run of the peers' script: (program, what, tokens per second)."""
    command = [sys.executable, options.peers, "--shape", options.shape, "--peers", options.kinds, "--prompt", options.prompt,
               "--decode", options.decode, "--threads", options.threads]
    if options.gguf_dir:
        command += ["--gguf-dir", options.gguf_dir]
    return [(record["peer"], record["what"], record["per_s"]) for record in lines(command)]


def whit(options, kind):
    """One run of `whit bench speed`: (program, what, tokens per second)."""
    file = options.gguf_dir and options.gguf_dir / f"{options.shape}.{kind.upper()}.gguf"
    model = ["--model", file] if file and file.exists() else ["--shape", options.shape, "--dtype", kind]
    command = [options.whit, "bench", "speed", *model, "--prompt-tokens", options.prompt, "--new-tokens", options.decode,
               "--threads", options.threads, "--json"]
    done = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True)
    record = json.loads(done.stdout)
    return [(f"whit {kind}", what, record[f"{what}_per_s"]) for what in ("prefill", "decode")]


def report(rates):
    """A table of medians, and of every Whit type against the best peer."""
    for what in ("prefill", "decode"):
        rows = {name: values for (name, kind), values in rates.items() if kind == what}
        best = max((median(v) for name, v in rows.items() if not name.startswith("whit")), default=None)
        print(f"\n{what:28} tokens/s   (range)          of the best peer")
        for name, values in sorted(rows.items(), key=lambda row: -median(row[1])):
            ratio = f"{median(values) / best:.2f}x" if best else ""
            print(f"  {name:26} {median(values):8.2f}   ({min(values):.1f} to {max(values):.1f})   {ratio:>10}")


def main():
    options = arguments()
    rates = defaultdict(list)
    for turn in range(options.rounds):
        runs = [lambda: peers(options)] + [lambda kind=kind: whit(options, kind) for kind in options.types.split(",")]
        for run in runs:
            for name, what, rate in run():
                rates[name, what].append(rate)
                record = dict(round=turn, program=name, shape=options.shape, what=what, per_s=rate, threads=options.threads)
                print(json.dumps(record), file=sys.stderr, flush=True)
                if options.out:
                    with options.out.open("a") as file:
                        file.write(json.dumps(record) + "\n")
    report(rates)


if __name__ == "__main__":
    main()
