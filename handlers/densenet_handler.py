"""``DenseNetHandler``: a tensor for each request, the model's output for it."""

from __future__ import annotations

from typing import Any

import torch

from ..worker.errors import PredictionException
from .base import BaseHandler
from .rows import handle_readable, set_aside
from .saved_tensor import read_tensor
from .shapes import by_shape
from .timer import timed


class DenseNetHandler(BaseHandler):
    """Gives tensors to any model that takes one batch and gives one.

    A request is one input without the batch's dimension, as ``torch.save`` writes it; only plain
    tensors are read (``saved_tensor.py``). Its answer is the output for a batch of that input
    alone, written likewise, on the CPU. Inputs of one shape share a call of the model; TorchServe's
    densenet_handler has batches of one request only.
    """

    def initialize(self, context: Any) -> None:
        """Load the model; raises RuntimeError as BaseHandler does, also without weights."""
        manifest = context.manifest
        if manifest is not None and not manifest["model"].get("serializedFile"):
            raise RuntimeError("Missing the model.pt file: this handler needs a serialized file")
        super().initialize(context)

    def handle(self, data: Any, context: Any) -> Any:
        """Answer a batch; what is no tensor gets a PredictionException as its answer."""
        return handle_readable(super().handle, data, context)

    @timed
    def preprocess(self, data: Any) -> Any:
        """The inputs; None for one that cannot be read. Raises as ``VisionHandler`` does."""
        inputs: list[torch.Tensor | None] = []
        refused: dict[int, PredictionException] = {}
        for index, row in enumerate(data):
            try:
                inputs.append(_read(row))
            except PredictionException as refusal:
                refused[index] = refusal
                inputs.append(None)
        set_aside(data, refused)
        return inputs

    @timed
    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """The model's output for a batch, without recording gradients; for a list, one for each."""
        if isinstance(data, torch.Tensor):
            return super().inference(data, *args, **kwargs)
        outputs = [None] * len(data)
        readable = {row: tensor for row, tensor in enumerate(data) if tensor is not None}
        for rows, batch in by_shape(readable):
            output = super().inference(batch, *args, **kwargs)
            # Clones, since torch.save writes all that a tensor is a view of.
            parts = [output] if len(rows) == 1 else [part.clone() for part in output.split(1)]
            for row, part in zip(rows, parts, strict=True):
                outputs[row] = part
        return outputs

    @timed
    def postprocess(self, data: Any) -> Any:
        """The outputs on the CPU, so that clients without a GPU can read them."""
        return [None if output is None else output.cpu() for output in data]


def _read(row: Any) -> torch.Tensor:
    saved = row.get("data") or row.get("body")
    if not isinstance(saved, (bytes, bytearray)):
        raise PredictionException("The request has no tensor: send what torch.save wrote", 400)
    try:
        return read_tensor(saved)
    except ValueError as error:
        raise PredictionException(
            f"The request cannot be read as one plain tensor: {error}", 400
        ) from error
