"""Writes tests/fixtures/timm*: small random models of timm, saved as timm saves them for the hub, with what timm makes of
some images, and of pictures of tests/fixtures/images by its own transform.

    python tools/make_timm_fixtures.py [--out tests/fixtures]

Made with timm 1.0.31, torch 2.15.
"""

import argparse
from pathlib import Path

import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.models import save_for_hf

ARGS = dict(img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2)
PREPARED = dict(input_size=(3, 32, 32), interpolation="bicubic", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))
CASES = {
    "timm": ("vit_tiny_patch16_224", dict(mlp_ratio=2.0), dict(crop_pct=0.9)),
    "timm-distilled": ("deit_tiny_distilled_patch16_224", dict(), dict(crop_pct=0.75, interpolation="bilinear")),
    "timm-squash": ("deit_tiny_patch16_224", dict(), dict(crop_pct=1.0, crop_mode="squash")),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("tests/fixtures"))
    root = parser.parse_args().out
    for seed, (name, (architecture, args, prepared)) in enumerate(CASES.items()):
        torch.manual_seed(seed)
        args = {**ARGS, **args}
        model = timm.create_model(architecture, num_classes=5, pretrained_cfg_overlay={**PREPARED, **prepared}, **args)
        model = model.eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 0.2))
                if parameter.ndim == 1:
                    parameter.add_(0.5)
        folder = root / name
        save_for_hf(model, folder, model_args=args, safe_serialization=True)
        (folder / "README.md").unlink(missing_ok=True)
        pixels = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            hidden = model.forward_features(pixels)
            expected = {"last_hidden_state": hidden, "logits": model.forward_head(hidden)}
        save_file({"pixel_values": pixels}, folder / "input.safetensors")
        save_file({key: value.contiguous() for key, value in expected.items()}, folder / "expected.safetensors")
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
        seen = {}
        for source in ("rgb", "palette"):
            seen[source] = transform(Image.open(root / "images" / f"{source}.png").convert("RGB")).contiguous()
        wide = Image.open(root / "images" / "rgb.png").convert("RGB").resize((61, 40))
        if name == "timm":
            wide.save(folder / "wide.png")
        seen["wide"] = transform(wide).contiguous()
        save_file(seen, folder / "pixels.safetensors")
        for file in folder.iterdir():
            file.chmod(0o644)
        print(name, architecture, {key: tuple(value.shape) for key, value in expected.items()})


if __name__ == "__main__":
    main()
