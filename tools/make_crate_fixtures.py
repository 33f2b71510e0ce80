"""Writes the parity fixtures of CRATE, the white-box transformer: small random checkpoints under the official names,
and what the formulas of the papers give, written out with all products (arXiv 2306.01129, 2311.13110, 2404.02446).

    python tools/make_crate_fixtures.py [--out tests/fixtures]

Nothing here is shared with the engine or taken from the official repository. Folders are as those of
make_fixtures.py. Made with torch 2.15.0, safetensors 0.8.0.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn.functional import layer_norm

WIDTH, HEADS, LAYERS, IMAGE, PATCH, CLASSES = 32, 4, 3, 16, 4, 5
ETA, LAMBDA = 0.1, 0.1


def norm(x, weights, name, eps=1e-5):
    return layer_norm(x, x.shape[-1:], weights[name + ".weight"], weights[name + ".bias"], eps)


def subspace_attention(y, project, heads, causal=False):
    """softmax(w w^T / sqrt(d_h)) w for every subspace, side by side."""
    batch, tokens, width = y.shape
    w = (y @ project.T).reshape(batch, tokens, heads, width // heads).transpose(1, 2)
    scores = w @ w.transpose(2, 3) / (width // heads) ** 0.5
    if causal:
        scores = scores.masked_fill(torch.ones(tokens, tokens).triu(1).bool(), float("-inf"))
    return (scores.softmax(-1) @ w).transpose(1, 2).reshape(batch, tokens, width)


def ista(z, dictionary):
    """One proximal step, with the three products of the paper's formula."""
    gradient = z @ dictionary - z @ dictionary.T @ dictionary
    return torch.relu(z + ETA * gradient - ETA * LAMBDA)


def classifier(weights, pixels, pool, tied):
    batch, side = pixels.shape[0], IMAGE // PATCH
    patches = torch.stack([
        torch.stack([image[:, r * PATCH + p, c * PATCH + q] for p in range(PATCH) for q in range(PATCH)]).reshape(-1)
        for image in pixels for r in range(side) for c in range(side)
    ]).reshape(batch, side * side, -1)
    x = norm(patches, weights, "to_patch_embedding.1")
    x = x @ weights["to_patch_embedding.2.weight"].T + weights["to_patch_embedding.2.bias"]
    x = norm(x, weights, "to_patch_embedding.3")
    x = torch.cat([weights["cls_token"].expand(batch, 1, WIDTH), x], 1) + weights["pos_embedding"]
    states = [x]
    for layer in range(LAYERS):
        name = f"transformer.layers.{layer}."
        project = weights[name + "0.fn.qkv.weight"]
        seen = subspace_attention(norm(x, weights, name + "0.norm"), project, HEADS)
        if tied:
            x = x + seen @ project
        else:
            x = x + seen @ weights[name + "0.fn.to_out.0.weight"].T + weights[name + "0.fn.to_out.0.bias"]
        x = ista(norm(x, weights, name + "1.norm"), weights[name + "1.fn.weight"])
        states.append(x)
    pooled = norm(x.mean(1) if pool == "mean" else x[:, 0], weights, "mlp_head.0")
    logits = pooled @ weights["mlp_head.1.weight"].T + weights["mlp_head.1.bias"]
    hidden = {f"hidden_states.{i}": state for i, state in enumerate(states)}
    return {"last_hidden_state": x, "logits": logits} | hidden


