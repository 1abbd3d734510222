# ruff: noqa: RUF009 - key() makes a dataclass field
"""Keys of the configuration: where the server listens, and how much it takes from a client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .config_key import key
from .settings import FILE_MODE, HEADER_VALUE, PATH, address, choice, integer

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ListenersKeys:
    """Where the server listens, and how much it takes from a client."""

    inference_address: str = key(
        address(80, 443),
        "http://127.0.0.1:8080",
        "Where predictions are answered.",
        flag="--inference-address",
    )
    management_address: str = key(
        address(8081, 8444),
        "http://127.0.0.1:8081",
        "Where models are registered, scaled and described. It may be the inference_address.",
        flag="--management-address",
    )
    metrics_address: str = key(
        address(8082, 8445),
        "http://127.0.0.1:8082",
        "Where Prometheus reads the metrics.",
        flag="--metrics-address",
    )
    max_request_size: int = key(integer(1), 6553500, "Longest request body; longer ones get 413.")
    max_response_size: int = key(
        integer(1), 6553500, "Longest answer of a model; longer ones become errors."
    )
    content_type: str = key(
        choice("none", "auto"),
        "none",
        "auto: an answer whose handler sets no Content-Type gets one by what the handler returned "
        "(text, bytes, or else JSON); none: it has none, as under TorchServe.",
        flag="--content-type",
    )
    unix_socket_mode: str = key(
        FILE_MODE, "600", "Mode of the sockets that listen at unix: addresses."
    )
    private_key_file: Path | None = key(
        PATH,
        None,
        "Private key of the https listeners, in PEM, without a passphrase.",
        shown="none",
    )
    certificate_file: Path | None = key(
        PATH,
        None,
        "Certificate of the https listeners in PEM, followed by those that vouch for it.",
        shown="none",
    )
    client_ca_file: Path | None = key(
        PATH,
        None,
        "Certificates in PEM; clients of https listeners must show one that these vouch for.",
        shown="none",
    )
    keystore: Path | None = key(
        PATH, None, "Java's store of key and certificate: convert it to PEM files.", shown="none"
    )
    cors_allowed_origin: str | None = key(
        HEADER_VALUE, None, "Sent as Access-Control-Allow-Origin.", shown="none"
    )
    cors_allowed_methods: str | None = key(
        HEADER_VALUE, None, "Sent as Access-Control-Allow-Methods.", shown="none"
    )
    cors_allowed_headers: str | None = key(
        HEADER_VALUE, None, "Sent as Access-Control-Allow-Headers.", shown="none"
    )
