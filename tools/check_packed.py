"""Checks that the packed folders which `whit shrink --with gptq` writes mean to others what they mean to Whit.

    cargo build --release
    python tools/check_packed.py --model models/rust-lm

The layout is read a second time, from its definition and without any of Whit's code. A linear layer of `inputs` x
`outputs` weights in groups of `group` inputs is four tensors: `qweight`, 32-bit words of 32 / bits levels of
neighbouring inputs, lowest first; `qzeros`, the same over neighbouring outputs, each zero one less than it is in the
format `gptq` and as it is in `gptq_v2`; `scales`; and `g_idx`, the group of every input. A weight is
`scale * (level - zero)`. The matrices must be those of the folder that `--dense` writes, and transformers' logits with
them those of `whit forward` on the packed folder. Needs torch, transformers, safetensors and numpy. With gptqmodel
and optimum installed, transformers loads the packed folder itself too (`--load`), which rounds to 16 bits.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

CASES = [
    "gptq:bits=4,group=64,symmetric=true",
    "gptq:bits=4,group=64",
    "gptq:bits=4,group=0",
    "gptq:bits=8,group=64,symmetric=true",
    "rtn:bits=4,group=64",
]


def read(path):
    """All tensors as numpy's, numbers as f32 and words as they are."""
    plain = lambda tensor: tensor.float() if tensor.is_floating_point() else tensor
    return {name: plain(tensor).numpy() for name, tensor in load_file(path).items()}


def levels(words, bits, axis):
    """All levels of `words`, neighbours along `axis`."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    apart = (words.view(np.uint32)[..., None] >> shifts) & np.uint32(2**bits - 1)
    if axis == 1:
        return apart.reshape(words.shape[0], -1)
    return apart.transpose(0, 2, 1).reshape(-1, words.shape[1])


def unpack(tensors, layer, settings):
    """The matrix `[outputs, inputs]` of a packed layer."""
    bits = settings["bits"]
    level = levels(tensors[f"{layer}.qweight"], bits, 0).astype(np.float32)  # [inputs, outputs]
    zero = levels(tensors[f"{layer}.qzeros"], bits, 1).astype(np.float32)  # [groups, outputs]
    if settings.get("checkpoint_format", "gptq") == "gptq":
        zero += 1
    group = tensors[f"{layer}.g_idx"]
    scale = tensors[f"{layer}.scales"]
    return (scale[group] * (level - zero[group])).T.copy()


def shrink(program, model, method, target, *options):
    command = [program, "shrink", "-m", model, "--with", method, "--samples", "16", "--out", target, *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def forward(program, model, ids, folder):
    source, target = folder / "input.safetensors", folder / "output.safetensors"
    save_file({"input_ids": ids}, source)
    command = [program, "forward", "--model", model, "--input", source, "--out", target, "--dtype", "f32"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return read(target)["logits"]


def reference(folder, matrices):
    """transformers' model of the folder, with plain matrices."""
    config = json.loads((folder / "config.json").read_text())
    config.pop("quantization_config")
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).eval()
    missing, unknown = model.load_state_dict({k: torch.tensor(v) for k, v in matrices.items()}, strict=False)
    assert not unknown and set(missing) <= {"lm_head.weight"}, (missing, unknown)
    model.tie_weights()
    return model


def distance(a, b):
    return float(np.abs(a - b).max() / np.abs(b).max())


def check(arguments, method, folder):
    packed, dense = folder / "packed", folder / "dense"
    shrink(arguments.program, arguments.model, method, packed)
    shrink(arguments.program, arguments.model, method, dense, "--dense", "--type", "f32")
    settings = json.loads((packed / "config.json").read_text())["quantization_config"]
    tensors, plain = read(packed / "model.safetensors"), read(dense / "model.safetensors")
    layers = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    matrices = {f"{layer}.weight": unpack(tensors, layer, settings) for layer in layers}
    worst = max(distance(matrices[name], plain[name]) for name in matrices)
    rest = {name: value for name, value in tensors.items() if name.rsplit(".", 1)[0] not in layers}
    ids = torch.randint(1, 2000, (2, 64), generator=torch.Generator().manual_seed(0))
    model = reference(packed, matrices | rest)
    wanted = model(ids).logits.detach().numpy()
    own = forward(arguments.program, packed, ids, folder)
    apart = distance(own, wanted)
    right = worst < 1e-6 and apart < 1e-4 and len(layers) > 0
    print(f"{method}: {settings['checkpoint_format']}, sym {settings['sym']}, {len(layers)} packed layers, matrices "
          f"within {worst:.1e} of the plain folder's, logits within {apart:.1e} of transformers'  "
          f"{'ok' if right else 'WRONG'}", flush=True)
    if arguments.load:
        loaded = transformers.AutoModelForCausalLM.from_pretrained(packed, device_map="cpu").eval()
        theirs = loaded(ids).logits.float().detach().numpy()
        apart, same = distance(theirs, wanted), (theirs.argmax(-1) == wanted.argmax(-1)).mean()
        right &= apart < 2e-2 and same > 0.95
        print(f"  loaded by transformers: within {apart:.1e}, same top token {same:.1%}  {'ok' if right else 'WRONG'}")
    return right


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="target/release/whit")
    parser.add_argument("--model", default="models/rust-lm")
    parser.add_argument("--load", action="store_true", help="also let transformers load the folder (needs gptqmodel and optimum)")
    arguments = parser.parse_args()
    wrong = 0
    for method in CASES:
        with tempfile.TemporaryDirectory() as folder:
            wrong += not check(arguments, method, Path(folder))
    raise SystemExit(wrong > 0)


if __name__ == "__main__":
    main()
