"""``timed``: how long a handler's stages take, for archives that ask for it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Method = TypeVar("Method", bound=Callable[..., Any])


def timed(method: Method) -> Method:
    """Report the method's duration as metric ``ts_handler_<method>``, in milliseconds.

    Only where ``model-config.yaml`` says ``handler: {profile: true}``; else the call goes through.
    """

    @functools.wraps(method)
    def timed_method(self: Any, *args: Any, **kwargs: Any) -> Any:
        context = getattr(self, "context", None)
        if context is None or not _is_profiled(context):
            return method(self, *args, **kwargs)
        _finish_device_work()
        started = time.perf_counter()
        result = method(self, *args, **kwargs)
        _finish_device_work()
        milliseconds = (time.perf_counter() - started) * 1000
        context.metrics.add_time(f"ts_handler_{method.__name__}", milliseconds)
        return result

    return timed_method  # type: ignore[return-value]


def _is_profiled(context: Any) -> bool:
    config = getattr(context, "model_yaml_config", None)
    section = config.get("handler") if isinstance(config, dict) else None
    return isinstance(section, dict) and bool(section.get("profile"))


def _finish_device_work() -> None:
    # Kernels run on after the call that launched them has returned.
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
