"""Whether a configuration can work, before a server is started with it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from .admission import check_keys
from .config import SETTINGS, TORCHSERVE_DEFAULTS, load_config, parse_address, read_value
from .config_sources import gather
from .errors import ConfigError
from .metrics_config import read_metrics_config
from .storage import make_signatures
from .tls import Certificate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from .config import Config


def check_config(
    path: Path,
    environ: Mapping[str, str],
    cwd: Path,
    *,
    model_store: str | None = None,
    torchserve: bool = False,
) -> tuple[list[str], tuple[str, ...]]:
    """What is wrong with the file ``path``, and what whoever starts a server should know.

    Environment variables count as they would at a start. Every value that cannot be is named, with
    its line; what values must have in common is looked at when each of them can be. ``torchserve``
    asks about a start by the command of that name, ``model_store`` is what it would be given.
    """
    flags = {"config": str(path), "model_store": model_store}
    defaults = TORCHSERVE_DEFAULTS if torchserve else {}
    try:
        raws, warnings = gather(SETTINGS, flags, environ, cwd, obey_switch=torchserve)
    except ConfigError as error:
        return [error.message], ()
    problems = []
    for key, raw in raws.items():
        try:
            read_value(SETTINGS[key], raw, environ, cwd)
        except ConfigError as error:
            problems.append(error.message)
    if problems:
        return problems, tuple(warnings)
    try:
        config = load_config(flags, environ, cwd, defaults, obey_switch=torchserve)
    except ConfigError as error:
        return [error.message], tuple(warnings)
    problems = [
        *_tls_problems(config),
        *_raised(check_keys, config),
        *_raised(make_signatures, config),
        *_raised(_check_metrics, config),
        *_missing_files(config),
        *_missing_archives(config),
    ]
    return problems, config.warnings


def _tls_problems(config: Config) -> list[str]:
    addresses = (config.inference_address, config.management_address, config.metrics_address)
    if not (config.enable_grpc_ssl or any(parse_address(each).is_tls for each in addresses)):
        return []
    return _raised(Certificate, config)


def _raised(check: Callable[[Config], object], config: Config) -> list[str]:
    try:
        check(config)
    except ConfigError as error:
        return [error.message]
    return []


def _missing_files(config: Config) -> list[str]:
    """Files that the server or its workers would look for in vain."""
    problems = []
    if shutil.which(config.workers_python) is None:
        problems.append(f"workers_python={config.workers_python}: there is no such program.")
    trusted = config.trusted_archives
    if trusted is not None and not trusted.is_file():
        problems.append(f"trusted_archives={trusted}: there is no such file.")
    return problems


def _check_metrics(config: Config) -> None:
    read_metrics_config(config.metrics_config, detect_models=False)


def _missing_archives(config: Config) -> list[str]:
    """Archives that are to be served from the start and are not in the model store."""
    store = config.model_store
    if store is None or config.loads_all_models or config.model_snapshot is not None:
        return []
    source = config.sources.get("load_models", "default")
    names = [url.rstrip("/").rpartition("/")[2] for _, url in config.load_models]
    return [
        f"load_models ({source}): {name} is not in the model store {store}."
        for name in names
        if not (store / name).exists()
    ]
