"""Writes the parity fixtures of CRATE, the white-box transformer: small random checkpoints under the official names,
and what the formulas of the papers give, written out with all products (arXiv 2306.01129, 2311.13110).

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


if __name__ == "__main__":
    main()
