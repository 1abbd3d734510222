"""``ImageSegmenter``: one image for each request, the likeliest class for each of its pixels."""

from __future__ import annotations

from typing import Any

import torch

from .image_classifier import ImageClassifier
from .vision import VisionHandler


class ImageSegmenter(VisionHandler):
    """Segments images with a model that is built as the segmentation models of torchvision are.

    The model gives a dict whose ``out`` holds logits, batch x classes x height x width. Each
    answer has a list for each line of the image, cut to 224 x 224 pixels, and in that for each
    pixel ``[class, probability]``, the class as a float.
    """

    image_processing = ImageClassifier.image_processing

    def postprocess(self, data: Any) -> Any:
        """Class and probability for each pixel."""
        likeliest = torch.softmax(data["out"], dim=1).max(dim=1)
        classes = likeliest.indices.type(likeliest.values.dtype)
        return torch.stack([classes, likeliest.values], dim=3).tolist()