def random(shapes, seed):
    """Weights large enough that every part matters."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator)
        if name.endswith("bias"):
            value *= 0.3
        elif len(shape) == 1:
            value = 1 + 0.3 * value
        elif len(shape) == 2:
            value *= 1.4 / shape[1] ** 0.5
        weights[name] = value
    return weights


def classifier_shapes(tied):
    values = 3 * PATCH * PATCH
    def normed(name, width):
        return {name + ".weight": (width,), name + ".bias": (width,)}
    shapes = {"cls_token": (1, 1, WIDTH), "pos_embedding": (1, (IMAGE // PATCH) ** 2 + 1, WIDTH)}
    shapes |= normed("to_patch_embedding.1", values) | normed("to_patch_embedding.3", WIDTH)
    shapes |= {"to_patch_embedding.2.weight": (WIDTH, values), "to_patch_embedding.2.bias": (WIDTH,)}
    for layer in range(LAYERS):
        name = f"transformer.layers.{layer}."
        shapes |= normed(name + "0.norm", WIDTH) | normed(name + "1.norm", WIDTH)
        shapes |= {name + "0.fn.qkv.weight": (WIDTH, WIDTH), name + "1.fn.weight": (WIDTH, WIDTH)}
        if not tied:
            shapes |= {name + "0.fn.to_out.0.weight": (WIDTH, WIDTH), name + "0.fn.to_out.0.bias": (WIDTH,)}
    shapes |= normed("mlp_head.0", WIDTH)
    return shapes | {"mlp_head.1.weight": (CLASSES, WIDTH), "mlp_head.1.bias": (CLASSES,)}


VOCABULARY, POSITIONS = 64, 24


def language_shapes():
    shapes = {"transformer.wte.weight": (VOCABULARY, WIDTH), "transformer.wpe.weight": (POSITIONS, WIDTH)}
    for layer in range(LAYERS):
        name = f"transformer.h.{layer}."
        for norm_name in ("prenorm_1", "prenorm_2"):
            shapes |= {f"{name}{norm_name}.weight": (WIDTH,), f"{name}{norm_name}.bias": (WIDTH,)}
        shapes |= {name + "attn.c_attn.weight": (WIDTH, WIDTH), name + "attn.c_proj.weight": (WIDTH, WIDTH)}
        shapes |= {name + "attn.c_proj.bias": (WIDTH,), name + "ista.weight": (WIDTH, WIDTH)}
    return shapes


def language(weights, ids):
    """GPT-2 with white-box blocks; the head reads the last one's output as it is."""
    x = weights["transformer.wte.weight"][ids] + weights["transformer.wpe.weight"][: ids.shape[1]]
    states = [x]
    for layer in range(LAYERS):
        name = f"transformer.h.{layer}."
        y = norm(x, weights, name + "prenorm_1")
        seen = subspace_attention(y, weights[name + "attn.c_attn.weight"], HEADS, causal=True)
        x = x + seen @ weights[name + "attn.c_proj.weight"].T + weights[name + "attn.c_proj.bias"]
        x = ista(norm(x, weights, name + "prenorm_2"), weights[name + "ista.weight"])
        states.append(x)
    hidden = {f"hidden_states.{i}": state for i, state in enumerate(states[:-1])}
    return {"logits": x @ weights["transformer.wte.weight"].T} | hidden


def write_language(folder, seed):
    config = {
        "architectures": ["CrateForCausalLM"], "model_type": "crate_gpt", "vocab_size": VOCABULARY, "n_embd": WIDTH,
        "n_layer": LAYERS, "n_head": HEADS, "n_positions": POSITIONS, "ista": ETA, "lambd": LAMBDA,
    }
    weights = random(language_shapes(), seed)
    ids = torch.randint(VOCABULARY, (2, 11), generator=torch.Generator().manual_seed(seed + 1))
    write(folder, config, weights, {"input_ids": ids}, language(weights, ids))


def encoder_shapes():
    tables = {"word_embeddings": VOCABULARY, "position_embeddings": POSITIONS, "token_type_embeddings": 2}
    shapes = {f"embeddings.{name}.weight": (rows, WIDTH) for name, rows in tables.items()}
    names = ["embeddings.LayerNorm"]
    for layer in range(2):
        name = f"encoder.layer.{layer}."
        names += [name + "attention.output.LayerNorm", name + "output.LayerNorm"]
        matrices = ("attention.self.query", "attention.output.dense", "output.dictionary")
        shapes |= {f"{name}{matrix}.weight": (WIDTH, WIDTH) for matrix in matrices}
        shapes[name + "attention.output.dense.bias"] = (WIDTH,)
    for name in names:
        shapes |= {name + ".weight": (WIDTH,), name + ".bias": (WIDTH,)}
    return shapes


