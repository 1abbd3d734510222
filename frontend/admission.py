"""Makes the kind of access that a configuration asks for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .access import OpenAccess
from .access_policy import access_mode
from .api_keys import KeyAccess, KeyFile, read_keys, warn_of_plain_keys
from .tokens import TokenAccess

if TYPE_CHECKING:
    from .access import Access
    from .config import Config


def make_access(config: Config, folder: Path | None = None) -> Access:
    """The access that ``config`` asks for; raises ConfigError if keys cannot be read or written.

    TorchServe's key file is written to ``folder``, the current one where none is given.
    """
    match access_mode(config):
        case "tokens":
            return TokenAccess(folder or Path.cwd(), config.token_expiration_min * 60)
        case "keys":
            return _key_access(config)
        case _:
            return OpenAccess()


def check_keys(config: Config) -> None:
    """Raise ConfigError if the keys that are asked for cannot be read."""
    if access_mode(config) == "keys":
        _key_access(config)


def _key_access(config: Config) -> KeyAccess:
    given = read_keys(config.api_keys, "api_keys") if config.api_keys else ()
    warn_of_plain_keys(given, "api_keys")
    return KeyAccess(given, None if config.api_keys_file is None else KeyFile(config.api_keys_file))
