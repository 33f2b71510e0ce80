"""Times Whit and timm on vision transformers of real sizes, batches of 8, taking turns, and prints who is faster.

    cargo build --release --workspace --example vision_speed
    python bench/peers/vision_pairs.py [--whit target/release/examples/vision_speed] [--rounds 5] [--models deit-small,vit-base]

Run it with the Python that holds PyTorch and timm. In every round each program classifies one batch, so that a noisy
minute hits all of them; medians over the rounds are compared. Weights are random: time does not depend on them.
"""

import argparse
import subprocess
import time
from statistics import median

import timm
import torch

PEERS = {"deit-small": "deit_small_patch16_224", "vit-base": "vit_base_patch16_224"}
BATCH = 8


class Whit:
    """The example, which times one batch for each line that it is given."""

    def __init__(self, path):
        self.process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds(self, model, kind):
        self.process.stdin.write(f"{model} {kind}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


def peer(name, dtype):
    model = timm.create_model(name).to(dtype).eval()
    images = torch.randn(BATCH, 3, 224, 224, dtype=dtype)

    def seconds():
        start = time.perf_counter()
        model(images)
        return time.perf_counter() - start

    seconds()
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whit", default="target/release/examples/vision_speed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", default="deit-small,vit-base")
    options = parser.parse_args()
    torch.set_num_threads(2)
    torch.set_grad_enabled(False)
    whit = Whit(options.whit)
    for model in options.models.split(","):
        ours = {f"whit {kind}": (lambda kind=kind: whit.seconds(model, kind)) for kind in ("f32", "bf16", "int8")}
        theirs = {f"pytorch {str(dtype)[6:]}": peer(PEERS[model], dtype) for dtype in (torch.float32, torch.bfloat16)}
        for run in ours.values():
            run()  # builds the model
        sides = ours | theirs
        times = {name: [] for name in sides}
        for _ in range(options.rounds):
            for name, run in sides.items():
                times[name].append(run())
        speed = {name: BATCH / median(values) for name, values in times.items()}
        for name, values in times.items():
            low, high = BATCH / max(values), BATCH / min(values)
            print(f"{model:10} {name:17} {speed[name]:6.2f} images/s  ({low:.2f} to {high:.2f})", flush=True)
        print(f"{model:10} f32: {speed['whit f32'] / speed['pytorch float32']:.2f}x PyTorch f32")
        fastest = max(("whit bf16", "whit int8"), key=speed.get)
        print(f"{model:10} {fastest[5:]}: {speed[fastest] / speed['pytorch bfloat16']:.2f}x PyTorch bf16", flush=True)


if __name__ == "__main__":
    main()
