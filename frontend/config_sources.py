"""Where the texts of the configuration come from: the file, the environment, the flags."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, NamedTuple

from .errors import ConfigError
from .properties import PropertiesError, UnsetVariableError, parse, substitute

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from .settings import Setting

INEFFECTIVE = frozenset(
    {
        "async_logging",
        "cpp_log_config",
        "cpu_launcher_args",
        "cpu_launcher_enable",
        "debug",
        "io_ratio",
        "ipex_enable",
        "ipex_gpu_enable",
        "keystore_pass",
        "keystore_type",
        "model_server_home",
        "netty_client_threads",
        "number_of_netty_threads",
        "plugins_path",
        "prefer_direct_buffer",
        "system_metrics_cmd",
        "tsConfigFile",
        "use_native_io",
        "version",
        "vmargs",
    }
)
"""Keys of TorchServe's that are accepted so that its files work, and do nothing yet."""

NOT_RESTORED = frozenset(
    {
        "allow_open_listeners",
        "authorization",
        "disable_token_authorization",
        "python",
        "tsConfigFile",
        "version",
    }
)
"""Keys that a snapshot does not bring back: protection that was off once does not stay off, and
the interpreter of a TorchServe that wrote the file is not ours."""

OTHER_VARIABLES = frozenset(
    {
        "TS_CONFIG_FILE",
        "FLAMBEAU_MANAGEMENT",
        "FLAMBEAU_API_KEY",
        "FLAMBEAU_CLIENT_CERTIFICATE",
        # Workers read these.
        "TS_IPEX_ENABLE",
        "TS_IPEX_GPU_ENABLE",
    }
)
"""Variables that are no key of the configuration."""
_ALWAYS_READ = frozenset({"TS_OPEN_INFERENCE_PROTOCOL"})
_PREFIXES = ("TS_", "FLAMBEAU_")


class Raw(NamedTuple):
    """The text of a value, and where it was found."""

    text: str
    source: str


def gather(
    settings: Mapping[str, Setting],
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    cwd: Path,
    snapshot: Path | None = None,
    *,
    obey_switch: bool = False,
) -> tuple[dict[str, Raw], list[str]]:
    """The text that counts for each key that was set anywhere, and warnings; raises ConfigError.

    ``snapshot`` is read where no file is named. With ``obey_switch`` TorchServe's variables count
    only where the file says ``enable_envvars_config=true``, as they do there.
    """
    warnings: list[str] = []
    path = _find_file(flags, environ, cwd, snapshot, warnings)
    from_file = {} if path is None else _read_file(path, settings, environ, warnings)
    from_environ = _read_environ(settings, environ, warnings)
    switched_on = _is_true(from_file.get("enable_envvars_config"))
    if obey_switch and not switched_on:
        from_environ = _without_torchserves(from_environ, warnings)
    if not _is_true(from_file.get("use_env_allowed_urls")):
        # Whoever can set a variable must not thereby open the server to other people's models.
        from_environ.pop("allowed_urls", None)
    from_flags = {
        key: Raw(_flag_text(value), f"flag {_flag_name(setting, value)}")
        for key, setting in settings.items()
        if (value := flags.get(key)) is not None
    }
    if switched_on:
        return {**from_file, **from_flags, **from_environ}, warnings
    return {**from_file, **from_environ, **from_flags}, warnings


def _without_torchserves(found: dict[str, Raw], warnings: list[str]) -> dict[str, Raw]:
    kept, left = {}, []
    for key, raw in found.items():
        variable = raw.source.rpartition(" ")[2]
        if variable.startswith("TS_") and variable not in _ALWAYS_READ:
            left.append(variable)
        else:
            kept[key] = raw
    if left:
        warnings.append(
            f"environment: not read, as under TorchServe: {', '.join(sorted(left))}; "
            "enable_envvars_config=true in the configuration file makes them count."
        )
    return kept


def _is_true(raw: Raw | None) -> bool:
    return raw is not None and raw.text.strip().lower() == "true"


