"""Image transforms that give, to the last bit, what torchvision's give on Pillow images.

They need only Pillow and torch, and bear torchvision's names. ``ToRGB`` has no counterpart there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_SIXTEEN_BIT_MODES = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})


class Compose:
    """Apply ``transforms`` one after the other."""

    def __init__(self, transforms: Iterable[Callable[[Any], Any]]) -> None:
        self.transforms = list(transforms)

    def __call__(self, image: Any) -> Any:
        for transform in self.transforms:
            image = transform(image)
        return image

    def __repr__(self) -> str:
        return f"Compose({self.transforms!r})"


class ToRGB:
    """Give an image of any mode three channels; an RGB image passes unchanged.

    Transparency is dropped, sixteen bits of grey are scaled to eight.
    """

    def __call__(self, image: Image.Image) -> Image.Image:
        if image.mode == "RGB":
            return image
        if image.mode in _SIXTEEN_BIT_MODES:
            # Pillow's own conversion clips at 255, which leaves a white image.
            wide = image.convert("I")
            image = wide.point(lambda value: value * (1 / 256)).convert("L")
        elif image.mode in {"P", "PA"}:
            # Straight to RGB, Pillow warns about transparency in the palette.
            image = image.convert("RGBA")
        elif image.mode == "La":
            image = image.convert("LA")
        return image.convert("RGB")


class Resize:
    """Scale so that the shorter side has ``size`` pixels, bilinear and antialiased.

    The longer side is cut to a whole number. An image so narrow that the result would exceed
    Pillow's pixel limit raises DecompressionBombError.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        short, long = min(width, height), max(width, height)
        new_long = int(self.size * long / short)
        new_size = (self.size, new_long) if width <= height else (new_long, self.size)
        if new_size == image.size:
            return image
        # Pillow's rule for what it opens: twice the limit is an error.
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and self.size * new_long > 2 * limit:
            raise Image.DecompressionBombError(
                f"An image of {width}x{height} pixels cannot be resized to {new_size[0]}x"
                f"{new_size[1]}: that is more than {2 * limit} pixels"
            )
        return image.resize(new_size, Image.Resampling.BILINEAR)

    def __repr__(self) -> str:
        return f"Resize({self.size})"


class CenterCrop:
    """Cut out the middle ``size`` by ``size`` pixels; a smaller image is padded with zeros."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> Image.Image:
        left, top = self._offset(image.width), self._offset(image.height)
        return image.crop((left, top, left + self.size, top + self.size))

    def _offset(self, length: int) -> int:
        if length < self.size:
            # What is missing goes to both sides, the odd pixel to the far one. Pillow's crop pads.
            return -((self.size - length) // 2)
        return round((length - self.size) / 2)

    def __repr__(self) -> str:
        return f"CenterCrop({self.size})"


class ToTensor:
    """A tensor, channels x height x width: 8-bit modes as floats from 0 to 1, wider ones as is."""

    _WIDE = {"I": torch.int32, "I;16": torch.int16, "F": torch.float32}  # noqa: RUF012

    def __call__(self, image: Image.Image) -> torch.Tensor:
        # As bytes, eight pixels of mode 1 are packed into one.
        if image.mode == "1":
            image = image.convert("L")
        dtype = self._WIDE.get(image.mode, torch.uint8)
        # bytearray: torch warns about memory that it must not write to.
        flat = torch.frombuffer(bytearray(image.tobytes()), dtype=dtype)
        pixels = flat.view(image.height, image.width, len(image.getbands()))
        channels = pixels.permute(2, 0, 1).contiguous()
        if dtype is not torch.uint8:
            return channels
        return channels.to(torch.get_default_dtype()).div_(255)

    def __repr__(self) -> str:
        return "ToTensor()"


class Normalize:
    """Subtract ``mean`` and divide by ``std``, one of each per channel.

    Raises RuntimeError when the tensor has another number of channels.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        if not all(std):
            raise ValueError("std must not be zero")
        self.mean, self.std = list(mean), list(std)

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        mean = torch.as_tensor(self.mean, dtype=tensor.dtype, device=tensor.device)
        std = torch.as_tensor(self.std, dtype=tensor.dtype, device=tensor.device)
        # In place on a copy, so that three means never turn one channel into three.
        return tensor.clone().sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))

    def __repr__(self) -> str:
        return f"Normalize(mean={self.mean}, std={self.std})"
