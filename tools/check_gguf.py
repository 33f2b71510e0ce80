"""Checks that llama.cpp reads a GGUF file and predicts the token that Whit predicts.

    python tools/check_gguf.py FILE.gguf --whit target/release/whit [--ids 5,6,7]

Runs `whit forward --model FILE.gguf` on the ids and compares the top token of every position, and how far the logits
are apart relative to the largest. Exits with 1 where the last position's top tokens differ (unless llama.cpp's own
first and second are closer than the two programs are).
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import llama_cpp
import numpy as np
from safetensors.numpy import load_file, save_file


def whit_logits(program, model, ids):
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "input.safetensors", Path(folder) / "output.safetensors"
        save_file({"input_ids": np.array([ids], np.int64)}, source)
        subprocess.run([program, "forward", "--model", model, "--input", source, "--out", target], check=True)
        return load_file(target)["logits"][0]


def llama_logits(path, ids):
    model = llama_cpp.Llama(path, n_ctx=max(64, len(ids) + 1), n_threads=2, logits_all=True, verbose=False,
                            type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32)
    model.eval(ids)
    logits = np.array(model.scores[: len(ids)], np.float32)
    model.close()
    return logits


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--whit", default="target/release/whit")
    parser.add_argument("--ids", default="3,14,15,92,65,35,89,79")
    arguments = parser.parse_args()
    ids = [int(word) for word in arguments.ids.split(",")]
    ours, peer = whit_logits(arguments.whit, arguments.file, ids), llama_logits(arguments.file, ids)
    far = np.abs(ours - peer).max() / np.abs(peer).max()
    agree = (ours.argmax(-1) == peer.argmax(-1)).mean()
    second, first = np.sort(peer[-1])[-2:]
    same = ours[-1].argmax() == peer[-1].argmax() or first - second < np.abs(ours[-1] - peer[-1]).max()
    print(f"top tokens: ours {ours[-1].argmax()}, llama.cpp {peer[-1].argmax()}; "
          f"{agree:.0%} of positions agree; largest difference {far:.1e} of the largest logit")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
