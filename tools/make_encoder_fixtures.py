"""Writes the parity fixtures of encoders: small random checkpoints of vision and text models, and what
transformers computes from them.

    python tools/make_encoder_fixtures.py [--out tests/fixtures] [--only NAME ...]

Folders are as those of make_fixtures.py: a model as `save_pretrained` wrote it, `input.safetensors` with the
arguments of one forward pass and `expected.safetensors` with what came out, in f32, of the checkpoint as read back.
Made with torch 2.15.0, transformers 5.24.0, safetensors 0.8.0.
"""

import argparse
import json
import shutil
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

SMALL = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=16, patch_size=4)
DINO = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=16, patch_size=4, mlp_ratio=2)
MAE = SMALL | dict(decoder_num_hidden_layers=1, decoder_hidden_size=16, decoder_num_attention_heads=2, decoder_intermediate_size=16)
CLIP_TEXT = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, vocab_size=64,
                 max_position_embeddings=20, bos_token_id=62, eos_token_id=63)
T5 = dict(d_model=32, d_kv=12, d_ff=48, num_layers=2, num_heads=4, vocab_size=64)


@dataclass
class Case:
    """One checkpoint and the batch it is given."""

    name: str
    architecture: str  # a class of transformers
    config: dict
    image: tuple = (16, 16)  # height and width of the images, or none
    length: int = 0  # of the texts, or none
    batch: str = "none"  # padding of the texts: none | left | right
    noise: bool = False
    layout: str = "disk"  # disk, memory (transformers 5's own names) or timm
    dtype: torch.dtype = torch.float32
    edit: dict = field(default_factory=dict)  # changes to config.json: a value, or None to remove the key


def cases():
    """Every architecture and every option that changes what is computed."""
    classify = "ForImageClassification"
    yield Case("vit", "ViT" + classify, SMALL | dict(num_labels=5))
    yield Case("vit-pooler", "ViTModel", SMALL | dict(hidden_act="gelu_new", layer_norm_eps=1e-3, pooler_output_size=20))
    yield Case("vit-options", "ViT" + classify, SMALL | dict(qkv_bias=False, num_channels=1, hidden_act="relu", num_labels=3),
               edit=dict(id2label=None, label2id=None, num_labels=3))
    yield Case("vit-larger", "ViT" + classify, SMALL, image=(24, 21))
    yield Case("vit-smaller", "ViTModel", SMALL, image=(8, 12))
    yield Case("vit-memory-names", "ViT" + classify, SMALL, layout="memory")
    yield Case("vit-timm-names", "ViT" + classify, SMALL | dict(layer_norm_eps=1e-6), layout="timm")
    yield Case("deit", "DeiT" + classify, SMALL)
    yield Case("deit-distilled", "DeiTForImageClassificationWithTeacher", SMALL | dict(num_labels=4), image=(20, 16))
    yield Case("deit-timm-names", "DeiTForImageClassificationWithTeacher", SMALL, layout="timm")
    yield Case("vit-mae", "ViTMAEModel", SMALL | dict(mask_ratio=0.6), noise=True)
    yield Case("vit-mae-pretraining", "ViTMAEForPreTraining", MAE, noise=True)
    yield Case("dinov2", "Dinov2Model", DINO, image=(24, 20))
    yield Case("dinov2-classes", "Dinov2" + classify, DINO | dict(qkv_bias=False, num_labels=3))
    yield Case("dinov2-swiglu", "Dinov2Model", DINO | dict(use_swiglu_ffn=True, mlp_ratio=3))
    yield Case("dinov2-swiglu-memory-names", "Dinov2Model", DINO | dict(use_swiglu_ffn=True), layout="memory")
    yield Case("dinov2-timm-names", "Dinov2Model", DINO | dict(use_swiglu_ffn=True), layout="timm")
    registers = "Dinov2WithRegisters"
    yield Case("dinov2-registers", registers + classify, DINO | dict(num_register_tokens=3), image=(24, 20))
    yield Case("dinov2-registers-smaller", registers + "Model", DINO, image=(8, 12))
    both = dict(text_config=CLIP_TEXT, vision_config=SMALL, projection_dim=20)
    yield Case("clip", "CLIPModel", both, length=9)
    yield Case("clip-legacy-end", "CLIPModel", both | dict(text_config=CLIP_TEXT | dict(eos_token_id=2)), length=9, batch="right")
    yield Case("clip-vision", "CLIPVisionModel", SMALL | dict(hidden_act="gelu"), image=(20, 16))
    yield Case("clip-vision-projection", "CLIPVisionModelWithProjection", SMALL | dict(projection_dim=12))
    yield Case("clip-text", "CLIPTextModel", CLIP_TEXT, image=(), length=9, batch="right")
    yield Case("clip-text-projection", "CLIPTextModelWithProjection", CLIP_TEXT | dict(projection_dim=12, hidden_act="gelu"),
               image=(), length=9)
    yield Case("t5", "T5EncoderModel", T5, image=(), length=40, batch="right")
    yield Case("t5-gated", "T5EncoderModel", T5 | dict(feed_forward_proj="gated-gelu", relative_attention_num_buckets=8,
               relative_attention_max_distance=20), image=(), length=30, batch="left")
    yield Case("t5-whole", "T5ForConditionalGeneration", T5 | dict(feed_forward_proj="gated-silu", num_decoder_layers=1),
               image=(), length=8)
    yield Case("mt5", "MT5EncoderModel", T5 | dict(layer_norm_epsilon=1e-3), image=(), length=11)


