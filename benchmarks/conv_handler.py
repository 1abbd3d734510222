"""The handler of the convolution model: raw float32 images in, scores out.

The worker and the loop in a process of its own (inprocess.py) both run exactly this.
"""

from __future__ import annotations

from typing import Any

import torch

SHAPE = (3, 96, 96)
CLASSES = 10
_WIDTH = 16


class Block(torch.nn.Module):
    """Two convolutions with a way around them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1)
        self.second = torch.nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.second(torch.relu(self.first(x))))


class Net(torch.nn.Module):
    """A small residual network; its weights are always the same."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = torch.nn.Conv2d(SHAPE[0], _WIDTH, 3, stride=2, padding=1)
        self.blocks = torch.nn.Sequential(*(Block() for _ in range(blocks)))
        self.head = torch.nn.Linear(_WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.blocks(torch.relu(self.stem(x)))
        scores: torch.Tensor = self.head(features.mean(dim=(2, 3)))
        return scores.softmax(dim=1)


class ConvHandler:
    """``model-config.yaml`` says in ``handler: blocks`` how deep the network is."""

    def initialize(self, context: Any) -> None:
        self.net = Net(context.model_yaml_config["handler"]["blocks"]).eval()

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[dict[str, list[float]]]:
        images = [torch.frombuffer(row["body"], dtype=torch.float32).view(SHAPE) for row in data]
        with torch.inference_mode():
            scores = self.net(torch.stack(images))
        return [{"scores": row} for row in scores.tolist()]
