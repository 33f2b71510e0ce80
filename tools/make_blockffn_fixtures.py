"""Writes the parity fixtures of BlockFFN: small random checkpoints and what a plain reference computes from them.

    python tools/make_blockffn_fixtures.py [--out tests/fixtures]

There is no class for it in transformers. The reference below is written from the formulas: MiniCPM's constants
(arXiv 2404.06395), the router and experts of BlockFFN (arXiv 2507.08771, section 3.1) and latent attention
(DeepSeek-V2, arXiv 2405.04434), with the names of config.json and of the tensors as the released checkpoints have them.
Computed in f64, stored in f32. Made with torch 2.15.0, safetensors 0.8.0.
"""

import argparse
import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file

BASE = dict(
    architectures=["MiniCPMForCausalLM"], model_type="minicpm", vocab_size=90, hidden_size=40, intermediate_size=5760,
    num_hidden_layers=3, num_attention_heads=4, hidden_act="silu", rms_norm_eps=1e-5, rope_theta=10000.0,
    rope_scaling=None, max_position_embeddings=64, initializer_range=0.1, scale_emb=12, scale_depth=1.4,
    dim_model_base=16, ffn_gated=False, router_act="relu", norm_after_router="rms", num_experts=9, expert_size=6,
    bos_token_id=1, eos_token_id=2, tie_word_embeddings=False)
CASES = {
    "blockffn": BASE | dict(ffn_type="block", attention_type="vanilla", num_key_value_heads=2),
    "blockffn-latent": BASE | dict(
        ffn_type="block_linear", attention_type="mla", num_key_value_heads=4, q_lora_rank=24, kv_lora_rank=16,
        qk_nope_head_dim=10, qk_rope_head_dim=6, v_head_dim=10, tie_word_embeddings=True),
    "minicpm": BASE | dict(
        ffn_type="vanilla", attention_type="vanilla", num_key_value_heads=4, ffn_gated=True, intermediate_size=56,
        tie_word_embeddings=True),
}