def randomise(model, seed):
    """Weights large enough that every part matters: an error anywhere moves the output."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        value = torch.randn(parameter.shape, generator=generator)
        if "embedding" in name and "patch" not in name or "token" in name or "shared" in name or "relative" in name:
            value *= 0.8
        elif name.endswith("bias"):
            value *= 0.3
        elif parameter.ndim == 1:  # a norm's weight, a scale
            value = 1 + 0.3 * value
        elif parameter.ndim > 1:
            value *= 1.4 / parameter[0].numel() ** 0.5
        parameter.data.copy_(value)


def inputs(case, config, seed):
    generator = torch.Generator().manual_seed(seed)
    batch = {}
    if case.image:
        channels = getattr(config, "num_channels", 3)
        batch["pixel_values"] = torch.randn(2, channels, *case.image, generator=generator)
    if case.noise:
        patches = (case.image[0] // 4) * (case.image[1] // 4)
        batch["noise"] = torch.rand(2, patches, generator=generator)
    if case.length:
        text = getattr(config, "text_config", config)
        ids = torch.randint(3, text.vocab_size - 2, (2, case.length), generator=generator)
        mask = torch.ones_like(ids)
        end = getattr(text, "eos_token_id", None)
        if "clip" in text.model_type and end != 2:
            ids[0, -1], ids[1, -3] = end, end
        if case.batch != "none":
            pad = case.length // 4
            mask[1, -pad:] = 0 if case.batch == "right" else 1
            if case.batch == "left":
                mask[0, :pad] = 0
            batch["attention_mask"] = mask
        batch["input_ids"] = ids
    return batch


def spread(result):
    """Output fields by name, tuples and nested outputs spread into numbered and dotted names."""
    wanted = ("last_hidden_state", "pooler_output", "logits", "cls_logits", "distillation_logits", "image_embeds",
              "text_embeds", "logits_per_image", "logits_per_text", "mask", "ids_restore")
    named = {name: result[name] for name in wanted if result.get(name) is not None}
    named |= {f"hidden_states.{i}": state for i, state in enumerate(result.get("hidden_states") or ())}
    for part in ("vision_model_output", "text_model_output"):
        if result.get(part) is not None:
            named |= {f"{part}.{name}": value for name, value in spread(result[part]).items() if "hidden_states" not in name}
    return {name: value.float().contiguous().clone() for name, value in named.items()}


def outputs(model, batch, case):
    encoder = model
    if case.architecture == "ViTMAEForPreTraining":
        encoder = model.vit
    if case.architecture == "T5ForConditionalGeneration":
        encoder = model.get_encoder()
    extra = {}
    if case.image and case.image != (16, 16) and not case.architecture.startswith("Dino"):
        extra["interpolate_pos_encoding"] = True
    hidden = {} if case.architecture == "CLIPModel" else dict(output_hidden_states=True)
    return spread(encoder(**batch, **extra, **hidden))


DISK_TO_TIMM = [
    ("embeddings.cls_token", "cls_token"), ("embeddings.distillation_token", "dist_token"),
    ("embeddings.register_tokens", "reg_token"), ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.patch_embeddings.projection", "patch_embed.proj"), ("encoder.layer.", "blocks."),
    ("attention.output.dense", "attn.proj"), ("layernorm_before", "norm1"), ("layernorm_after", "norm2"),
    ("intermediate.dense", "mlp.fc1"), ("output.dense", "mlp.fc2"), ("layernorm", "norm"),
    ("layer_scale1.lambda1", "ls1.gamma"), ("layer_scale2.lambda1", "ls2.gamma"),
    ("mlp.weights_in", "mlp.w12"), ("mlp.weights_out", "mlp.w3"),
    ("distillation_classifier", "head_dist"), ("cls_classifier", "head"), ("classifier", "head"),
]


def to_timm(tensors):
    """The same weights under timm's names, queries, keys and values in one matrix."""
    renamed = {}
    for name, value in tensors.items():
        for prefix in ("vit.", "deit.", "dinov2."):
            name = name.removeprefix(prefix)
        if "attention.attention.query" in name:
            parts = [tensors[k] for k in tensors for part in ("query", "key", "value")
                     if k.endswith(name.replace("query", part))]
            value, name = torch.cat(parts), name.replace("attention.attention.query", "attn.qkv")
        elif "attention.attention." in name or name == "embeddings.mask_token":
            continue
        for old, new in DISK_TO_TIMM:
            name = name.replace(old, new)
        renamed[name] = value
    return renamed


