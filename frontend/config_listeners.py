"""Keys of the configuration: where the server listens, and how much it takes from a client."""

from __future__ import annotations

from dataclasses import dataclass

from .config_key import key
from .settings import address, integer


@dataclass(frozen=True, kw_only=True)
class ListenersKeys:
    """Where the server listens, and how much it takes from a client."""

    inference_address: str = key(
        address(80),
        "http://127.0.0.1:8080",
        "Where predictions are answered.",
        flag="--inference-address",
    )
    management_address: str = key(
        address(8081),
        "http://127.0.0.1:8081",
        "Where models are registered, scaled and described.",
        flag="--management-address",
    )
    metrics_address: str = key(
        address(8082),
        "http://127.0.0.1:8082",
        "Where Prometheus reads the metrics.",
        flag="--metrics-address",
    )
    max_request_size: int = key(integer(1), 6553500, "Longest request body; longer ones get 413.")
