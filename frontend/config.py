"""The one configuration object: every key with its default, allowed values and meaning.

A key is set, from the strongest to the weakest, by its command line flag, by the environment
variable ``FLAMBEAU_<KEY>`` or ``TS_<KEY>``, by ``config.properties``, or it has its default. The
variables are always read. TorchServe reads them only where the file says
``enable_envvars_config=true`` and then lets them beat the flags: with that line in the file, so
does flambeau. An empty variable, or an empty value in the file, counts as not set.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..model_store.snapshot import latest
from .access_policy import check_access
from .config_listeners import ListenersKeys
from .config_models import ModelsKeys
from .config_observability import ObservabilityKeys
from .config_security import COMMAND_DEFAULT, SecurityKeys
from .config_sources import Raw, gather
from .errors import ConfigError
from .run_dir import check_run_dir, default_run_dir, home, make_run_dir
from .settings import LOAD_ALL, Address, Setting, read_address
from .version_settings import VERSION_KEYS, VersionSettings

__all__ = [
    "LOAD_ALL",
    "SECRET_VARIABLES",
    "SETTINGS",
    "Address",
    "Config",
    "VersionSettings",
    "check_run_dir",
    "find_run_dir",
    "load_config",
    "parse_address",
    "prepare_run_dir",
    "read_value",
]

HIDDEN = "(hidden)"
"""What is shown in place of a secret."""


@dataclass(frozen=True, kw_only=True)
class Config(SecurityKeys, ObservabilityKeys, ModelsKeys, ListenersKeys):
    """Every setting of a server, fixed for its life; ``sources`` tells where each came from.

    ``warnings`` are sentences for whoever starts the server. Timeouts are in seconds, sizes in
    bytes. The keys are the fields of the groups that it is made of: help texts and documentation
    are made from them.
    """

    sources: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def loads_all_models(self) -> bool:
        """``load_models`` asks for everything in the model store."""
        return self.load_models == LOAD_ALL

    def explain(self) -> list[tuple[str, object, str]]:
        """(key, JSON-ready value, source) of every key, in the order of the table."""
        return [
            (key, _shown(setting, getattr(self, key)), self.sources.get(key, "default"))
            for key, setting in SETTINGS.items()
        ]


def _table() -> dict[str, Setting]:
    settings = {each.name: each.metadata.get("setting") for each in fields(Config)}
    return {name: replace(each, key=name) for name, each in settings.items() if each is not None}


def _shown(setting: Setting, value: object) -> object:
    return HIDDEN if setting.secret and value else _plain(value)


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
SECRET_VARIABLES = frozenset(
    {"FLAMBEAU_API_KEY"}.union(*(each.variables for each in SETTINGS.values() if each.secret))
)
"""Environment variables that hold secrets: workers, which run other people's code, get none."""


TORCHSERVE_DEFAULTS: Mapping[str, str] = MappingProxyType(
    {
        "allow_open_listeners": "true",
        "authorization": "tokens",
        "enable_model_api": "false",
        "snapshots": "true",
        "access_log": "true",
        "enable_grpc": "auto",
    }
)
"""What the command ``torchserve`` has as defaults of its own, as TorchServe does."""


def load_config(
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    cwd: Path,
    defaults: Mapping[str, str] = MappingProxyType({}),
    *,
    obey_switch: bool = False,
) -> Config:
    """The configuration that ``flags``, ``environ`` and the file together make.

    ``flags`` are keys of Config with the values of their command line options (None: not given),
    and ``config``, the file's path. Without it, and without ``TS_CONFIG_FILE`` in ``environ``,
    which beats it, ``config.properties`` in ``cwd`` is read if it is there. Relative paths are
    relative to ``cwd``. ``defaults`` are a command's own, by key; with snapshots on and no file
    named, the last snapshot is the file. With ``obey_switch`` TorchServe's variables count only
    where the file says ``enable_envvars_config=true``. Raises ConfigError with key, value, source
    and what is allowed.
    """
    own = {key: Raw(text, COMMAND_DEFAULT) for key, text in defaults.items()}
    snapshot = _last_snapshot(flags, own, environ, cwd)
    raws, warnings = gather(SETTINGS, flags, environ, cwd, snapshot, obey_switch=obey_switch)
    raws = {**own, **raws}
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for key, setting in SETTINGS.items():
        raw = raws.get(key)
        if raw is not None:
            values[key] = read_value(setting, raw, environ, cwd)
            sources[key] = raw.source
        elif setting.derive is not None:
            values[key] = cwd / setting.derive(environ)
    config = Config(**values, sources=MappingProxyType(sources), warnings=())
    _check_model_store(config)
    _check_addresses(config)
    if config.model_snapshot is not None:
        origin = config.sources["model_snapshot"].rpartition(":")[0]
        warnings.append(f"The models of {origin} are served; load_models is not looked at.")
    warnings += [*_model_warnings(config), *check_access(config)]
    return Config(**values, sources=config.sources, warnings=tuple(warnings))


def _last_snapshot(
    flags: Mapping[str, object], own: Mapping[str, Raw], environ: Mapping[str, str], cwd: Path
) -> Path | None:
    """The snapshot to start from, where neither a file nor the flags say otherwise."""
    said = flags.get("snapshots")
    wanted = "snapshots" in own if said is None else bool(said)
    folder = SETTINGS["snapshot_dir"].derive
    return latest(cwd / folder(environ)) if wanted and folder is not None else None


def find_run_dir(flags: Mapping[str, object], environ: Mapping[str, str], cwd: Path) -> Path:
    """The run directory alone, whatever is wrong with other keys: what ``flambeau stop`` needs."""
    raw = gather(SETTINGS, flags, environ, cwd)[0].get("run_dir")
    if raw is None:
        return cwd / default_run_dir(environ)
    path: Path = read_value(SETTINGS["run_dir"], raw, environ, cwd)
    return path


def parse_address(text: str) -> Address:
    """What the address of a listener means; raises ConfigError if it is none."""
    try:
        return read_address(text)
    except ValueError as error:
        raise ConfigError(f"{text}: {error}") from None


def prepare_run_dir(config: Config) -> Path:
    """Make the run directory, for us alone; raises ConfigError if it is a link or not ours."""
    return make_run_dir(config.run_dir)


def read_value(setting: Setting, raw: Raw, environ: Mapping[str, str], cwd: Path) -> Any:
    """The value that the text stands for, paths made absolute; raises ConfigError."""
    try:
        value = setting.kind.parse(raw.text.strip())
    except ValueError as error:
        wish = str(error) or f"must be {setting.kind.allowed}"
        shown = HIDDEN if setting.secret else raw.text
        raise ConfigError(f"{setting.key}={shown} ({raw.source}): {wish}.") from None
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
            if not parse_address(here).overlaps(parse_address(there)):
                continue
            if {key, other} == {"inference_address", "management_address"}:
                if parse_address(here).is_one_with(parse_address(there)):
                    continue
                wish = f"must be the same as {other}={there}, or differ from it in the port."
            else:
                wish = (
                    f"must differ from {other}={there}: the metrics have a listener of their own."
                )
            source = config.sources.get(key, "default")
            raise ConfigError(f"{key}={here} ({source}): {wish}")


def _model_warnings(config: Config) -> list[str]:
    source = config.sources.get("models", "default")
    return [
        f"models ({source}): {', '.join(settings.unknown)} of {name} {version} has no effect; "
        f"known are {', '.join(VERSION_KEYS)}."
        for name, versions in config.models.items()
        for version, settings in versions.items()
        if settings.unknown
    ]
