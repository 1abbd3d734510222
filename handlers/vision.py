"""``VisionHandler``: from the bytes of images to a batch of tensors."""

from __future__ import annotations

import base64
import importlib
import io
import logging
from collections import Counter
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError

from ..worker.errors import PredictionException
from .base import BaseHandler
from .timer import timed

logger = logging.getLogger(__name__)


class _Batch(list[Any]):
    """The rows of one batch, and why some of them have no answer, by index."""

    def __init__(self, rows: Any) -> None:
        super().__init__(rows)
        self.refused: dict[int, PredictionException] = {}


class VisionHandler(BaseHandler):
    """Base of handlers whose input is one image for each request.

    A subclass gives ``image_processing``, a callable from a Pillow image to a tensor. Images come
    as bytes, as base64 text, or as nested lists of numbers, which become a tensor as they are.

    A row that cannot be read is answered with an error of its own and takes no other with it: it
    travels through the model as zeros, so that row ``i`` stays row ``i`` in every method, and its
    answer is replaced in the end. That holds while the batch that ``handle`` was given reaches
    this ``preprocess``; given any other list, ``preprocess`` raises instead.

    Images beyond Pillow's limit (an error from twice ``PIL.Image.MAX_IMAGE_PIXELS``, some 179
    million pixels) are refused unless ``limit_max_image_pixels`` is false.
    """

    image_processing: Any
    ig: Any = None

    def initialize(self, context: Any) -> None:
        super().initialize(context)
        if not context.system_properties.get("limit_max_image_pixels"):
            Image.MAX_IMAGE_PIXELS = None

    def handle(self, data: Any, context: Any) -> Any:
        """Answer a batch; unreadable rows get a PredictionException as their answer."""
        if not isinstance(data, list):
            return super().handle(data, context)
        batch = _Batch(data)
        try:
            answers = super().handle(batch, context)
        except PredictionException:
            if len(batch.refused) < len(batch):
                raise
            return [batch.refused[index] for index in range(len(batch))]
        if not batch.refused or not isinstance(answers, list) or len(answers) != len(batch):
            return answers
        return [batch.refused.get(index, answer) for index, answer in enumerate(answers)]

    @timed
    def preprocess(self, data: Any) -> torch.Tensor:
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
        _refuse_odd_shapes(images, refused)
        if isinstance(data, _Batch):
            data.refused = refused
        elif refused and images:
            # Which requests these rows stand for is unknown: the error must not name one's fault.
            index = min(refused)
            raise RuntimeError(f"Row {index} of {len(data)}: {refused[index]}") from refused[index]
        if refused and not images:
            raise refused[min(refused)]
        if refused:
            blank = torch.zeros_like(next(iter(images.values())))
            images.update(dict.fromkeys(refused, blank))
        return torch.stack([images[index] for index in range(len(data))]).to(self.device)

    def get_insights(self, tensor_data: Any, _: Any, target: Any = 0) -> Any:
        """Integrated gradients of the batch; needs the package captum."""
        if self.ig is None:
            try:
                captum = importlib.import_module("captum.attr")
            except ImportError as error:
                raise PredictionException(
                    "Explanations need the Python package captum in the worker's environment", 501
                ) from error
            self.ig = captum.IntegratedGradients(self.model)
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
    if image.format == "EPS":
        # Pillow would have Ghostscript run the program that such a file is.
        raise UnidentifiedImageError("PostScript is not accepted")
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
