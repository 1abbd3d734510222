"""``torch.compile``, as the key ``pt2`` of a model's configuration asks for it.

::

    pt2:
      compile:
        enable: true
        backend: inductor      # this and all other options are torch.compile's
        mode: max-autotune
"""

from __future__ import annotations

import enum
import importlib
import logging
from typing import Any

import torch

logger = logging.getLogger(__name__)

PT2_AVAILABLE = True
"""Whether torch has ``torch.compile``: each version that flambeau runs with has it."""
PT230_AVAILABLE = True
"""Whether torch loads what ``torch.export`` compiled ahead of time; likewise."""


class PT2Backend(str, enum.Enum):
    """Backends of ``torch.compile`` that TorchServe knows."""

    EAGER = "eager"
    AOT_EAGER = "aot_eager"
    INDUCTOR = "inductor"
    NVFUSER = "nvfuser"
    AOT_NVFUSER = "aot_nvfuser"
    AOT_CUDAGRAPHS = "aot_cudagraphs"
    OFI = "ofi"
    FX2TRT = "fx2trt"
    ONNXRT = "onnxrt"
    IPEX = "ipex"
    TORCHXLA_TRACE_ONCE = "torchxla_trace_once"
    OPENVINO = "openvino"
    TENSORRT = "tensorrt"
    HPU_BACKEND = "hpu_backend"


_KNOWN = {backend.value for backend in PT2Backend}
# They make their backend known when they are imported.
_MODULES = {
    "openvino": "openvino.torch",
    "tensorrt": "torch_tensorrt",
    "ipex": "intel_extension_for_pytorch",
}


def check_valid_pt2_backend(backend: str) -> bool:
    """Whether ``backend`` is one that TorchServe knows; a warning in the log if not."""
    if backend in _KNOWN:
        return True
    logger.warning("%s is not a supported backend", backend)
    return False


def compile_options(config: Any) -> dict[str, Any] | None:
    """The arguments for ``torch.compile`` in a model-config.yaml, None if it is not to be used.

    Raises ValueError for a ``pt2`` that says neither yes nor no.
    """
    if not isinstance(config, dict) or "pt2" not in config:
        return None
    section = config["pt2"]
    if isinstance(section, dict) and "compile" in section:
        options = section["compile"]
        if not isinstance(options, dict) or not isinstance(options.get("enable"), bool):
            raise ValueError("pt2.compile must have an enable that is true or false")
        if not options["enable"]:
            return None
        options = {key: value for key, value in options.items() if key != "enable"}
    elif isinstance(section, dict) and "export" in section:
        return None
    elif isinstance(section, (dict, str)):
        logger.warning(
            "This form of pt2 is deprecated: write 'pt2: {compile: {enable: true, backend: ...}}'"
        )
        options = {"backend": section} if isinstance(section, str) else dict(section)
    else:
        raise ValueError("pt2 should be str or dict")
    if "backend" in options and not check_valid_pt2_backend(options["backend"]):
        return None
    return options


def compile_model(model: Any, options: dict[str, Any]) -> Any:
    """``model``, to be compiled when it is first used; as it is if torch does not take the options.

    A warning in the log says so.
    """
    shown = ", ".join(f"{key} {value}" for key, value in options.items()) or "torch's defaults"
    try:
        _import_backend(options.get("backend"))
        compiled = torch.compile(model, **options)
    except Exception as error:
        logger.warning("Compiling the model with %s has failed, it runs as it is: %s", shown, error)
        return model
    logger.info("The model is compiled with %s", shown)
    return compiled


def uses_aot_compile(config: Any) -> bool:
    """Whether ``pt2: {export: {aot_compile: true}}`` stands in a model-config.yaml."""
    section = config.get("pt2") if isinstance(config, dict) else None
    export = section.get("export") if isinstance(section, dict) else None
    return isinstance(export, dict) and export.get("aot_compile") is True


def _import_backend(name: str | None) -> None:
    module = _MODULES.get(name or "")
    if module is None:
        return
    try:
        importlib.import_module(module)
    except ImportError as error:
        # Newer ones are found by torch itself.
        logger.warning("The backend %s could not be imported: %s", name, error)
