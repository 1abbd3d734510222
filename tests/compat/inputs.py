"""What the cases are asked with: scikit-learn's digits, and pictures made by a formula."""

from __future__ import annotations

import base64
import functools
import io

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


@functools.cache
def digit(number: int) -> bytes:
    """The first handwritten ``number`` of the set as a grey PNG of 28x28 pixels."""
    data = load_digits()
    small = data.images[int(np.flatnonzero(data.target == number)[0])]
    return png(np.pad(np.kron(small * 255 / 16, np.ones((3, 3))), 2))


@functools.cache
def picture(seed: int, width: int = 300, height: int = 260) -> bytes:
    """A coloured PNG: stripes and a gradient whose shape depends on ``seed``."""
    y, x = np.mgrid[:height, :width]
    red = x * 255 // width
    green = (x * (seed + 1) // 16 + y // 8) % 8 * 36
    blue = y * 40 * (seed + 2) // height % 256
    return png(np.stack([red, green, blue], axis=-1))


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()
