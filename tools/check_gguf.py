"""Checks that GGUF files written by Whit mean to llama.cpp what the model means to transformers, and that Whit reads
them back to the same tensors.

    cargo build --release
    python tools/check_gguf.py

Small models of every architecture are made at random, stored by Whit in several types, and compared: the logits of all
positions, the likeliest token, and the tokens of some texts. Plain types must agree with transformers; for quantised ones
the error against transformers must be about that of the file which llama.cpp's own quantiser makes of the same model (of
a random model the likeliest token says little there: nothing separates the first from the second). Needs torch, transformers, safetensors, gguf and
llama-cpp-python. A second pass lets Whit read the file and store it once more: the two files must do exactly the same.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import llama_cpp
import numpy as np
import torch
import transformers

TOKENIZERS = Path("tests/fixtures/tokenizers")
TEXTS = ["Hello, world!", "  it's what we'll say", "日本語 🦀 ñ", "fn add(a: u32)\n\n  12345", "<|begin|>x"]
BASE = dict(
    vocab_size=420, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=8,
    num_key_value_heads=2, max_position_embeddings=256, bos_token_id=0, eos_token_id=1, pad_token_id=None,
)
LLAMA3 = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=64)
CASES = [
    ("llama", "LlamaForCausalLM", {}, "byte-level"),
    ("llama-tied", "LlamaForCausalLM", dict(tie_word_embeddings=True), "byte-fallback"),
    ("llama-3", "LlamaForCausalLM", dict(rope_parameters=LLAMA3), "byte-level"),
    ("llama-yarn", "LlamaForCausalLM", dict(rope_parameters=YARN), "byte-level"),
    ("mistral", "MistralForCausalLM", dict(head_dim=64, sliding_window=None), "byte-level"),
    ("mixtral", "MixtralForCausalLM", dict(num_local_experts=4, num_experts_per_tok=2), "byte-level"),
    ("qwen2", "Qwen2ForCausalLM", dict(tie_word_embeddings=True), "byte-level"),
    ("qwen3", "Qwen3ForCausalLM", dict(head_dim=64), "byte-level"),
]
# llama.cpp's name of each type, and for plain ones the largest error of a logit as a part of the largest logit.
TYPES = {
    "f32": (llama_cpp.LLAMA_FTYPE_ALL_F32, 1e-4),
    "f16": (llama_cpp.LLAMA_FTYPE_MOSTLY_F16, 5e-3),
    "q8_0": (llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, None),
    "q6_k": (llama_cpp.LLAMA_FTYPE_MOSTLY_Q6_K, None),
    "q4_k": (llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_S, None),
}


def make(folder, architecture, options, tokenizer):
    torch.manual_seed(0)
    kind = getattr(transformers, architecture)
    model = kind(kind.config_class(**(BASE | options))).eval()
    for name, value in model.named_parameters():
        value.data = torch.randn_like(value) * (0.3 if value.dim() == 1 else value.shape[-1] ** -0.5) + ("norm" in name)
    model.save_pretrained(folder)
    for file in (TOKENIZERS / tokenizer).iterdir():
        if file.name != "expected.json":
            (folder / file.name).write_bytes(file.read_bytes())
    return model


def quantise(source, target, ftype, pure=True):
    """llama.cpp's own file, with all matrices of one type where `pure`."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.pure, parameters.nthread = ftype, pure, 2
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), parameters) != 0:
        raise RuntimeError(f"llama.cpp could not quantise {source}")


def evaluate(path, ids):
    model = llama_cpp.Llama(str(path), n_ctx=64, n_threads=2, logits_all=True, verbose=False,
                            type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32)
    model.eval(ids)
    logits = np.array(model.scores[: len(ids)], dtype=np.float32)
    tokens = [model.tokenize(text.encode(), add_bos=True, special=True) for text in TEXTS]
    model.close()
    return logits, tokens


def check(program, folder, case):
    name, architecture, options, tokenizer = case
    model = make(folder, architecture, options, tokenizer)
    ids = torch.randint(5, BASE["vocab_size"], (1, 48))
    wanted = model(ids).logits[0].detach().numpy()
    peer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    texts = [peer.encode(text) for text in TEXTS]
    failures = 0
    size = lambda difference: np.sqrt((difference**2).mean() / (wanted**2).mean())
    for kind, (ftype, allowed) in TYPES.items():
        path, again, peers = folder / f"{kind}.gguf", folder / "again.gguf", folder / "peers.gguf"
        subprocess.run([program, "shrink", "-m", folder, "-o", path, "--type", kind], check=True)
        subprocess.run([program, "shrink", "-m", path, "-o", again, "--type", kind], check=True)
        logits, tokens = evaluate(path, ids[0].tolist())
        error, top = size(logits - wanted), (logits.argmax(-1) == wanted.argmax(-1)).mean()
        if allowed:
            close, beside = error <= allowed and top == 1, ""
        else:
            quantise(folder / "f32.gguf", peers, ftype)
            other = size(evaluate(peers, ids[0].tolist())[0] - wanted)
            close, beside = error <= 1.25 * other, f" (llama.cpp's {other:.1e})"
        logits_again, tokens_again = evaluate(again, ids[0].tolist())
        same = np.array_equal(logits, logits_again) and tokens == tokens_again
        right = close and tokens == texts and same
        failures += not right
        print(f"{name:11} {kind:5} error {error:.1e}{beside}  same top token {top:6.1%}  texts {tokens == texts}"
              f"  written again {same}  {'ok' if right else 'WRONG'}", flush=True)
        if tokens != texts:
            for text, ours, theirs in zip(TEXTS, tokens, texts):
                if ours != theirs:
                    print(f"  {text!r}: {ours} is not {theirs}")
    return failures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="target/release/whit")
    parser.add_argument("--only", help="one case by its name")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    failures = 0
    for case in CASES:
        if arguments.only in (None, case[0]):
            with tempfile.TemporaryDirectory() as folder:
                failures += check(arguments.program, Path(folder), case)
    raise SystemExit(failures > 0)


if __name__ == "__main__":
    main()
