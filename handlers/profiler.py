"""Batches under torch's profiler, where the variable ``ENABLE_TORCH_PROFILER`` is set."""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.profiler import record_function

logger = logging.getLogger(__name__)

PROFILER_AVAILABLE = True
"""Whether torch has a profiler: each version that flambeau runs with has it."""


def infer_with_profiler(handler: Any, data: Any) -> tuple[Any, Any]:
    """The handler's answers to a batch, and the ``torch.profiler.profile`` that watched it.

    Its arguments are the handler's ``profiler_args``; what is missing of them is filled in there.
    By default a trace is written for each batch, to a folder ``pytorch_profiler/<model>`` of the
    system's temporary folder, as by TorchServe.
    """
    handler.profiler_args = _arguments(handler)
    with torch.profiler.profile(**handler.profiler_args) as profile:
        with record_function("preprocess"):
            prepared = handler.preprocess(data)
        if handler._is_explain():
            with record_function("explain"):
                output = handler.explain_handle(prepared, data)
        else:
            with record_function("inference"):
                output = handler.inference(prepared)
            with record_function("postprocess"):
                output = handler.postprocess(output)
    logger.info(profile.key_averages().table(sort_by="cpu_time_total", row_limit=10))
    return output, profile


def _arguments(handler: Any) -> dict[str, Any]:
    arguments = dict(handler.profiler_args)
    if not arguments:
        arguments["activities"] = torch.profiler.supported_activities()  # type: ignore[no-untyped-call]
        arguments["record_shapes"] = True
    if "on_trace_ready" not in arguments:
        model = (handler.manifest or {}).get("model", {}).get("modelName")
        folder = trace_folder(model)
        logger.info("Saving chrome trace to : %s", folder)
        arguments["on_trace_ready"] = torch.profiler.tensorboard_trace_handler(str(folder))
    return arguments


def trace_folder(model_name: Any) -> Path:
    """The folder for a model's traces, which is there and which nobody else can write to.

    Others may have made one of that name, or a link, in the temporary folder that all share: then
    it is a fresh one.
    """
    folder = Path(tempfile.gettempdir(), "pytorch_profiler")
    # The name comes from the archive.
    is_name = isinstance(model_name, str) and model_name not in ("", ".", "..")
    below = folder / model_name if is_name and "/" not in model_name else folder
    if _is_ours(folder) and _is_ours(below):
        return below
    logger.warning("%s belongs to somebody else, so traces go elsewhere", folder)
    return Path(tempfile.mkdtemp(prefix="pytorch_profiler-"))


def _is_ours(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return False
    is_writable_by_others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return (
        stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not is_writable_by_others
    )
