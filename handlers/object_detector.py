"""``ObjectDetector``: one image for each request, boxes around what is seen in it."""

from __future__ import annotations

from typing import Any

import torch

from ..worker.errors import PredictionException
from .labels import map_class_to_label
from .shapes import by_shape
from .timer import timed
from .transforms import Compose, ToRGB, ToTensor
from .vision import VisionHandler


class ObjectDetector(VisionHandler):
    """Detects objects with a model that answers as the detection models of torchvision do.

    The model gives for each image a dict of ``boxes`` (x1, y1, x2, y2 in pixels), ``labels`` and
    ``scores``. Each answer is a list of ``{label: box, "score": score}`` for scores of at least
    ``threshold``.

    Images keep their size. Those of one size are one batch of the model, so that an image's answer
    does not depend on the sizes of others; TorchServe fails where sizes differ.
    """

    image_processing = Compose([ToRGB(), ToTensor()])
    one_shape = False
    threshold = 0.5

    @timed
    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """The model's output for a tensor; for a list of images one item for each, in order."""
        if isinstance(data, torch.Tensor):
            return super().inference(data, *args, **kwargs)
        found: list[Any] = [None] * len(data)
        for rows, images in by_shape(dict(enumerate(data))):
            outputs = super().inference(images, *args, **kwargs)
            for row, output in zip(rows, outputs, strict=True):
                found[row] = output
        return found

    def postprocess(self, data: Any) -> Any:
        """The boxes of each image, without those of low scores."""
        return [self._boxes(row) for row in data]

    def _read(self, row: Any) -> torch.Tensor:
        image = super()._read(row)
        if image.dim() != 3 or not image.numel():
            raise PredictionException(
                f"The request's list cannot be read as an image: it has shape {list(image.shape)} "
                "instead of channels x height x width",
                400,
            )
        return image

    def _boxes(self, row: Any) -> list[dict[str, Any]]:
        kept = row["scores"] >= self.threshold
        boxes, labels, scores = (row[key][kept].tolist() for key in ("boxes", "labels", "scores"))
        found = []
        for box, label, score in zip(boxes, labels, scores, strict=True):
            (entry,) = map_class_to_label([[box]], self.mapping, [[label]])
            found.append({**entry, "score": score})
        return found
