"""Compares Whit and llama.cpp on the GGUF files of a trained model, position by position of a text.

    cargo build --release
    cargo run --release --example corpus_text -- /tmp/text
    python tools/check_gguf_model.py --model models/rust-lm --text /tmp/text/held-out.txt

Two kinds of file: those that Whit writes (`whit shrink --type`), and those that llama.cpp's own quantiser makes of
Whit's f32 file. Both programs run each of them over the same windows of the text as it is (`native`: each rounds
activations in its own way), Whit also with the weights unpacked to f32 (`f32`: only llama.cpp rounds), and then both with
the weights unpacked (`both f32`: nobody rounds, so that only how weights are read is compared). Printed: how often the likeliest token is the same, the
largest difference of a logit and the root mean square one, as parts of the largest logit and of the logits' own root
mean square, and the loss of each program. Needs torch, safetensors, numpy and
llama-cpp-python.
"""

import argparse
import ctypes
import subprocess
import tempfile
from pathlib import Path

import llama_cpp
import numpy as np
from safetensors.numpy import load_file, save_file

from check_gguf import quantise

# llama.cpp tells of every tensor that it quantises.
quiet = llama_cpp.llama_log_callback(lambda *_: None)
llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))

OWN = ["f32", "f16", "q8_0", "q4_k_m"]
PEERS = {
    "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q4_k_m": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "q5_k_m": llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_K_M,
    "q6_k": llama_cpp.LLAMA_FTYPE_MOSTLY_Q6_K,
    "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
}


def theirs(path, windows):
    model = llama_cpp.Llama(str(path), n_ctx=windows.shape[1], n_batch=windows.shape[1], n_threads=2, logits_all=True,
                            verbose=False, type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32)
    logits = []
    for window in windows:
        model.reset()
        model.eval(window.tolist())
        logits.append(np.array(model.scores[: len(window)], dtype=np.float32))
    model.close()
    return np.stack(logits)


def ours(program, path, windows, folder, dtype):
    source, target = folder / "input.safetensors", folder / "output.safetensors"
    save_file({"input_ids": windows.astype(np.int64)}, source)
    command = [program, "forward", "--model", path, "--input", source, "--out", target, "--dtype", dtype]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return load_file(target)["logits"]


def loss(logits, windows):
    rows = logits[:, :-1].astype(np.float64)
    largest = rows.max(-1, keepdims=True)
    total = np.log(np.exp(rows - largest).sum(-1)) + largest[..., 0]
    wanted = np.take_along_axis(rows, windows[:, 1:, None].astype(np.int64), -1)[..., 0]
    return (total - wanted).mean()


def report(name, how, own, peer, windows):
    same = (own.argmax(-1) == peer.argmax(-1)).mean()
    difference = own - peer
    largest = np.abs(difference).max() / np.abs(peer).max()
    root = np.sqrt((difference**2).mean() / (peer**2).mean())
    print(f"{name:22} {how:8} same top token {same:7.2%}  largest {largest:.1e}  root mean square {root:.1e}"
          f"  loss {loss(own, windows):.4f} (llama.cpp's {loss(peer, windows):.4f})", flush=True)
    return same


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="target/release/whit")
    parser.add_argument("--model", default="models/rust-lm")
    parser.add_argument("--text", required=True)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--least", type=float, default=0.95, help="agreement below this is a failure")
    arguments = parser.parse_args()
    text = Path(arguments.text).read_text()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        files = [(f"whit's {kind}", folder / f"{kind}.gguf", kind) for kind in OWN]
        for _, path, kind in files:
            command = [arguments.program, "shrink", "-m", arguments.model, "-o", path, "--type", kind]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for kind, ftype in PEERS.items():
            path = folder / f"peers-{kind}.gguf"
            quantise(folder / "f32.gguf", path, ftype, pure=False)
            files.append((f"its own {kind}", path, kind))
        reader = llama_cpp.Llama(str(files[0][1]), vocab_only=True, verbose=False)
        ids = reader.tokenize(text.encode(), add_bos=False, special=False)
        step = len(ids) // arguments.windows
        windows = np.array([ids[at * step :][: arguments.length] for at in range(arguments.windows)])
        print(f"{windows.size} positions of {len(ids)} tokens of {arguments.text}")
        failed = False
        for name, path, kind in files:
            peer = theirs(path, windows)
            for how in ["native", "f32"]:
                own = ours(arguments.program, path, windows, folder, how)
                failed |= report(name, how, own, peer, windows) < arguments.least
            plain = folder / "unpacked.gguf"
            command = [arguments.program, "shrink", "-m", path, "-o", plain, "--type", "f32"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            failed |= report(name, "both f32", own, theirs(plain, windows), windows) < 0.999
        raise SystemExit(int(failed))


if __name__ == "__main__":
    main()
