"""Keys of the configuration: who may do what."""

from __future__ import annotations

from dataclasses import dataclass

from .config_key import key
from .settings import BOOLEAN


@dataclass(frozen=True, kw_only=True)
class SecurityKeys:
    """Who may do what."""

    enable_envvars_config: bool = key(
        BOOLEAN,
        False,
        "Let environment variables beat flags, as under TorchServe.",
        file_only=True,
    )
