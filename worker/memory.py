"""Errors of memory and of GPUs: which of them a worker can go on after, and what it does then.

Torch is not imported for it: a handler without torch has no errors of torch's.
"""

from __future__ import annotations

import gc
import sys

from .errors import with_causes, words

_SHORTAGES = ("out of memory", "DefaultCPUAllocator", "ALLOC_FAILED")
"""Words of a RuntimeError that tells of a lack of memory, the GPU's or the host's."""
_HARMLESS = (
    "no kernel image is available",
    "invalid configuration argument",
    "invalid argument",
    "invalid device ordinal",
    "too many resources requested for launch",
    "operation not supported",
)
"""CUDA errors that concern one call; after all others but a lack of memory, every call fails."""


def lacks_memory(error: BaseException) -> bool:
    """Memory ran out, on the host or on a GPU, so that less work at once may do."""
    return any(map(_is_shortage, with_causes(error)))


def spoils(error: BaseException) -> bool:
    """A CUDA error after which the GPU context is unusable for good, until the process ends."""
    return any(map(_is_sticky, with_causes(error)))


def release_memory() -> None:
    """Give back what a failed call has left: its objects, and what torch keeps of a GPU's memory.

    Call it when the error is gone: its traceback holds the call's tensors.
    """
    gc.collect()
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is not None and cuda.is_initialized():
        cuda.empty_cache()


def _is_shortage(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if any(
        cls.__name__ == "OutOfMemoryError" and cls.__module__.partition(".")[0] == "torch"
        for cls in type(error).__mro__
    ):
        return True
    text = words(error) if isinstance(error, RuntimeError) else ""
    return any(shortage in text for shortage in _SHORTAGES)


def _is_sticky(error: BaseException) -> bool:
    text = words(error)
    if "CUDA error" not in text or "out of memory" in text or _is_shortage(error):
        return False
    return not any(harmless in text for harmless in _HARMLESS)
