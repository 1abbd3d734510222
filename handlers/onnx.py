"""ONNX models, run by ONNX Runtime."""

from __future__ import annotations

import importlib
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger(__name__)

ONNX_AVAILABLE = find_spec("onnxruntime") is not None


def setup_ort_session(model_pt_path: str, map_location: str | None, device_id: int = 0) -> Any:
    """An ``onnxruntime.InferenceSession`` for the model, on GPU ``device_id`` or the CPU.

    It uses as many threads as torch may in this worker. Raises RuntimeError where onnxruntime is
    missing.
    """
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ImportError:
        raise RuntimeError(
            f"No model weights could be loaded: {Path(model_pt_path).name} needs the library "
            "onnxruntime: pip install 'flambeau[onnx]'"
        ) from None
    providers: list[Any] = ["CPUExecutionProvider"]
    if map_location == "cuda":
        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": device_id}))
        else:
            logger.warning("This onnxruntime has no CUDA: using the CPU. onnxruntime-gpu has it.")
    options = onnxruntime.SessionOptions()
    # torch minds OMP_NUM_THREADS, ONNX Runtime would start one thread for each core.
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(model_pt_path, sess_options=options, providers=providers)


def run_session(session: Any, data: Any, device: Any) -> Any:
    """The session's first output for a batch, as a tensor on ``device`` if it is of numbers.

    ``data`` is one tensor for the model's first input, a list or tuple with one for each input, or
    a mapping from names of inputs.
    """
    if not isinstance(data, dict):
        inputs = data if isinstance(data, (list, tuple)) else [data]
        names = [each.name for each in session.get_inputs()]
        if len(inputs) > len(names):
            raise ValueError(f"The model has {len(names)} inputs, not {len(inputs)}")
        data = dict(zip(names, inputs, strict=False))
    feed = {name: _as_array(value) for name, value in data.items()}
    output = session.run(None, feed)[0]
    is_numbers = getattr(getattr(output, "dtype", None), "kind", "O") in "biufc"
    return torch.from_numpy(output).to(device) if is_numbers else output


def _as_array(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
