"""Batches of tensors that differ in shape: each shape makes a batch of its own."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def by_shape(tensors: Mapping[int, torch.Tensor]) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Row numbers and, stacked, their tensors, for each shape and type that there is."""
    alike = defaultdict(list)
    for index, tensor in tensors.items():
        alike[tensor.shape, tensor.dtype].append(index)
    for rows in alike.values():
        yield rows, torch.stack([tensors[row] for row in rows])
