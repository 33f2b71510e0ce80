"""Writes tests/fixtures/images: small pictures, what Pillow makes of them in other sizes, and what transformers'
image processors (of Pillow's kind) hand to a model.

    python tools/make_image_fixtures.py [--out tests/fixtures/images]

Made with Pillow 12, transformers 5.24.0, numpy 2.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import transformers
from PIL import Image
from safetensors.numpy import save_file

SIZES = [(7, 11), (40, 23), (19, 64), (31, 37)]
FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
PROCESSORS = {
    "vit": ("ViTImageProcessorPil", dict(size=dict(height=20, width=24))),
    "vit-no-norm": ("ViTImageProcessorPil", dict(size=dict(height=12, width=12), do_normalize=False, resample=3)),
    "deit": ("DeiTImageProcessorPil", dict(size=dict(height=28, width=28), crop_size=dict(height=21, width=20))),
    "clip": ("CLIPImageProcessorPil", dict(size=dict(shortest_edge=18), crop_size=dict(height=18, width=18))),
    "clip-odd": ("CLIPImageProcessorPil", dict(size=dict(shortest_edge=13), crop_size=dict(height=22, width=15))),
    "dinov2": ("BitImageProcessorPil", dict(size=dict(shortest_edge=25), crop_size=dict(height=20, width=20), image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])),
    "raw": ("BitImageProcessorPil", dict(do_resize=False, do_center_crop=True, crop_size=dict(height=40, width=40), do_rescale=False, do_normalize=False)),
}


def picture(seed, height, width, channels):
    """Smooth shapes with noise on them, so that filters have something to ring at."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    planes = [127 + 120 * np.sin((x * rng.uniform(0.1, 0.9) + y * rng.uniform(0.1, 0.9)) + rng.uniform(0, 6)) for _ in range(channels)]
    values = np.stack(planes, -1) + rng.normal(0, 25, (height, width, channels))
    values[: height // 3, : width // 3] = 255 * (rng.random(channels) > 0.5)
    return values.clip(0, 255).astype(np.uint8)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("tests/fixtures/images"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    rgb = Image.fromarray(picture(1, 31, 37, 3))
    rgb.save(out / "rgb.png")
    Image.fromarray(picture(2, 20, 16, 4)).save(out / "rgba.png")
    Image.fromarray(picture(3, 14, 18, 1)[..., 0]).save(out / "grey.png")
    rgb.quantize(17).save(out / "palette.png")
    rgb.save(out / "lossless.webp", lossless=True)
    turned = Image.Exif()
    turned[274] = 6  # to be turned by a quarter
    rgb.save(out / "turned.png", exif=turned)

    expected = {}
    for name in ("rgb", "rgba", "grey", "palette", "turned"):
        image = Image.open(out / f"{name}.png")
        image = transformers.image_utils.load_image(str(out / f"{name}.png")) if name == "turned" else image
        expected[f"decoded.{name}"] = transformers.image_transforms.convert_to_rgb(image, return_numpy=True)
    for filter, number in FILTERS.items():
        for height, width in SIZES:
            resized = rgb.resize((width, height), resample=number)
            expected[f"resized.{filter}.{height}.{width}"] = np.array(resized)
    settings = {}
    for name, (kind, options) in PROCESSORS.items():
        processor = getattr(transformers, kind)(**options)
        settings[name] = processor.to_dict()
        for source in ("rgb", "rgba"):
            image = Image.open(out / f"{source}.png")
            if source == "rgba" and "do_convert_rgb" not in settings[name]:
                continue
            values = processor(image, return_tensors="np")["pixel_values"][0].astype(np.float32)
            expected[f"processed.{name}.{source}"] = values
    save_file({name: np.ascontiguousarray(value) for name, value in expected.items()}, out / "expected.safetensors")
    (out / "processors.json").write_text(json.dumps(settings, indent=1, sort_keys=True, default=str) + "\n")


if __name__ == "__main__":
    main()
