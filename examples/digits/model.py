"""A small convolutional network for handwritten digits."""

from __future__ import annotations

import torch
from torch import nn


class DigitsNet(nn.Module):
    """Scores ten digits for images as ``image_classifier`` prepares them: N x 3 x 224 x 224.

    A digit needs neither colour nor 224 pixels, so the image is first shrunk to grey 28 x 28.
    That step has no weights: training computes it once and then calls ``classify`` alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 7 * 7, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )

    @staticmethod
    def shrink(images: torch.Tensor) -> torch.Tensor:
        """Average the colours and each block of 8 x 8 pixels: N x 1 x 28 x 28."""
        return nn.functional.avg_pool2d(images.mean(dim=1, keepdim=True), 8)

    def classify(self, shrunk: torch.Tensor) -> torch.Tensor:
        """Scores (logits), N x 10."""
        scores: torch.Tensor = self.layers(shrunk)
        return scores

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classify(self.shrink(images))
