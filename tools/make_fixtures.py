"""Writes the parity fixtures: small random checkpoints and what transformers computes from them.

    python tools/make_fixtures.py [--out tests/fixtures] [--only NAME ...]

Every folder of a model holds what `save_pretrained` wrote (config.json, generation_config.json, safetensors),
`input.safetensors` and `expected.safetensors` (tensors named as the peer's arguments and output fields; the tuple
`hidden_states` becomes `hidden_states.0`, `hidden_states.1`, ...), and for some `generation.json` with greedy tokens.
`tokenizers/NAME` holds a tokenizer with its chat template, and `expected.json` with ids and rendered chats.

The expected values come from the checkpoint as read back from its folder, in f32, so a config that means something
else on disk cannot hide. Made with torch 2.15.0, transformers 5.23.0, tokenizers 0.23.3, safetensors 0.8.0.
"""

import argparse
import json
import math
import shutil
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

from fixtures_text import write_tokenizers

SMALL = dict(vocab_size=96, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2)
TINY = SMALL | dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_attention_heads=2, num_key_value_heads=1)
SMALL_GPT2 = dict(vocab_size=96, n_embd=32, n_layer=3, n_head=4, n_positions=40, bos_token_id=1, eos_token_id=2)
SMALL_BERT = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                  max_position_embeddings=40)
ROBERTA = SMALL_BERT | dict(max_position_embeddings=42, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2)
YARN = dict(rope_type="yarn", factor=4.0, rope_theta=100.0, original_max_position_embeddings=512)


@dataclass
class Case:
    """One checkpoint and the batch it is given."""

    name: str
    architecture: str  # a class of transformers, such as LlamaForCausalLM
    config: dict
    batch: str = "none"  # padding: none | left | right | both; left-positions adds position_ids
    length: int = 12
    legacy: bool = False  # config.json as transformers 4 wrote it
    dtype: torch.dtype = torch.float32  # of the file
    shard: str = "1GB"
    generate: bool = False
    tokenizer: str = ""  # the folder under tokenizers/ whose files are copied in
    types: bool = False  # random token_type_ids
    pad: bool = False  # hidden tokens are the padding token
    gamma: bool = False  # norms named as TensorFlow did
    edit: dict = field(default_factory=dict)  # changes to config.json: a value, or None to remove the key


def rope(parameters, **changes):
    """A tiny llama with these rope parameters."""
    return TINY | dict(rope_parameters={"rope_theta": 10000.0} | parameters) | changes


