# ruff: noqa: RUF009 - key() makes a dataclass field
"""Keys of the configuration: where the server listens, and how much it takes from a client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .config_key import key
from .settings import (
    BOOLEAN,
    FILE_MODE,
    HEADER_VALUE,
    IP_ADDRESS,
    OPEN_INFERENCE,
    PATH,
    address,
    choice,
    integer,
)

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
    enable_grpc: str = key(
        choice("false", "true", "auto"),
        "false",
        "Serve gRPC as well; auto: where flambeau[grpc] is installed.",
        flag="--enable-grpc",
        shown="false; auto under the torchserve command",
    )
    grpc_inference_address: str = key(
        IP_ADDRESS,
        "127.0.0.1",
        "Address of the gRPC inference service.",
    )
    grpc_inference_port: int = key(
        integer(0, 65535),
        7070,
        "Port of the gRPC inference service.",
    )
    grpc_inference_max_connection_age_ms: int | None = key(
        integer(1),
        None,
        "Milliseconds after which a gRPC inference connection is closed.",
        shown="no limit",
    )
    grpc_inference_max_connection_age_grace_ms: int | None = key(
        integer(1),
        None,
        "Milliseconds that its calls get then.",
        shown="no limit",
    )
    grpc_management_address: str = key(
        IP_ADDRESS,
        "127.0.0.1",
        "Address of the gRPC management service.",
    )
    grpc_management_port: int = key(
        integer(0, 65535),
        7071,
        "Port of the gRPC management service.",
    )
    grpc_management_max_connection_age_ms: int | None = key(
        integer(1),
        None,
        "Milliseconds after which a gRPC management connection is closed.",
        shown="no limit",
    )
    grpc_management_max_connection_age_grace_ms: int | None = key(
        integer(1),
        None,
        "Milliseconds that its calls get then.",
        shown="no limit",
    )
    enable_grpc_ssl: bool = key(
        BOOLEAN,
        False,
        "Serve gRPC with TLS, with private_key_file and certificate_file.",
    )
    ts_open_inference_protocol: bool = key(
        OPEN_INFERENCE,
        False,
        "Serve the open inference protocol over gRPC, too; its HTTP paths are always there.",
        variable="TS_OPEN_INFERENCE_PROTOCOL",
    )