def encoder(weights, ids):
    """BERT's embeddings, then white-box blocks that see both sides."""
    table = {name: weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")}
    x = norm(table["word"][ids] + table["position"][: ids.shape[1]] + table["token_type"][0], weights, "embeddings.LayerNorm")
    states = [x]
    for layer in range(2):
        name = f"encoder.layer.{layer}."
        y = norm(x, weights, name + "attention.output.LayerNorm")
        seen = subspace_attention(y, weights[name + "attention.self.query.weight"], HEADS)
        dense = name + "attention.output.dense"
        x = x + seen @ weights[dense + ".weight"].T + weights[dense + ".bias"]
        x = ista(norm(x, weights, name + "output.LayerNorm"), weights[name + "output.dictionary.weight"])
        states.append(x)
    return {"last_hidden_state": x} | {f"hidden_states.{i}": state for i, state in enumerate(states)}


def write_encoder(folder, seed):
    config = {
        "architectures": ["CrateBertModel"], "model_type": "crate_bert", "vocab_size": VOCABULARY, "hidden_size": WIDTH,
        "num_hidden_layers": 2, "num_attention_heads": HEADS, "intermediate_size": WIDTH,
        "max_position_embeddings": POSITIONS, "type_vocab_size": 2, "layer_norm_eps": 1e-5, "ista": ETA, "lambd": LAMBDA,
    }
    weights = random(encoder_shapes(), seed)
    ids = torch.randint(VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(seed + 1))
    write(folder, config, weights, {"input_ids": ids}, encoder(weights, ids))


def waves(places):
    """Sines and cosines of every place, at wavelengths from 1 to 10000."""
    quarter = WIDTH // 4
    angles = places[:, None].double() / 10000 ** (torch.arange(quarter).double() / quarter)
    return torch.cat([angles.sin(), angles.cos()], 1).float()


def autoencoder_shapes():
    shapes = {"cls_token": (1, 1, WIDTH), "mask_token": (1, 1, WIDTH)}
    shapes |= {"patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH), "patch_embed.proj.bias": (WIDTH,)}
    for stack in ("blocks", "decoder_blocks"):
        for layer in range(LAYERS):
            for part, matrices in (("0", ("qkv", "to_out.0")), ("1", ("",))):
                name = f"{stack}.{layer}.layers.0.{part if stack == 'blocks' else 1 - int(part)}."
                shapes |= {name + "norm.weight": (WIDTH,), name + "norm.bias": (WIDTH,)}
                shapes |= {f"{name}fn.{matrix}.weight".replace("..", "."): (WIDTH, WIDTH) for matrix in matrices}
                if "to_out.0" in matrices:
                    shapes[name + "fn.to_out.0.bias"] = (WIDTH,)
    for name in ("norm", "decoder_norm"):
        shapes |= {name + ".weight": (WIDTH,), name + ".bias": (WIDTH,)}
    return shapes | {"decoder_pred.weight": (3 * PATCH * PATCH, WIDTH), "decoder_pred.bias": (3 * PATCH * PATCH,)}


def attention_of(x, weights, name):
    seen = subspace_attention(norm(x, weights, name + "norm"), weights[name + "fn.qkv.weight"], HEADS)
    return seen @ weights[name + "fn.to_out.0.weight"].T + weights[name + "fn.to_out.0.bias"]


def autoencoder(weights, pixels, noise, ratio, normalised):
    batch, side = pixels.shape[0], IMAGE // PATCH
    cells = pixels.reshape(batch, 3, side, PATCH, side, PATCH).permute(0, 2, 4, 1, 3, 5)
    x = cells.reshape(batch, side * side, -1) @ weights["patch_embed.proj.weight"].reshape(WIDTH, -1).T
    x = x + weights["patch_embed.proj.bias"]
    rank = noise.argsort(1).argsort(1)
    hidden = (rank >= int(side * side * (1 - ratio))).float()
    x = torch.where(hidden[..., None] > 0, weights["mask_token"], x)
    place = torch.arange(side * side)
    table = torch.cat([torch.zeros(1, WIDTH), torch.cat([waves(place % side), waves(place // side)], 1)])
    x = torch.cat([weights["cls_token"].expand(batch, 1, WIDTH), x], 1) + table
    for layer in range(LAYERS):
        name = f"blocks.{layer}.layers.0."
        x = x + attention_of(x, weights, name + "0.")
        z, d = norm(x, weights, name + "1.norm"), weights[name + "1.fn.weight"]
        x = torch.relu(z + ETA * (z @ d - z @ d.T @ d) - ETA * 0.5)
    encoded = norm(x, weights, "norm", 1e-6)
    x = encoded
    for layer in range(LAYERS):
        name = f"decoder_blocks.{layer}.layers.0."
        y = norm(x, weights, name + "0.norm") @ weights[name + "0.fn.weight"].T
        x = y - attention_of(y, weights, name + "1.")
    predicted = norm(x, weights, "decoder_norm", 1e-6) @ weights["decoder_pred.weight"].T + weights["decoder_pred.bias"]
    predicted = predicted[:, 1:]
    target = cells.permute(0, 1, 2, 4, 5, 3).reshape(batch, side * side, -1)
    if normalised:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
    errors = ((predicted - target) ** 2).mean(-1)
    return {
        "last_hidden_state": encoded, "logits": predicted, "mask": hidden, "ids_restore": rank.float(),
        "loss": (errors * hidden).sum() / hidden.sum(),
    }


def write_autoencoder(folder, seed, normalised):
    config = {
        "architectures": ["CrateMaeForPreTraining"], "model_type": "crate_mae", "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "image_size": IMAGE, "patch_size": PATCH,
        "mask_ratio": 0.6, "norm_pix_loss": normalised,
    }
    weights = random(autoencoder_shapes(), seed)
    generator = torch.Generator().manual_seed(seed + 1)
    pixels = torch.randn(2, 3, IMAGE, IMAGE, generator=generator)
    noise = torch.rand(2, (IMAGE // PATCH) ** 2, generator=generator)
    inputs = {"pixel_values": pixels, "noise": noise}
    write(folder, config, weights, inputs, autoencoder(weights, pixels, noise, 0.6, normalised))


def write(folder, config, weights, inputs, expected):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    save_file(inputs, folder / "input.safetensors")
    save_file({name: value.contiguous().clone() for name, value in expected.items()}, folder / "expected.safetensors")


def write_classifier(folder, seed, pool="cls", tied=False):
    config = {
        "architectures": ["CrateForImageClassification"], "model_type": "crate", "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "image_size": IMAGE, "patch_size": PATCH,
        "num_labels": CLASSES, "pool": pool, "ista": ETA, "lambd": LAMBDA, "tied_output": tied,
    }
    weights = random(classifier_shapes(tied), seed)
    pixels = torch.randn(2, 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(seed + 1))
    write(folder, config, weights, {"pixel_values": pixels}, classifier(weights, pixels, pool, tied))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("tests/fixtures"))
    out = parser.parse_args().out
    with torch.no_grad():
        write_classifier(out / "crate", 1)
        write_classifier(out / "crate-tied-mean", 2, pool="mean", tied=True)
        write_language(out / "crate-gpt", 3)
        write_encoder(out / "crate-bert", 6)
        write_autoencoder(out / "crate-mae", 4, normalised=False)
        write_autoencoder(out / "crate-mae-normalised", 5, normalised=True)


if __name__ == "__main__":
    main()