def _find_file(
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    cwd: Path,
    snapshot: Path | None,
    warnings: list[str],
) -> Path | None:
    from_flag, from_environ = flags.get("config"), environ.get("TS_CONFIG_FILE")
    named = from_environ or from_flag
    if named is None:
        if snapshot is not None:
            return snapshot
        default = cwd / "config.properties"
        return default if default.is_file() else None
    path = cwd / str(named)
    if not path.is_file():
        origin = " (from TS_CONFIG_FILE)" if from_environ else ""
        raise ConfigError(f"--ts-config file not found: {named}{origin}")
    if from_environ and from_flag is not None and cwd / str(from_flag) != path:
        warnings.append(f"TS_CONFIG_FILE={from_environ} is read instead of {from_flag}.")
    return path


def _read_file(
    path: Path, settings: Mapping[str, Setting], environ: Mapping[str, str], warnings: list[str]
) -> dict[str, Raw]:
    aliases = {setting.alias: key for key, setting in settings.items() if setting.alias}
    found: dict[str, Raw] = {}
    lines: dict[str, int] = {}
    ineffective = []
    try:
        entries = parse(_decode(path.read_bytes()))
    except PropertiesError as error:
        raise ConfigError(f"Invalid configuration: {path}:{error.line}: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    if any(key == "model_snapshot" for key, _, _ in entries):
        entries = [entry for entry in entries if entry.key not in NOT_RESTORED]
    for written, value, line in entries:
        key, source = aliases.get(written, written), f"{path}:{line}"
        if key in lines:
            warnings.append(
                f"{source}: {written} stands on line {lines[key]} too; this one counts."
            )
        lines[key] = line
        try:
            text = substitute(value, environ)
        except UnsetVariableError as error:
            raise ConfigError(f"Invalid configuration: {error} ({source}, {written})") from None
        if key in settings:
            found[key] = Raw(text, source)
        elif key in INEFFECTIVE:
            ineffective.append(written)
        else:
            warnings.append(f"{source}: {written} is not a known key.{_hint(written, settings)}")
    if ineffective:
        warnings.append(_no_effect(str(path), ineffective))
    return {key: raw for key, raw in found.items() if raw.text.strip()}


def _read_environ(
    settings: Mapping[str, Setting], environ: Mapping[str, str], warnings: list[str]
) -> dict[str, Raw]:
    found: dict[str, Raw] = {}
    known = set(OTHER_VARIABLES)
    for key, setting in settings.items():
        known.update(setting.variables)
        for variable in setting.variables:
            if environ.get(variable, "").strip():
                found[key] = Raw(environ[variable], f"environment {variable}")
                break
    others = [name for name in environ if name.startswith(_PREFIXES) and name not in known]
    ineffective = [name for name in others if name.split("_", 1)[1].lower() in INEFFECTIVE]
    if ineffective:
        warnings.append(_no_effect("environment", sorted(ineffective)))
    for name in sorted(set(others) - set(ineffective)):
        # Other programs own variables with such prefixes, too: only what looks like a slip counts.
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
        if near:
            warnings.append(f"environment: {name} is not a known variable. Is {near[0]} meant?")
    return found


def _decode(content: bytes) -> str:
    """Java reads such files as Latin-1 and expects escapes for the rest; people write UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _no_effect(where: str, names: Iterable[str]) -> str:
    names = list(names)
    verb = "has" if len(names) == 1 else "have"
    return f"{where}: {', '.join(names)} {verb} no effect in this version."


def _hint(written: str, settings: Mapping[str, Setting]) -> str:
    near = difflib.get_close_matches(written.lower(), [*settings, *INEFFECTIVE], n=1)
    return f" Is {near[0]} meant?" if near else ""


def _flag_text(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return ",".join(str(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _flag_name(setting: Setting, value: object) -> str:
    if setting.flag is None:
        return setting.key
    names = setting.flag.split("/")
    return names[-1] if value is False else names[0]
