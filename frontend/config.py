# ruff: noqa: RUF009 - _key() makes a dataclass field
"""The one configuration object: every key with its default, allowed values and meaning.

A key is set, from the strongest to the weakest, by its command line flag, by the environment
variable ``FLAMBEAU_<KEY>`` or ``TS_<KEY>``, by ``config.properties``, or it has its default. The
variables are always read. TorchServe reads them only where the file says
``enable_envvars_config=true`` and then lets them beat the flags: with that line in the file, so
does flambeau. An empty variable, or an empty value in the file, counts as not set.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from .config_sources import Raw, gather
from .errors import ConfigError
from .run_dir import check_run_dir, default_run_dir, home, make_run_dir
from .settings import (
    BOOLEAN,
    LOAD_ALL,
    LOAD_MODELS,
    MODELS,
    PATH,
    PATTERN,
    TEXT,
    VERSION_KEYS,
    Address,
    Kind,
    Setting,
    VersionSettings,
    address,
    choice,
    integer,
    read_address,
)

T = TypeVar("T")

__all__ = [
    "LOAD_ALL",
    "SETTINGS",
    "Address",
    "Config",
    "VersionSettings",
    "check_run_dir",
    "find_run_dir",
    "load_config",
    "parse_address",
    "prepare_run_dir",
]


def _key(kind: Kind, default: T, meaning: str, *, shown: str | None = None, **more: Any) -> T:
    """A field of Config that is a key of the configuration; ``shown`` words its default."""
    if shown is None:
        shown = str(default).lower() if isinstance(default, bool) else str(default)
    setting = Setting("", kind, shown, meaning, **more)
    made: Any = field(default_factory=lambda: default, metadata={"setting": setting})
    return made  # type: ignore[no-any-return]


def _directory(derive: Callable[[Mapping[str, str]], Path], meaning: str, **more: Any) -> Path:
    """A key whose default depends on the environment."""
    setting = Setting("", PATH, meaning=meaning, derive=derive, **more)
    made: Any = field(
        default_factory=lambda: derive(os.environ).absolute(), metadata={"setting": setting}
    )
    return made  # type: ignore[no-any-return]


def _default_model_cache_dir(environ: Mapping[str, str]) -> Path:
    cache = environ.get("XDG_CACHE_HOME", "")
    root = Path(cache) if cache.startswith("/") else home(environ) / ".cache"
    return root / "flambeau" / "models"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Every setting of a server, fixed for its life; ``sources`` tells where each came from.

    ``warnings`` are sentences for whoever starts the server. Timeouts are in seconds, sizes in
    bytes. This is the table of keys: help texts and documentation are made from it.
    """

    inference_address: str = _key(
        address(80),
        "http://127.0.0.1:8080",
        "Where predictions are answered.",
        flag="--inference-address",
    )
    management_address: str = _key(
        address(8081),
        "http://127.0.0.1:8081",
        "Where models are registered, scaled and described.",
        flag="--management-address",
    )
    metrics_address: str = _key(
        address(8082),
        "http://127.0.0.1:8082",
        "Where Prometheus reads the metrics.",
        flag="--metrics-address",
    )
    model_store: Path | None = _key(
        PATH,
        None,
        "Folder that holds the model archives.",
        shown="none",
        flag="--model-store",
    )
    load_models: tuple[tuple[str | None, str], ...] = _key(
        LOAD_MODELS,
        (),
        "Archives of the model store to serve from the start: all, none, or ARCHIVE and "
        "NAME=ARCHIVE separated by commas.",
        shown="none",
        flag="--models",
    )
    models: Mapping[str, Mapping[str, VersionSettings]] = _key(
        MODELS,
        MappingProxyType({}),
        "Workers, batching and timeouts of models by name and version, as JSON.",
        shown="{}",
    )
    default_workers_per_model: int = _key(
        integer(0),
        0,
        "Workers of a model that does not say how many; 0 gives a model that is loaded at start "
        "one per GPU, or per CPU core where there is none.",
    )
    default_response_timeout: int = _key(
        integer(1), 120, "Seconds that a worker may take to answer a batch before it is killed."
    )
    default_startup_timeout: int = _key(
        integer(1), 120, "Seconds that a worker may take to load its model."
    )
    unregister_model_timeout: int = _key(
        integer(1), 120, "Seconds that the removal of a model may take."
    )
    job_queue_size: int = _key(
        integer(1), 100, "Requests that may wait for one model version; more get 503."
    )
    batching: str = _key(
        choice("adaptive", "fixed"),
        "adaptive",
        "adaptive: an idle worker waits for a fuller batch only while more requests are likely; "
        "fixed: it always waits maxBatchDelay, as TorchServe does.",
    )
    retry_lost_batch: int = _key(
        integer(0, 10),
        1,
        "How often a request is tried again, alone, after the worker died that had it; 0 fails "
        "the whole batch, as TorchServe does.",
    )
    max_request_size: int = _key(integer(1), 6553500, "Longest request body; longer ones get 413.")
    number_of_gpu: int | None = _key(
        integer(0), None, "Use at most this many GPUs.", shown="all that are visible"
    )
    default_service_handler: str | None = _key(
        TEXT, None, "Handler of archives that name none.", shown="none"
    )
    decode_input_request: bool = _key(
        BOOLEAN, True, "Give handlers text and JSON bodies decoded, rather than as bytes."
    )
    limit_max_image_pixels: bool = _key(
        BOOLEAN, True, "Let image handlers refuse images of suspiciously many pixels."
    )
    blacklist_env_vars: str = _key(
        PATTERN,
        "",
        "Environment variables whose whole name matches this are hidden from workers.",
        shown="none",
    )
    workers_python: str = _key(
        TEXT,
        sys.executable,
        "Python interpreter of the workers.",
        alias="python",
        shown="the one that runs flambeau",
    )
    drain_timeout: int = _key(
        integer(0), 30, "Seconds that a stopping server gives to requests it has accepted."
    )
    pre_stop_delay: int = _key(
        integer(0),
        0,
        "Seconds that a stopping server reports not to be ready while it still listens.",
    )
    log_level: str = _key(
        choice("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
        "INFO",
        "Least severity that is logged.",
        flag="--log-level",
    )
    access_log: bool = _key(
        BOOLEAN, False, "Log a line for each request.", flag="--access-log/--no-access-log"
    )
    run_dir: Path = _directory(
        default_run_dir,
        "Private folder for sockets, logs and the state of running servers.",
        default="$XDG_RUNTIME_DIR/flambeau, else flambeau-<uid> among the temporary files",
        flag="--run-dir",
    )
    model_cache_dir: Path = _directory(
        _default_model_cache_dir,
        "Folder for unpacked archives.",
        default="$XDG_CACHE_HOME/flambeau/models, else ~/.cache/flambeau/models",
    )
    enable_envvars_config: bool = _key(
        BOOLEAN,
        False,
        "Let environment variables beat flags, as under TorchServe.",
        file_only=True,
    )
    sources: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def loads_all_models(self) -> bool:
        """``load_models`` asks for everything in the model store."""
        return self.load_models == LOAD_ALL

    def explain(self) -> list[tuple[str, object, str]]:
        """(key, JSON-ready value, source) of every key, in the order of the table."""
        return [
            (key, _plain(getattr(self, key)), self.sources.get(key, "default")) for key in SETTINGS
        ]


def _table() -> dict[str, Setting]:
    settings = {each.name: each.metadata.get("setting") for each in fields(Config)}
    return {name: replace(each, key=name) for name, each in settings.items() if each is not None}


def _plain(value: object) -> object:
    """``value`` as JSON can hold it, in the notation of the configuration file."""
    if isinstance(value, Mapping):
        return {
            name: {version: _plain_version(each) for version, each in versions.items()}
            for name, versions in value.items()
        }
    if isinstance(value, tuple):
        return ",".join(url if name is None else f"{name}={url}" for name, url in value) or "none"
    if isinstance(value, bool):
        return value
    return str(value) if isinstance(value, Path) else value


def _plain_version(settings: VersionSettings) -> dict[str, object]:
    values = asdict(settings)
    return {
        key: values[name] for key, (name, _) in VERSION_KEYS.items() if values[name] is not None
    }


SETTINGS: Mapping[str, Setting] = MappingProxyType(_table())
"""Every key of Config by name: what the command line's help and the documentation are made from."""


def load_config(flags: Mapping[str, object], environ: Mapping[str, str], cwd: Path) -> Config:
    """The configuration that ``flags``, ``environ`` and the file together make.

    ``flags`` are keys of Config with the values of their command line options (None: not given),
    and ``config``, the file's path. Without it, and without ``TS_CONFIG_FILE`` in ``environ``,
    which beats it, ``config.properties`` in ``cwd`` is read if it is there. Relative paths are
    relative to ``cwd``. Raises ConfigError with key, value, source and what is allowed.
    """
    raws, warnings = gather(SETTINGS, flags, environ, cwd)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for key, setting in SETTINGS.items():
        raw = raws.get(key)
        if raw is not None:
            values[key] = _read(setting, raw, environ, cwd)
            sources[key] = raw.source
        elif setting.derive is not None:
            values[key] = cwd / setting.derive(environ)
    config = Config(**values, sources=MappingProxyType(sources), warnings=())
    _check_model_store(config)
    _check_addresses(config)
    warnings += [*_model_warnings(config), *_exposure_warnings(config)]
    return Config(**values, sources=config.sources, warnings=tuple(warnings))


def find_run_dir(flags: Mapping[str, object], environ: Mapping[str, str], cwd: Path) -> Path:
    """The run directory alone, whatever is wrong with other keys: what ``flambeau stop`` needs."""
    raw = gather(SETTINGS, flags, environ, cwd)[0].get("run_dir")
    if raw is None:
        return cwd / default_run_dir(environ)
    path: Path = _read(SETTINGS["run_dir"], raw, environ, cwd)
    return path


def parse_address(text: str, default_port: int = 80) -> Address:
    """Host and port of ``http://host[:port]``; raises ConfigError for anything else."""
    try:
        return read_address(text, default_port)
    except ValueError as error:
        raise ConfigError(f"{text}: {error}") from None


def prepare_run_dir(config: Config) -> Path:
    """Make the run directory, for us alone; raises ConfigError if it is a link or not ours."""
    return make_run_dir(config.run_dir)


def _read(setting: Setting, raw: Raw, environ: Mapping[str, str], cwd: Path) -> Any:
    """The value that the text stands for, paths made absolute."""
    try:
        value = setting.kind.parse(raw.text.strip())
    except ValueError as error:
        wish = str(error) or f"must be {setting.kind.allowed}"
        raise ConfigError(f"{setting.key}={raw.text} ({raw.source}): {wish}.") from None
    if not isinstance(value, Path):
        return value
    if value.parts[:1] == ("~",):
        value = home(environ).joinpath(*value.parts[1:])
    return Path(os.path.normpath(cwd / value))


def _check_model_store(config: Config) -> None:
    source = config.sources.get("model_store", "default")
    if config.model_store is not None and not config.model_store.is_dir():
        raise ConfigError(
            f"--model-store directory not found: {config.model_store} ({source}). "
            "Create it, or name the folder that holds your archives."
        )


def _check_addresses(config: Config) -> None:
    keys = ("inference_address", "management_address", "metrics_address")
    for index, key in enumerate(keys):
        for other in keys[:index]:
            here, there = getattr(config, key), getattr(config, other)
            if parse_address(here).overlaps(parse_address(there)):
                source = config.sources.get(key, "default")
                raise ConfigError(
                    f"{key}={here} ({source}): must differ from {other}={there}; "
                    "one port for both is not supported yet."
                )


def _model_warnings(config: Config) -> list[str]:
    source = config.sources.get("models", "default")
    return [
        f"models ({source}): {', '.join(settings.unknown)} of {name} {version} has no effect; "
        f"known are {', '.join(VERSION_KEYS)}."
        for name, versions in config.models.items()
        for version, settings in versions.items()
        if settings.unknown
    ]


def _exposure_warnings(config: Config) -> list[str]:
    warnings = []
    if not parse_address(config.management_address).is_loopback:
        warnings.append(
            f"management_address={config.management_address}: the management API has no keys "
            "yet. Anyone who can reach it can register a model, and so run code on this machine."
        )
    if not parse_address(config.metrics_address).is_loopback:
        warnings.append(
            f"metrics_address={config.metrics_address}: the metrics API has no keys yet. "
            "Anyone who can reach it can read which models run and how they are used."
        )
    return warnings
