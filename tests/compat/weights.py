"""Weights by a formula in whole numbers: no random numbers, so the same with every torch."""

from __future__ import annotations

import importlib.util
import math
import warnings
from typing import TYPE_CHECKING, Any

import torch
from compat.archives import FILES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


def spread(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Numbers that look random, in -1..1, of a scale that keeps a layer's output near 1."""
    count = math.prod(shape)
    mixed = (torch.arange(count, dtype=torch.int64) + 7919 * seed + 1) * 2654435761 % 4294967296
    fan_in = math.prod(shape[1:]) or 1
    scale = math.sqrt(3 / fan_in) if len(shape) > 1 else 0.1
    return ((mixed >> 16).double() / 32767.5 - 1).mul(scale).float().reshape(shape)


def filled(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of the same names and shapes; batch norms begin neutral."""
    made = {}
    for seed, (name, tensor) in enumerate(state.items()):
        if name.endswith("running_var") or (tensor.dim() == 1 and name.endswith("weight")):
            made[name] = torch.ones_like(tensor)
        elif name.endswith(("running_mean", "num_batches_tracked")):
            made[name] = torch.zeros_like(tensor)
        else:
            made[name] = spread(tuple(tensor.shape), seed)
    return made


def model(source: str) -> Any:
    """The one model of a file below ``cases``, with its weights."""
    spec = importlib.util.spec_from_file_location("compat_model", FILES / source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (kind,) = [
        each
        for each in vars(module).values()
        if isinstance(each, type) and each.__module__ == module.__name__
    ]
    made = kind()
    made.load_state_dict(filled(made.state_dict()))
    return made.eval()


def state_of(source: str) -> Callable[[Path], None]:
    """Writes the state dict of the model of ``source``."""
    return lambda path: torch.save(model(source).state_dict(), path)


def script_of(source: str) -> Callable[[Path], None]:
    """Writes the model of ``source`` as a TorchScript program."""

    def write(path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            torch.jit.script(model(source)).save(str(path))

    return write
