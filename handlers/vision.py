"""``VisionHandler``: from the bytes of images to a batch of tensors."""

from __future__ import annotations

import base64
import io
import logging
from collections import Counter
from functools import cached_property
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError

from ..worker.errors import PredictionException
from .base import BaseHandler
from .explanations import captum_attr, class_to_explain
from .rows import handle_readable, set_aside
from .timer import timed

logger = logging.getLogger(__name__)

_CARRIERS = frozenset({"EPS", "IPTC", "WMF"})
"""Formats of Pillow that others decode: Ghostscript runs the program that an EPS file is, and an
IPTC file may hold one."""


class VisionHandler(BaseHandler):
    """Base of handlers whose input is one image for each request.

    A subclass gives ``image_processing``, a callable from a Pillow image to a tensor. Images come
    as bytes, as base64 text, or as nested lists of numbers, which become a tensor as they are.

    A row that cannot be read is answered with an error of its own and takes no other with it: it
    travels through the model as zeros, so that row ``i`` stays row ``i`` in every method, and its
    answer is replaced in the end. That holds while the batch that ``handle`` was given reaches
    this ``preprocess``; given any other list, ``preprocess`` raises instead.

    Explanations are captum's integrated gradients (``ig``, made when it is first asked for).

    Images beyond Pillow's limit (an error from twice ``PIL.Image.MAX_IMAGE_PIXELS``, some 179
    million pixels) are refused unless ``limit_max_image_pixels`` is false.
    """

    image_processing: Any
    one_shape = True
    """Whether images must be of one shape. If not, ``preprocess`` gives a list where they differ,
    and ``inference`` must take it."""

    def initialize(self, context: Any) -> None:
        super().initialize(context)
        if not context.system_properties.get("limit_max_image_pixels"):
            Image.MAX_IMAGE_PIXELS = None

    def handle(self, data: Any, context: Any) -> Any:
        """Answer a batch; unreadable rows get a PredictionException as their answer."""
        return handle_readable(super().handle, data, context)

    @timed
    def preprocess(self, data: Any) -> Any:
        """One tensor for the batch, on the device.

        Raises PredictionException when no row can be read, and RuntimeError when some cannot and
        ``data`` is not the batch that ``handle`` was given.
        """
        images: dict[int, torch.Tensor] = {}
        refused: dict[int, PredictionException] = {}
        for index, row in enumerate(data):
            try:
                images[index] = self._read(row)
            except PredictionException as refusal:
                refused[index] = refusal
        if self.one_shape:
            _refuse_odd_shapes(images, refused)
        set_aside(data, refused)
        if refused:
            blank = torch.zeros_like(next(iter(images.values())))
            images.update(dict.fromkeys(refused, blank))
        rows = [images[index] for index in range(len(data))]
        if not self.one_shape and len({row.shape for row in rows}) > 1:
            return [row.to(self.device) for row in rows]
        return torch.stack(rows).to(self.device)

    @cached_property
    def ig(self) -> Any:
        return captum_attr().IntegratedGradients(self.model)

    def get_insights(self, tensor_data: Any, _: Any, target: Any = 0) -> Any:
        """Integrated gradients of the batch for class ``target``, in the shape of the input.

        Raises PredictionException, 501, where captum is missing.
        """
        target = class_to_explain(target)
        return self.ig.attribute(tensor_data, target=target, n_steps=15).tolist()

    def _read(self, row: Any) -> torch.Tensor:
        value = row.get("data")
        if value is None or (not isinstance(value, torch.Tensor) and not value):
            value = row.get("body")
        if isinstance(value, str):
            try:
                value = base64.b64decode(value)
            except ValueError as error:
                raise PredictionException(
                    "The request's text cannot be read as an image: it is not base64", 400
                ) from error
        if isinstance(value, (bytes, bytearray)):
            image: torch.Tensor = self._process(value)
            return image
        if isinstance(value, (list, tuple, torch.Tensor)):
            return _numbers(value)
        raise PredictionException(
            "The request cannot be read as an image: send its bytes, base64 text or a nested list "
            "of numbers, as the body or in a field named 'data'",
            400,
        )

    def _process(self, encoded: bytes | bytearray) -> Any:
        try:
            return self.image_processing(_open(encoded))
        except (MemoryError, PredictionException):
            raise
        except Image.DecompressionBombError as error:
            raise PredictionException(f"The image is too large: {error}", 400) from error
        except Exception as error:
            if "CUDA" in str(error):
                raise
            # Pillow decodes late, so that the image's fault and the code's look alike from here.
            if not _is_readable(encoded):
                raise PredictionException(
                    "The request cannot be read as an image: it is damaged, or of a format that "
                    "this server does not know",
                    400,
                ) from error
            logger.exception("image_processing failed on a readable image")
            raise PredictionException("Prediction failed", 503) from error


def _open(encoded: bytes | bytearray) -> Image.Image:
    image = Image.open(io.BytesIO(encoded))
    if image.format in _CARRIERS:
        raise UnidentifiedImageError(f"{image.format} is not accepted")
    return image


def _is_readable(encoded: bytes | bytearray) -> bool:
    try:
        _open(encoded).load()
    except MemoryError:
        raise
    except Exception:
        return False
    return True


def _numbers(value: Any) -> torch.Tensor:
    try:
        return torch.as_tensor(value, dtype=torch.float32, device="cpu")
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise PredictionException(
            "The request's list cannot be read as an image: it must hold numbers only, in rows "
            "of equal length",
            400,
        ) from error


def _refuse_odd_shapes(
    images: dict[int, torch.Tensor], refused: dict[int, PredictionException]
) -> None:
    """One batch is one tensor: rows that are not of the commonest shape cannot be in it."""
    shapes = Counter(tuple(image.shape) for image in images.values())
    if len(shapes) < 2:
        return
    common = shapes.most_common(1)[0][0]
    for index in [index for index, image in images.items() if tuple(image.shape) != common]:
        shape = list(images.pop(index).shape)
        refused[index] = PredictionException(
            f"The image has shape {shape} and cannot be in a batch with images of shape "
            f"{list(common)}. Send images of one size, or serve the model with batch size 1.",
            503,
        )
