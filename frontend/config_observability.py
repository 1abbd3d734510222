# ruff: noqa: RUF009 - key() makes a dataclass field
"""Keys of the configuration: what the server tells about itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .config_key import key
from .settings import BOOLEAN, LEVELS, PATH, choice, integer

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ObservabilityKeys:
    """What the server tells about itself."""

    log_level: str = key(
        choice("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
        "INFO",
        "Least severity that is logged.",
        flag="--log-level",
    )
    log_format: str = key(
        choice("text", "json"),
        "text",
        "Lines for people, or one JSON object a line.",
        flag="--log-format",
    )
    log_levels: str = key(
        LEVELS,
        "",
        "Least severity of single loggers, such as flambeau.engine=DEBUG,flambeau.model=WARNING.",
        shown="none",
    )
    log_file: Path | None = key(
        PATH,
        None,
        "File for the log in place of stderr; at 100 MB it is put aside, and five old ones are "
        "kept.",
        shown="none; in the run directory with --background",
        flag="--log-file",
    )
    log_location: Path | None = key(
        PATH,
        None,
        "Folder for TorchServe's log files: access_log.log, model_log.log and ts_log.log.",
        shown="none",
        variable="LOG_LOCATION",
    )
    metrics_location: Path | None = key(
        PATH,
        None,
        "Folder for TorchServe's metric files: ts_metrics.log and model_metrics.log.",
        shown="none",
        variable="METRICS_LOCATION",
    )
    enable_metrics_api: bool = key(BOOLEAN, True, "Listen for Prometheus.")
    metrics_mode: str = key(
        choice("prometheus", "log", "legacy"),
        "prometheus",
        "Where TorchServe's metrics go: to Prometheus, to the log, or its counters to Prometheus "
        "and the rest to the log.",
    )
    metrics_config: Path | None = key(
        PATH,
        None,
        "TorchServe's metrics.yaml: only what it lists is counted.",
        shown="none, everything",
    )
    model_metrics_auto_detect: bool = key(
        BOOLEAN, False, "Count what handlers report even if metrics_config does not list it."
    )
    disable_system_metrics: bool = key(
        BOOLEAN, False, "Leave out the figures of processor, memory, disk and GPUs."
    )
    metric_time_interval: int = key(
        integer(1), 60, "Seconds between the host's figures in the log."
    )
    server_timing: bool = key(
        BOOLEAN,
        True,
        "Say on every prediction's answer where its time went, in the header Server-Timing.",
    )
    access_log: bool = key(
        BOOLEAN, False, "Log a line for each request.", flag="--access-log/--no-access-log"
    )