def cases():
    """Every architecture and every option that changes what is computed."""
    llama, mistral, mixtral = "LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM"
    qwen2, qwen3, gpt2 = "Qwen2ForCausalLM", "Qwen3ForCausalLM", "GPT2LMHeadModel"
    mha = dict(num_key_value_heads=4)
    window = dict(use_sliding_window=True, sliding_window=5, max_window_layers=1)
    yield Case("llama", llama, SMALL, "left", generate=True)
    yield Case("llama-text", llama, TINY | dict(vocab_size=420, bos_token_id=0, eos_token_id=1), generate=True,
               tokenizer="byte-level")
    yield Case("llama-right-padding", llama, TINY | dict(rms_norm_eps=1e-2), "right")
    yield Case("llama-positions", llama, TINY, "left-positions")
    yield Case("llama-mha-legacy", llama, TINY | dict(num_attention_heads=4) | mha, legacy=True,
               edit=dict(num_key_value_heads=None))
    yield Case("llama-head-dim", llama, TINY | dict(head_dim=20), "both")
    yield Case("llama-bias", llama, TINY | dict(attention_bias=True, mlp_bias=True), "left")
    yield Case("llama-tied", llama, TINY | dict(tie_word_embeddings=True), generate=True)
    yield Case("llama-sharded", llama, TINY, shard="40KB")
    yield Case("llama-bf16", llama, TINY, dtype=torch.bfloat16)
    yield Case("llama-f16-legacy", llama, TINY, dtype=torch.float16, legacy=True)
    yield Case("llama-base", "LlamaModel", TINY, "right")
    for act in ("gelu", "gelu_pytorch_tanh", "relu"):
        yield Case(f"llama-{act.replace('_', '-')}", llama, TINY | dict(hidden_act=act))
    yield Case("llama-rope-linear", llama, rope(dict(rope_type="linear", factor=4.0)), legacy=True)
    yield Case("llama-rope-dynamic", llama, rope(dict(rope_type="dynamic", factor=2.0), max_position_embeddings=16), length=29)
    yield Case("llama-rope-dynamic-short", llama, rope(dict(rope_type="dynamic", factor=2.0)), legacy=True)
    llama3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
    yield Case("llama-rope-llama3", llama, rope(llama3 | dict(original_max_position_embeddings=32)), "left", 40, generate=True)
    yield Case("llama-rope-llama3-legacy", llama, rope(llama3 | dict(original_max_position_embeddings=32, rope_theta=500000.0)),
               length=20, legacy=True)
    yield Case("llama-rope-yarn", llama, rope(YARN), length=40)
    yield Case("llama-rope-yarn-legacy", llama, rope(YARN | dict(attention_factor=0.8, beta_fast=16.0, beta_slow=2.0)),
               length=20, legacy=True)
    yield Case("llama-rope-yarn-truncate", llama, rope(YARN | dict(truncate=False, mscale=1.4, mscale_all_dim=0.7)), length=20)
    yield Case("mistral", mistral, SMALL | dict(sliding_window=5), "left", 20, generate=True)
    yield Case("mistral-no-window", mistral, TINY | dict(sliding_window=None, head_dim=24), "right", legacy=True)
    yield Case("mixtral", mixtral, TINY | dict(num_local_experts=4, num_experts_per_tok=2), "left", generate=True)
    yield Case("mixtral-window", mixtral, TINY | dict(num_local_experts=3, num_experts_per_tok=1, sliding_window=4), legacy=True)
    yield Case("qwen2", qwen2, SMALL | dict(tie_word_embeddings=True), "left", generate=True)
    yield Case("qwen2-window", qwen2, TINY | window, "right", 14)
    yield Case("qwen2-window-legacy", qwen2, TINY | window, length=14, legacy=True, edit=dict(layer_types=None, use_sliding_window=True))
    yield Case("qwen2-yarn-legacy", qwen2, rope(YARN), length=20, legacy=True, edit=dict(layer_types=None))
    yield Case("qwen3", qwen3, SMALL | dict(head_dim=16), "left", generate=True)
    yield Case("qwen3-window", qwen3, TINY | window | dict(head_dim=24, attention_bias=True), "both", 14)
    yield Case("gpt2", gpt2, SMALL_GPT2, "left", generate=True)
    yield Case("gpt2-options", gpt2, SMALL_GPT2 | dict(scale_attn_by_inverse_layer_idx=True, n_inner=80, activation_function="gelu",
               reorder_and_upcast_attn=True, tie_word_embeddings=False, layer_norm_epsilon=1e-2), "right")
    yield Case("gpt2-unscaled", gpt2, SMALL_GPT2 | dict(scale_attn_weights=False, activation_function="relu"), "left-positions")
    yield Case("gpt2-bare-names", "GPT2Model", SMALL_GPT2, edit=dict(architectures=["GPT2LMHeadModel"]))

    bert, roberta, xlm = "BertModel", "RobertaModel", "XLMRobertaModel"
    tokens = "ForTokenClassification"
    yield Case("bert", bert, SMALL_BERT, types=True)
    yield Case("bert-padding", bert, SMALL_BERT | dict(hidden_act="gelu_new", layer_norm_eps=1e-3), "both", types=True)
    yield Case("bert-positions", bert, SMALL_BERT | dict(type_vocab_size=3, hidden_act="relu"), "left-positions", types=True)
    yield Case("bert-tokens", "Bert" + tokens, SMALL_BERT | dict(hidden_size=64, num_labels=2), "right", types=True)
    yield Case("bert-tokens-legacy", "Bert" + tokens, SMALL_BERT | dict(num_labels=5), gamma=True)
    yield Case("roberta", roberta, ROBERTA, "right")
    yield Case("roberta-left", roberta, ROBERTA | dict(num_attention_heads=2), "left", pad=True)
    yield Case("xlm-roberta", xlm, ROBERTA)
    yield Case("xlm-roberta-padding", xlm, ROBERTA | dict(pad_token_id=3), "both", pad=True)
    yield Case("xlm-roberta-tokens", "XLMRoberta" + tokens, ROBERTA | dict(hidden_size=64, num_labels=2), "right", pad=True)