def relayout(path, model, case):
    if case.layout == "memory":
        save_file({k: v.contiguous().clone() for k, v in model.state_dict().items()}, path, metadata={"format": "pt"})
    if case.layout == "timm":
        tensors = load_file(path)
        order = {part: i for i, part in enumerate(("query", "key", "value"))}
        tensors = dict(sorted(tensors.items(), key=lambda kv: next((i for p, i in order.items() if f".{p}." in kv[0]), -1)))
        save_file(to_timm(tensors), path, metadata={"format": "pt"})


def edit_config(path, case):
    config = json.loads(path.read_text()) | case.edit
    config = {key: value for key, value in config.items() if value is not None or key not in case.edit}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def write(case, out):
    folder = out / case.name
    shutil.rmtree(folder, ignore_errors=True)
    seed = zlib.crc32(case.name.encode())
    architecture = getattr(transformers, case.architecture)
    model = architecture(architecture.config_class(**case.config)).eval()
    randomise(model, seed)
    model.to(case.dtype).save_pretrained(folder)
    model = architecture.from_pretrained(folder, dtype=torch.float32).eval()
    batch = inputs(case, model.config, seed + 1)
    save_file(batch, folder / "input.safetensors")
    save_file(outputs(model, batch, case), folder / "expected.safetensors")
    relayout(folder / "model.safetensors", model, case)
    edit_config(folder / "config.json", case)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("tests/fixtures"))
    parser.add_argument("--only", nargs="*")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    torch.set_grad_enabled(False)
    for case in cases():
        if not arguments.only or case.name in arguments.only:
            write(case, arguments.out)
            print(case.name, flush=True)


if __name__ == "__main__":
    main()
