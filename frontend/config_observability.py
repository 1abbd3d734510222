"""Keys of the configuration: what the server tells about itself."""

from __future__ import annotations

from dataclasses import dataclass

from .config_key import key
from .settings import BOOLEAN, choice


@dataclass(frozen=True, kw_only=True)
class ObservabilityKeys:
    """What the server tells about itself."""

    log_level: str = key(
        choice("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
        "INFO",
        "Least severity that is logged.",
        flag="--log-level",
    )
    access_log: bool = key(
        BOOLEAN, False, "Log a line for each request.", flag="--access-log/--no-access-log"
    )
