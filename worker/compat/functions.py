"""Small things that TorchServe's modules have and flambeau has no use for itself."""

from __future__ import annotations

import functools
import importlib
import logging
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..metrics import Sample
from ..streaming import send_intermediate_predict_response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

logger = logging.getLogger(__name__)


def get_yaml_config(yaml_file_path: str | Path) -> Any:
    """What the YAML file holds."""
    return yaml.safe_load(Path(yaml_file_path).read_text(encoding="utf-8"))


def deprecated(
    version: str, replacement: str = "", klass: type[Warning] = PendingDeprecationWarning
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates a function that warns whenever it is called."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def warning(*args: Any, **kwargs: Any) -> Any:
            name = function.__name__
            warnings.warn(f"{name} is deprecated in {version} and moved to {replacement}", klass, 2)
            return function(*args, **kwargs)

        return warning

    return decorate


def import_class(class_name: str | None, module_prefix: str | None = None) -> Any:
    """The class named ``module.Class``, below ``module_prefix`` if one is given.

    Raises ImportError with TorchServe's words.
    """
    if not class_name:
        raise ImportError("class name is not defined")
    module_name, _, name = class_name.rpartition(".")
    if module_prefix is not None:
        module_name = f"{module_prefix}.{module_name}" if module_name else module_prefix
    if not module_name:
        raise ImportError("module name is not defined.")
    found = getattr(importlib.import_module(module_name), name, None)
    if found is None:
        raise ImportError(f"class:{name} not found in module:{module_name}.")
    return found


def timeit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a function that prints how long each call takes."""

    @functools.wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        started, started_cpu = time.perf_counter(), time.process_time()
        result = function(*args, **kwargs)
        seconds, cpu = time.perf_counter() - started, time.process_time() - started_cpu
        name = function.__name__
        print(f"func: {name!r} took {seconds:.4f} s, {cpu:.4f} s of it on the CPU")  # noqa: T201
        return result

    return timed


def download_model(
    model_id: str = "meta-llama/Meta-Llama-3.1-8B-Instruct",
    revision: str = "main",
    model_path: str = ".cache",
    use_auth_token: bool | str = True,
) -> str:
    """Load a model of PyTorch from the Hugging Face hub; the folder where it is.

    Raises ImportError without the hub's library, and what that raises.
    """
    from huggingface_hub import snapshot_download

    kinds = ("json", "pt", "bin", "txt", "model", "pth", "safetensors")
    return str(
        snapshot_download(
            repo_id=model_id,
            revision=revision,
            allow_patterns=[*(f"*.{kind}" for kind in kinds), "original/*"],
            cache_dir=model_path,
            token=use_auth_token,
        )
    )


def emit_metrics(metrics: Iterable[object] | None) -> None:
    """Report each metric, as old handlers do with a list of their own.

    Those of ``context.metrics.store`` are left out: they have been reported.
    """
    for metric in metrics or ():
        if not isinstance(metric, Sample):
            logger.info("[METRICS]%s", metric)


old_send_intermediate_predict_response = deprecated(
    "0.9.0", "ts.handler_utils.utils.send_intermediate_predict_response"
)(send_intermediate_predict_response)
"""The function of that name, from where it was before."""