def randomise(model, seed):
    """Weights large enough that every part matters: an error anywhere moves the output."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        value = torch.randn(parameter.shape, generator=generator)
        if "embed" in name or "wte" in name or "wpe" in name:
            value *= 0.8
        elif name.endswith("bias"):
            value *= 0.3
        elif parameter.ndim == 1:  # a norm's weight
            value = 1 + 0.3 * value
        else:
            inputs = parameter.shape[-2] if "c_" in name else parameter.shape[-1]
            value *= 1.4 / math.sqrt(inputs)
        parameter.data.copy_(value)


def inputs(case, vocab, seed):
    """Two rows of tokens with the padding asked for."""
    batch = padded(case, vocab, seed)
    if case.types:
        generator = torch.Generator().manual_seed(seed + 1)
        types = case.config.get("type_vocab_size", 2)
        batch["token_type_ids"] = torch.randint(0, types, batch["input_ids"].shape, generator=generator)
    if case.pad:
        batch["input_ids"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, case.config["pad_token_id"])
    return batch


def padded(case, vocab, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, vocab, (2, case.length), generator=generator)
    if case.batch == "none":
        return {"input_ids": ids}
    mask = torch.ones_like(ids)
    pad = max(2, case.length // 4)
    if case.batch in ("left", "both", "left-positions"):
        mask[0, :pad] = 0
    if case.batch in ("right", "both"):
        mask[1, -pad:] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    if case.batch == "left-positions":
        batch["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    return batch


def legacy(config):
    """The config in the words of transformers 4."""
    parameters = config.pop("rope_parameters")
    config["rope_theta"] = parameters.pop("rope_theta")
    kind = parameters.pop("rope_type")
    if kind != "default":
        key = "rope_type" if kind == "llama3" else "type"
        config["rope_scaling"] = {key: kind} | parameters
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.44.0"
    if config["head_dim"] is None or config["head_dim"] * config["num_attention_heads"] == config["hidden_size"]:
        del config["head_dim"]
    return config


def edit_config(path, case):
    config = json.loads(path.read_text())
    if case.legacy:
        config = legacy({"head_dim": None} | config)
    config |= case.edit
    config = {key: value for key, value in config.items() if value is not None or key not in case.edit}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def add_mask_buffers(folder, layers, positions):
    """Old GPT-2 files also hold the causal mask of every layer; readers skip it."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for layer in range(layers):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, positions, positions).tril()
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(tensors, path, metadata={"format": "pt"})


def rename_norms(path):
    """Checkpoints that came from TensorFlow call the weight of a norm gamma, its bias beta."""
    tensors = load_file(path)
    old = lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    save_file({old(name): value for name, value in tensors.items()}, path, metadata={"format": "pt"})


def outputs(model, batch):
    """One forward pass, the tuple of hidden states spread into numbered names."""
    result = model(**batch, output_hidden_states=True)
    named = {f"hidden_states.{i}": state for i, state in enumerate(result.hidden_states)}
    named["last_hidden_state"] = result.hidden_states[-1]
    for name in ("logits", "pooler_output"):
        if result.get(name) is not None:
            named[name] = result[name]
    return {name: value.contiguous().clone() for name, value in named.items()}


def greedy(model, vocab, seed, count=20):
    """Greedy continuations of prompts of different lengths, run as one batch with left padding."""
    generator = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(3, vocab, (n,), generator=generator).tolist() for n in (9, 3, 6)]
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    tokens = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=count, do_sample=False, pad_token_id=0,
                            eos_token_id=None, output_logits=True, return_dict_in_generate=True)
    top = torch.stack(tokens.logits).topk(2).values
    assert (top[..., 0] - top[..., 1]).min() > 1e-3, "two tokens are nearly equal: choose another seed"
    return {"prompts": prompts, "tokens": tokens.sequences[:, width:].tolist()}


def attempt_greedy(model, vocab, seed):
    """The first seed whose every choice is clear."""
    for offset in range(100):
        try:
            return greedy(model, vocab, seed + offset)
        except AssertionError:
            continue
    raise RuntimeError("no clear greedy continuation found")


def write(case, out):
    folder = out / case.name
    shutil.rmtree(folder, ignore_errors=True)
    seed = zlib.crc32(case.name.encode())
    architecture = getattr(transformers, case.architecture)
    model = architecture(architecture.config_class(**case.config)).eval()
    randomise(model, seed)
    model.to(case.dtype).save_pretrained(folder, max_shard_size=case.shard)
    if case.gamma:
        rename_norms(folder / "model.safetensors")
    edit_config(folder / "config.json", case)
    if case.name == "gpt2-bare-names":
        add_mask_buffers(folder, model.config.n_layer, model.config.n_positions)
        architecture = transformers.GPT2LMHeadModel
    model = architecture.from_pretrained(folder, dtype=torch.float32).eval()
    if case.tokenizer:
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(out / "tokenizers" / case.tokenizer / name, folder / name)
    vocab = model.config.vocab_size
    batch = inputs(case, vocab, seed + 1)
    save_file(batch, folder / "input.safetensors")
    save_file(outputs(model, batch), folder / "expected.safetensors")
    if case.generate:
        text = json.dumps(attempt_greedy(model, vocab, seed + 2))
        (folder / "generation.json").write_text(text + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("tests/fixtures"))
    parser.add_argument("--only", nargs="*")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    torch.set_grad_enabled(False)
    if not arguments.only or "tokenizers" in arguments.only:
        write_tokenizers(arguments.out / "tokenizers")
    for case in cases():
        if not arguments.only or case.name in arguments.only:
            write(case, arguments.out)
            print(case.name, flush=True)


if __name__ == "__main__":
    main()
