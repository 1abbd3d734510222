"""Which device a worker's model lives on."""

from __future__ import annotations

import logging
import os
from importlib.util import find_spec
from typing import Any

import torch

logger = logging.getLogger(__name__)

# Looked for, not imported: that would cost every worker seconds.
XLA_AVAILABLE = find_spec("torch_xla") is not None
IPEX_AVAILABLE = (
    os.environ.get("TS_IPEX_ENABLE") == "true"
    and find_spec("intel_extension_for_pytorch") is not None
)
"""Whether ``TS_IPEX_ENABLE=true`` asks for Intel's extension, and it is installed."""


def choose_device(gpu_id: int | str | None) -> tuple[str | None, Any]:
    """The ``map_location`` and the device of a worker that was assigned ``gpu_id``.

    In TorchServe's order: CUDA, Intel's GPUs (``TS_IPEX_GPU_ENABLE=true``), Apple's, XLA, the CPU.
    With XLA there is no ``map_location``.
    """
    if gpu_id is not None:
        kind = _accelerator()
        if kind == "cuda":
            device = torch.device(f"cuda:{gpu_id}")
            if torch.cuda.get_device_capability(device) >= (8, 0):
                # As TorchServe does: TensorFloat-32 where the tensor cores have it.
                torch.set_float32_matmul_precision("high")
            return kind, device
        if kind == "xpu":
            return kind, torch.device(f"xpu:{gpu_id}")
        if kind == "mps":
            return kind, torch.device("mps")
        logger.warning("GPU %s was assigned, but torch sees none: using the CPU", gpu_id)
    if XLA_AVAILABLE:
        try:
            import torch_xla.core.xla_model

            return None, torch_xla.core.xla_model.xla_device()
        except ImportError as error:
            logger.warning("torch_xla is installed, but cannot be used: %s", error)
    return "cpu", torch.device("cpu")


def optimize_with_ipex(model: Any, device: Any) -> Any:
    """The model as Intel's extension improves it, in channels-last form."""
    import intel_extension_for_pytorch

    model = model.to(memory_format=torch.channels_last).to(device)
    return intel_extension_for_pytorch.optimize(model)


def _accelerator() -> str | None:
    if torch.cuda.is_available():
        return "cuda"
    if os.environ.get("TS_IPEX_GPU_ENABLE") == "true" and torch.xpu.is_available():
        return "xpu"
    return "mps" if torch.backends.mps.is_available() else None
