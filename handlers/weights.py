"""Weights: read without running code, checked against the model, shared between workers.

What is read from a file that nobody may write, as the files of unpacked archives are, is mapped
into memory: workers of one machine then hold one copy of it. A handler that changes its weights
gets pages of its own; the file stays as it is.
"""

from __future__ import annotations

import logging
import os
import pickle
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger(__name__)

_SHOWN = 3


def load_weights(model: torch.nn.Module, path: str, device: Any, config: Any) -> None:
    """Put the state dict in the file into ``model``, whose device is the CPU still.

    ``config`` is the model's configuration. Raises RuntimeError for a file that cannot be read, or
    that does not fit: it says what is missing, too much, or of another shape.
    """
    is_mapped = device is not None and device.type == "cpu" and _is_read_only(path)
    if Path(path).suffix == ".safetensors":
        state = _read_safetensors(path, device)
    else:
        is_mapped = is_mapped and _is_plain_zip(path)
        state = read_pickle(path, device, config, is_mapped)
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        reason = _misfit(model, state)
        if reason is None:
            raise
        name = type(model).__name__
        raise RuntimeError(f"{Path(path).name} does not fit {name}: {reason}") from error
    if is_mapped:
        _share(model, state)


def allows_pickle(config: Any) -> bool:
    """Whether ``handler: {weights_only: false}`` stands in a model-config.yaml.

    Raises ValueError for a value that is neither true nor false.
    """
    section = config.get("handler") if isinstance(config, dict) else None
    weights_only = section.get("weights_only", True) if isinstance(section, dict) else True
    if not isinstance(weights_only, bool):
        raise ValueError(f"handler.weights_only must be true or false, not {weights_only!r}")
    return not weights_only


def read_pickle(path: str, device: Any, config: Any, is_mapped: bool = False) -> Any:
    """What torch.save has written, without running code from it unless ``config`` allows that.

    Raises RuntimeError, with UnpicklingError for its cause, for what holds more than tensors.
    """
    name = Path(path).name
    if allows_pickle(config):
        logger.warning(
            "%s is read with weights_only: false, as the archive's configuration says: "
            "code in it is run",
            name,
        )
        return torch.load(path, map_location=device, weights_only=False, mmap=is_mapped or None)
    try:
        # Left to torch's default, which is True, so that its environment variables work too.
        return torch.load(path, map_location=device, mmap=is_mapped or None)
    except pickle.UnpicklingError as error:
        raise RuntimeError(
            f"{name} holds more than tensors, and reading that would run code from it. Save "
            "the model's state_dict() alone; or, if you trust the archive, put 'handler: "
            "{weights_only: false}' into its model-config.yaml."
        ) from error


def _read_safetensors(path: str, device: Any) -> Any:
    name = Path(path).name
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise RuntimeError(
            f"{name} needs the library safetensors: pip install 'flambeau[safetensors]'"
        ) from None
    try:
        return load_file(path, device="cpu" if device is None else str(device))
    except SafetensorError as error:
        raise RuntimeError(f"{name} is not in the format safetensors: {error}") from error


def _is_read_only(path: str) -> bool:
    # Who overwrites a mapped file changes the model at work, or kills it by making the file short.
    return not os.stat(path).st_mode & 0o222


def _is_plain_zip(path: str) -> bool:
    """Whether the tensors lie in the file as they are: torch.save does so since version 1.6."""
    try:
        with open(path, "rb") as file:
            if file.read(4) != b"PK\x03\x04":
                return False
            with zipfile.ZipFile(file) as archive:
                return all(each.compress_type == zipfile.ZIP_STORED for each in archive.infolist())
    except zipfile.BadZipFile:
        return False


def _share(model: torch.nn.Module, state: Any) -> None:
    """Replace the model's memory by the file's, for each tensor that equals what is in the file.

    ``load_state_dict(assign=True)`` would save the copy, but not keep ties between parameters, the
    model's types, or what the model does to its weights while it loads them.
    """
    named = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    own = {id(tensor): tensor for _, tensor in named}
    holders = Counter(_memory(tensor) for tensor in own.values() if _is_dense(tensor))
    taken = set()
    for name, tensor in named:
        mapped = state.get(name)
        if (
            isinstance(mapped, torch.Tensor)
            and _is_dense(tensor)
            and _is_dense(mapped)
            # Views of each other stay so, and no others become so.
            and holders[_memory(tensor)] == 1
            and _memory(mapped) not in taken
            and (tensor.dtype, tensor.stride()) == (mapped.dtype, mapped.stride())
            and mapped.data_ptr() % mapped.element_size() == 0
            and torch.equal(tensor, mapped)
        ):
            taken.add(_memory(mapped))
            tensor.data = mapped.data


def _is_dense(tensor: torch.Tensor) -> bool:
    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and not tensor.is_inference()
        and tensor.numel() > 0
    )


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _misfit(model: torch.nn.Module, state: Any) -> str | None:
    """Why the state is another model's, in a few words; None if that is not why it is refused."""
    if not isinstance(state, Mapping):
        return f"it holds no state dict but an object of type {type(state).__name__}"
    own = model.state_dict()
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name} is {list(state[name].shape)} in the file, {list(tensor.shape)} in the model"
        for name, tensor in own.items()
        if isinstance(tensor, torch.Tensor)
        and isinstance(state.get(name), torch.Tensor)
        and state[name].shape != tensor.shape
    ]
    reasons = [
        f"{what} {_some(names)}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("shapes:", shapes))
        if names
    ]
    nested = [name for name in unexpected if isinstance(state[name], dict)]
    if nested:
        reasons.append(f"save what is under {nested[0]!r} alone, if that is the state dict")
    elif unexpected and all(str(name).startswith("module.") for name in unexpected):
        reasons.append("save the state_dict() of the model inside DataParallel, its .module")
    return "; ".join(reasons) or None


def _some(names: list[Any]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(str(name)[:120] for name in names[:_SHOWN]) + more
