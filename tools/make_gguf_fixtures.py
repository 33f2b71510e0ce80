"""Writes the GGUF fixtures: small files made with the gguf package and llama.cpp's quantiser, and what llama.cpp
computes from them.

    python tools/make_gguf_fixtures.py [--out tests/fixtures/gguf]

In `NAME/`, `model.gguf` is the model and `texts.json` llama.cpp's tokens for some texts. `expected.safetensors` holds
for every position of `input.safetensors` llama.cpp's `logits` (its key-value cache in f32; it rounds activations to
8 bits where weights are quantised), and `logits_f32`, what transformers computes in f32 from the same weights, as the
gguf package reads them back. `blocks.safetensors` holds, for each block type, the bytes
llama.cpp's quantiser makes of `values` and the numbers that the gguf package reads back from them.
Made with llama-cpp-python 0.3.36, gguf 0.19.0, torch 2.15.0 and transformers 5.23.0.
"""

import argparse
import ctypes
import json
import tempfile
import zlib
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import torch
import transformers
from safetensors.numpy import save_file

from make_fixtures import SMALL, randomise

TEXTS = ["Hello, world!", "The quick brown fox", "it's what we'll say", "日本語 🦀 ñ", "fn add(a: u32)\n\n  12345"]
BASE = SMALL | dict(vocab_size=420, hidden_size=32, num_attention_heads=2, num_key_value_heads=1, bos_token_id=0, eos_token_id=1)
WIDE = BASE | dict(hidden_size=256, intermediate_size=256, num_attention_heads=4, num_key_value_heads=1, num_hidden_layers=1)
FTYPES = {"f32": llama_cpp.LLAMA_FTYPE_ALL_F32, "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "q4_k_m": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M}
CASES = [
    ("llama-f32", "LlamaForCausalLM", BASE, "f32"),
    ("llama-q8_0", "LlamaForCausalLM", BASE, "q8_0"),
    ("llama-q4_k_m", "LlamaForCausalLM", WIDE, "q4_k_m"),
    ("qwen2-q8_0", "Qwen2ForCausalLM", BASE | dict(tie_word_embeddings=True), "q8_0"),
    ("qwen3-q8_0", "Qwen3ForCausalLM", BASE | dict(head_dim=32), "q8_0"),
]


def permuted(weight, heads):
    """llama.cpp turns neighbours instead of halves for llama: the rows of each head interleave."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def tensors(model):
    """The tensors under GGUF's names."""
    config = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[config.model_type.upper()], config.num_hidden_layers)
    for name, value in model.state_dict().items():
        array = value.float().numpy()
        if config.model_type == "llama" and name.endswith("q_proj.weight"):
            array = permuted(array, config.num_attention_heads)
        if config.model_type == "llama" and name.endswith("k_proj.weight"):
            array = permuted(array, config.num_key_value_heads)
        if not (name == "lm_head.weight" and config.tie_word_embeddings):
            yield names.get_name(name, try_suffixes=(".weight", ".bias")), np.ascontiguousarray(array)


def restored(weight, heads):
    """The inverse of `permuted`."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def reread(model, path):
    """Puts the file's weights, as numbers, into the model."""
    stored = {tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in gguf.GGUFReader(path).tensors}
    config = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[config.model_type.upper()], config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        array = stored[names.get_name(name, try_suffixes=(".weight", ".bias"))]
        if config.model_type == "llama" and name.endswith("q_proj.weight"):
            array = restored(array, config.num_attention_heads)
        if config.model_type == "llama" and name.endswith("k_proj.weight"):
            array = restored(array, config.num_key_value_heads)
        parameter.data.copy_(torch.tensor(np.ascontiguousarray(array)))


def write_tokenizer(writer, folder):
    described = json.loads((folder / "tokenizer.json").read_text())
    vocab = sorted(described["model"]["vocab"], key=described["model"]["vocab"].get)
    special = {token["content"] for token in described["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(vocab)
    writer.add_token_types([gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in vocab])
    merges = described["model"]["merges"]
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(True)
    writer.add_chat_template((folder / "chat_template.jinja").read_text())


def write_gguf(path, model, tokenizer):
    """The model in f32."""
    config = model.config
    writer = gguf.GGUFWriter(path, config.model_type)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_rope_dimension_count(head_dim)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    write_tokenizer(writer, tokenizer)
    for name, array in tensors(model):
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantise(source, target, ftype):
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = FTYPES[ftype]
    parameters.nthread = 1
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), parameters) != 0:
        raise RuntimeError(f"llama.cpp could not quantise {source}")


def expected(path, ids):
    """llama.cpp's logits of every position, and its tokens for the texts."""
    model = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, logits_all=True, verbose=False,
                            type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32)
    model.eval(ids)
    logits = np.array(model.scores[: len(ids)], dtype=np.float32)
    texts = [{"text": text, "ids": model.tokenize(text.encode(), add_bos=True, special=True)} for text in TEXTS]
    model.close()
    return logits, texts


def write_case(out, name, architecture, config, ftype):
    seed = zlib.crc32(name.encode())
    kind = getattr(transformers, architecture)
    model = kind(kind.config_class(**config)).eval()
    randomise(model, seed)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.gguf"
        write_gguf(plain, model, out.parent / "tokenizers/byte-level")
        path = out / name / "model.gguf"
        path.parent.mkdir(exist_ok=True)
        if ftype == "f32":
            path.write_bytes(plain.read_bytes())
        else:
            quantise(plain, path, ftype)
    ids = np.random.default_rng(seed).integers(5, model.config.vocab_size, 12)
    logits, texts = expected(path, ids.tolist())
    save_file({"input_ids": ids[None]}, path.with_name("input.safetensors"))
    reread(model, path)
    exact = model(torch.tensor(ids)[None]).logits.numpy()
    save_file({"logits": logits[None], "logits_f32": exact}, path.with_name("expected.safetensors"))
    path.with_name("texts.json").write_text(json.dumps(texts, ensure_ascii=False) + "\n")
    far = np.abs(exact[0] - logits).max() / np.abs(exact).max()
    assert far < (1e-4 if ftype == "f32" else 0.1), f"{name}: the file does not mean the model ({far:.1e})"
    print(name, flush=True)


def write_blocks(out):
    """Bytes and numbers of each block type, from the quantiser itself."""
    base = ctypes.CDLL(str(next((Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.so*"))))
    values = (np.random.default_rng(7).standard_normal((3, 512)) * [[0.02], [1.0], [30.0]]).astype(np.float32)
    named = {"values": values}
    base.ggml_quantize_chunk.restype = ctypes.c_size_t
    base.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [ctypes.c_void_p]
    for kind in ("Q4_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K"):
        type = gguf.GGMLQuantizationType[kind]
        length, size = gguf.GGML_QUANT_SIZES[type]
        blocks = np.zeros((3, 512 // length * size), np.uint8)
        base.ggml_quantize_chunk(type, values.ctypes.data, blocks.ctypes.data, 0, 3, 512, None)
        named[f"{kind.lower()}.blocks"] = blocks
        named[f"{kind.lower()}.values"] = gguf.quants.dequantize(blocks, type)
    save_file(named, out / "blocks.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("tests/fixtures/gguf"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_grad_enabled(False)
    write_blocks(out)
    for case in CASES:
        write_case(out, *case)


if __name__ == "__main__":
    main()
