"""Trains DigitsNet on the 1,797 real handwritten digits that come with scikit-learn.

    python examples/digits/train.py --out demo/model

writes ``digits.pt`` (the weights), ``index_to_name.json`` (the name of each class) and
``images/0.png`` to ``images/9.png``: digits that the network did not see in training.
Takes a few seconds on a CPU, and gives the same weights each time on the same machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import click
import numpy as np
import torch
from model import DigitsNet
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
EPOCHS = 12
BATCH_SIZE = 32
REQUIRED_ACCURACY = 0.95


def to_image(pixels: np.ndarray) -> Image.Image:
    """A digit of 8 x 8 pixels with values 0 to 16 as the picture that a client would send."""
    grey = Image.fromarray((pixels * (255 / 16)).round().astype(np.uint8))
    return grey.resize((64, 64), Image.Resampling.BICUBIC).convert("RGB")


def to_input(image: Image.Image) -> torch.Tensor:
    """What ``image_classifier`` makes of a square picture, 3 x 224 x 224.

    Resize(256), CenterCrop(224), ToTensor, Normalize with the mean and deviation of ImageNet.
    """
    cropped = image.resize((256, 256), Image.Resampling.BILINEAR).crop((16, 16, 240, 240))
    tensor = torch.from_numpy(np.array(cropped)).permute(2, 0, 1) / 255
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    return (tensor - mean) / deviation


def prepare(digits: np.ndarray, label: str) -> torch.Tensor:
    """All digits through the served transform, shrunk: N x 1 x 28 x 28."""
    with click.progressbar(digits, label=label, update_min_steps=50, file=sys.stderr) as bar:
        return torch.cat([DigitsNet.shrink(to_input(to_image(digit))[None]) for digit in bar])


def train(inputs: torch.Tensor, labels: torch.Tensor) -> DigitsNet:
    """Adam with a falling learning rate, ``EPOCHS`` times over all of ``inputs``."""
    torch.manual_seed(0)
    net = DigitsNet()
    steps = EPOCHS * -(-len(inputs) // BATCH_SIZE)
    optimizer = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.005, total_steps=steps)
    with click.progressbar(
        length=steps, label="  Training", update_min_steps=10, file=sys.stderr
    ) as bar:
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(inputs)).split(BATCH_SIZE):
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(net.classify(inputs[batch]), labels[batch])
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update(1)
    return net.eval()


def write_images(digits: np.ndarray, labels: np.ndarray, folder: Path) -> None:
    """The first digit of each class, named by what it shows."""
    folder.mkdir(parents=True, exist_ok=True)
    for label in range(10):
        to_image(digits[labels == label][0]).save(folder / f"{label}.png")


def main() -> int:
    parser = argparse.ArgumentParser(description="Train a network on handwritten digits.")
    parser.add_argument("--out", type=Path, default=Path("demo/model"), help="directory to write")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()

    digits, labels = load_digits(return_X_y=True)
    train_digits, test_digits, train_labels, test_labels = train_test_split(
        digits.reshape(-1, 8, 8), labels, test_size=0.2, random_state=0, stratify=labels
    )
    inputs = prepare(train_digits, "  Preparing images")
    test_inputs = prepare(test_digits, "  Preparing test images")
    net = train(inputs, torch.from_numpy(train_labels))
    with torch.inference_mode():
        answers = net.classify(test_inputs).argmax(dim=1).numpy()
    accuracy = float((answers == test_labels).mean())
    if accuracy < REQUIRED_ACCURACY:
        print(f"Only {accuracy:.1%} of the test digits are right: not saved.", file=sys.stderr)
        return 1

    (out / "index_to_name.json").write_text(json.dumps(dict(enumerate(NAMES)), indent=2) + "\n")
    write_images(test_digits, test_labels, out / "images")
    # The weights come last and in one step: where they are, the rest is complete.
    torch.save(net.state_dict(), out / "digits.pt.new")
    os.replace(out / "digits.pt.new", out / "digits.pt")
    print(
        f"  {len(inputs)} digits learnt in {time.monotonic() - started:.1f} s; "
        f"{accuracy:.1%} of {len(test_labels)} unseen digits are right."
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
