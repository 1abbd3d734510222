"""What a configuration says of keys: in which form they are asked for, and where they are not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .config_security import COMMAND_DEFAULT
from .errors import ConfigError
from .settings import Address, read_address

if TYPE_CHECKING:
    from .config import Config

_DANGERS = {
    "management_address": (
        "anyone who can reach the management API can change what is served, and so run code on "
        "this machine"
    ),
    "grpc_management_address": (
        "anyone who can reach the gRPC management service can change what is served, and so run "
        "code on this machine"
    ),
    "metrics_address": (
        "anyone who can reach the metrics API can read which models run and how they are used"
    ),
}


def access_mode(config: Config) -> str:
    """How callers show what they may do: ``none``, ``tokens`` or ``keys``.

    Keys that were given count for more than the default of a command.
    """
    chosen = config.sources.get("authorization", COMMAND_DEFAULT) != COMMAND_DEFAULT
    if _has_keys(config) and not (chosen and config.authorization != "automatic"):
        return "keys"

    wants_tokens = config.authorization == "tokens" or (
        config.authorization == "automatic" and "disable_token_authorization" in config.sources
    )
    if wants_tokens:
        return "none" if config.disable_token_authorization else "tokens"

    return "keys" if config.authorization == "keys" else "none"


def check_access(config: Config) -> list[str]:
    """Warnings about keys and open listeners; raises ConfigError for what cannot or may not be."""
    mode, has_keys = access_mode(config), _has_keys(config)
    if mode == "keys" and not has_keys:
        raise ConfigError(
            "authorization=keys: no keys are given. Name their file in api_keys_file, or set "
            "another authorization."
        )
    warnings = _check_exposure(config)
    if has_keys and mode != "keys":
        warnings.append(f"authorization={config.authorization}: the API keys have no effect.")
    return warnings


def _has_keys(config: Config) -> bool:
    return bool(config.api_keys or config.api_keys_file)


def _check_exposure(config: Config) -> list[str]:
    warnings = []
    for key in _open_listeners(config):
        finding = f"{key}={getattr(config, key)}: {_DANGERS[key]}"
        if not config.allow_open_listeners:
            source = config.sources.get(key, "default")
            raise ConfigError(
                f"{finding}. Set {key} ({source}) to an address of this machine such as "
                "http://127.0.0.1:8081, ask for keys with api_keys_file, or set "
                "allow_open_listeners=true if something else protects it."
            )
        warnings.append(f"{finding}; allow_open_listeners permits that.")
    return warnings


def _open_listeners(config: Config) -> list[str]:
    """The addresses of Config that are open: beyond this machine, and without keys.

    Inference is meant for others. TorchServe's tokens do not guard the metrics. Clients that must
    show a certificate are known as well as those with keys.
    """
    guarded = {
        "keys": set(_DANGERS),
        "tokens": {"management_address", "grpc_management_address"},
    }.get(access_mode(config), set())
    found = []
    for key in _DANGERS:
        if key == "grpc_management_address":
            is_private = _grpc_is_private(config)
        else:
            address = read_address(getattr(config, key))
            shows_certificate = address.is_tls and config.client_ca_file is not None
            is_private = address.is_loopback or shows_certificate
        if key == "metrics_address" and not config.enable_metrics_api:
            continue
        if key not in guarded and not is_private:
            found.append(key)
    return found


def _grpc_is_private(config: Config) -> bool:
    """Nobody listens, or only this machine or holders of certificates can speak."""
    shows_certificate = config.enable_grpc_ssl and config.client_ca_file is not None
    is_loopback = Address(config.grpc_management_address, 0).is_loopback
    return config.enable_grpc == "false" or is_loopback or shows_certificate
