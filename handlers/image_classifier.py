"""``ImageClassifier``: one image for each request, the likeliest classes for each image."""

from __future__ import annotations

from typing import Any

import torch

from .labels import map_class_to_label
from .timer import timed
from .transforms import CenterCrop, Compose, Normalize, Resize, ToRGB, ToTensor
from .vision import VisionHandler


class ImageClassifier(VisionHandler):
    """Classifies images with a model trained as the ImageNet models of torchvision are.

    For RGB images the model's input equals, to the last bit, what torchvision's Resize(256),
    CenterCrop(224), ToTensor and Normalize give. Images of other modes (grey, transparent, palette)
    are turned into RGB first, where TorchServe fails. A subclass with another model replaces
    ``image_processing``; transforms of torchvision fit.

    Each answer maps label to probability, the ``topk`` likeliest classes first; fewer when the
    model has fewer.
    """

    topk = 5
    image_processing = Compose(
        [
            ToRGB(),
            Resize(256),
            CenterCrop(224),
            ToTensor(),
            Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )

    def set_max_result_classes(self, topk: int) -> None:
        self.topk = topk

    def get_max_result_classes(self) -> int:
        return self.topk

    @timed
    def postprocess(self, data: Any) -> Any:
        """Label to probability for each row of logits."""
        probabilities = torch.softmax(data, dim=1)
        count = min(self.topk, probabilities.shape[1])
        likeliest, classes = torch.topk(probabilities, count, dim=1)
        return map_class_to_label(likeliest.tolist(), self.mapping, classes.tolist())
