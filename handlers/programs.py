"""Models that are whole programs: TorchScript, ``torch.export``, and what that was compiled to."""

from __future__ import annotations

import logging
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger(__name__)

_COMPILED = "data/aotinductor/"
_EXPORTED = ("models/", "serialized_exported_program.json")


def load_torchscript(path: str, device: Any) -> Any:
    """The TorchScript program in the file.

    Raises RuntimeError, which tells of a state dict in its place.
    """
    try:
        with warnings.catch_warnings():
            # The archive's format is not the server's choice.
            warnings.filterwarnings("ignore", r".*torch\.jit\.load.* is deprecated")
            return torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        if "constants.pkl" not in str(error):
            raise
        raise RuntimeError(
            f"{Path(path).name} is not a TorchScript program. If it holds a state dict, the "
            "archive also needs the file that defines the model: 'flambeau archive --model-file'. "
            "A program of torch.export is told by a name that ends in .pt2."
        ) from error


def load_exported(path: str, device: Any) -> Any:
    """What a ``.pt2`` file holds: a program of ``torch.export``, or one compiled by AOTInductor.

    Where both are in it, the compiled one. Either may run code of the file's author. Raises
    RuntimeError for any other file.
    """
    names = _members(path)
    if any(name.startswith(_COMPILED) for name in names):
        index = device.index if device.type != "cpu" and device.index is not None else -1
        return torch._inductor.aoti_load_package(path, device_index=index)
    if not any(name.startswith(_EXPORTED) for name in names):
        raise RuntimeError(
            f"{Path(path).name} was written neither by torch.export.save nor by "
            "torch._inductor.aoti_compile_and_package"
        )
    program = torch.export.load(path)
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, str(device))
    return program.module()


def load_shared_library(path: str, map_location: str | None) -> Any:
    """The model that ``torch._export.aot_compile`` made into machine code; what it loads is run."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*aot_load.*")
        return torch._export.aot_load(path, map_location or "cpu")


def _members(path: str) -> list[str]:
    """Names in the file without the folder that all are in."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [
                inner for name in archive.namelist() for inner in (name, name.partition("/")[2])
            ]
    except (zipfile.BadZipFile, OSError):
        return []