def shapes(c):
    """Every tensor's name and shape."""
    width, heads = c["hidden_size"], c["num_attention_heads"]
    yield "model.embed_tokens.weight", (c["vocab_size"], width)
    for layer in range(c["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        if c["attention_type"] == "mla":
            q, rope = c["qk_nope_head_dim"] + c["qk_rope_head_dim"], c["qk_rope_head_dim"]
            kv = c["qk_nope_head_dim"] + c["v_head_dim"]
            yield at + "self_attn.q_a_proj.weight", (c["q_lora_rank"], width)
            yield at + "self_attn.q_a_layernorm.weight", (c["q_lora_rank"],)
            yield at + "self_attn.q_b_proj.weight", (heads * q, c["q_lora_rank"])
            yield at + "self_attn.kv_a_proj_with_mqa.weight", (c["kv_lora_rank"] + rope, width)
            yield at + "self_attn.kv_a_layernorm.weight", (c["kv_lora_rank"],)
            yield at + "self_attn.kv_b_proj.weight", (heads * kv, c["kv_lora_rank"])
            yield at + "self_attn.o_proj.weight", (width, heads * c["v_head_dim"])
        else:
            dim, kv = width // heads, c["num_key_value_heads"]
            yield at + "self_attn.q_proj.weight", (heads * dim, width)
            yield at + "self_attn.k_proj.weight", (kv * dim, width)
            yield at + "self_attn.v_proj.weight", (kv * dim, width)
            yield at + "self_attn.o_proj.weight", (width, heads * dim)
        n, e = c["num_experts"], c["expert_size"]
        if c["ffn_type"] == "vanilla":
            yield at + "mlp.gate_proj.weight", (c["intermediate_size"], width)
            yield at + "mlp.up_proj.weight", (c["intermediate_size"], width)
            yield at + "mlp.down_proj.weight", (width, c["intermediate_size"])
        else:
            stacked = c["ffn_type"] == "block"
            yield at + "mlp.router_proj.weight", (n, width)
            yield at + "mlp.router_norm.weight", (n,)
            yield at + "mlp.up_proj", (n, e, width) if stacked else (n * e, width)
            yield at + "mlp.down_proj", (n, width, e) if stacked else (width, n * e)
        yield at + "input_layernorm.weight", (width,)
        yield at + "post_attention_layernorm.weight", (width,)
    yield "model.norm.weight", (width,)
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", (c["vocab_size"], width)


def draw(c, generator):
    """Random weights, norms among them negative ones in the router."""
    for name, shape in shapes(c):
        values = torch.randn(shape, generator=generator)
        if "norm" in name:
            values = values if "router" in name else 1 + 0.3 * values
        else:
            values = values * (0.1 if "embed" in name else 0.8 / math.sqrt(shape[-1]))
        yield name, values.contiguous()


def norm(x, weight, epsilon):
    return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + epsilon) * weight


def rotate(x, positions, theta):
    """Rotary positions on [batch, heads, tokens, dim], halves paired."""
    half = x.shape[-1] // 2
    angles = positions[:, None].double() * theta ** (-torch.arange(half).double() / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)


def attention(c, w, at, x):
    batch, tokens, _ = x.shape
    heads = c["num_attention_heads"]
    positions = torch.arange(tokens)
    split = lambda y, n: y.view(batch, tokens, n, -1).transpose(1, 2)
    turn = lambda y: rotate(y, positions, c["rope_theta"])
    if c["attention_type"] == "mla":
        nope, rope, rank = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["kv_lora_rank"]
        latent = norm(x @ w[at + "q_a_proj.weight"].T, w[at + "q_a_layernorm.weight"], 1e-6)
        q = split(latent @ w[at + "q_b_proj.weight"].T, heads)
        q = torch.cat([q[..., :nope], turn(q[..., nope:])], -1)
        both = x @ w[at + "kv_a_proj_with_mqa.weight"].T
        shared = turn(both[..., rank:].view(batch, 1, tokens, rope)).expand(-1, heads, -1, -1)
        latent = norm(both[..., :rank], w[at + "kv_a_layernorm.weight"], 1e-6)
        kv = split(latent @ w[at + "kv_b_proj.weight"].T, heads)
        k, v = torch.cat([kv[..., :nope], shared], -1), kv[..., nope:]
    else:
        q = turn(split(x @ w[at + "q_proj.weight"].T, heads))
        k = turn(split(x @ w[at + "k_proj.weight"].T, c["num_key_value_heads"]))
        v = split(x @ w[at + "v_proj.weight"].T, c["num_key_value_heads"])
        k, v = (y.repeat_interleave(heads // y.shape[1], 1) for y in (k, v))
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(torch.ones(tokens, tokens).triu(1).bool(), -math.inf)
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, tokens, -1)
    return mixed @ w[at + "o_proj.weight"].T


def feed_forward(c, w, at, x):
    silu = torch.nn.functional.silu
    up, down = (w.get(at + name, w.get(at + name + ".weight")) for name in ("up_proj", "down_proj"))
    if c["ffn_type"] == "vanilla":
        return (silu(x @ w[at + "gate_proj.weight"].T) * (x @ up.T)) @ down.T
    n, e, width = c["num_experts"], c["expert_size"], c["hidden_size"]
    if c["ffn_type"] == "block_linear":
        up, down = up.view(n, e, width), down.view(width, n, e).transpose(0, 1)
    scores = (x @ w[at + "router_proj.weight"].T).relu()
    gates = norm(scores, w[at + "router_norm.weight"], c["rms_norm_eps"])
    share = (gates != 0).double().mean().item()
    assert 0.2 < share < 0.8, share
    parts = [silu(x @ up[i].T) @ down[i].T * gates[..., i : i + 1] for i in range(n)]
    return sum(parts)


def run(c, w, ids):
    depth = c["scale_depth"] / math.sqrt(c["num_hidden_layers"])
    x = w["model.embed_tokens.weight"][ids] * c["scale_emb"]
    states = []
    for layer in range(c["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        states.append(x)
        x = x + depth * attention(c, w, at + "self_attn.", norm(x, w[at + "input_layernorm.weight"], c["rms_norm_eps"]))
        y = norm(x, w[at + "post_attention_layernorm.weight"], c["rms_norm_eps"])
        x = x + depth * feed_forward(c, w, at + "mlp.", y)
    x = norm(x, w["model.norm.weight"], c["rms_norm_eps"])
    head = w["model.embed_tokens.weight"] if c["tie_word_embeddings"] else w["lm_head.weight"]
    logits = x / (c["hidden_size"] / c["dim_model_base"]) @ head.T
    named = {f"hidden_states.{i}": state for i, state in enumerate(states + [x])}
    return named | {"last_hidden_state": x.clone(), "logits": logits}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("tests/fixtures"))
    out = parser.parse_args().out
    for seed, (name, config) in enumerate(CASES.items()):
        generator = torch.Generator().manual_seed(seed)
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        weights = dict(draw(config, generator))
        ids = torch.randint(0, config["vocab_size"], (2, 14), generator=generator)
        expected = run(config, {key: value.double() for key, value in weights.items()}, ids)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        save_file({"input_ids": ids}, folder / "input.safetensors")
        save_file({k: v.float().contiguous() for k, v in expected.items()}, folder / "expected.safetensors")


if __name__ == "__main__":
    main()
