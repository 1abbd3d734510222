"""The two gRPC listeners: inference and management."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from typing import TYPE_CHECKING, Any

# gRPC would keep its threads in order over fork(); workers are not forked, and it is costly.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc

from ..access import Scope
from ..errors import ConfigError
from ..predictor import Predictor
from .call import Caller
from .certificates import RenewableCredentials
from .inference import InferenceService
from .management import ManagementService
from .open_inference import OpenInferenceService
from .status import of_inference, of_management

if TYPE_CHECKING:
    from ..app import Services
    from ..config import Config

logger = logging.getLogger(__name__)

GRACE = 5.0
"""Seconds that calls under way get when the listeners are closed."""


class GrpcListeners:
    """The open gRPC listeners; ``urls`` says where each listens, by its name."""

    def __init__(self) -> None:
        self.urls: dict[str, str] = {}
        self._servers: list[Any] = []
        self._renewable: list[RenewableCredentials] = []

    @property
    def uses_tls(self) -> bool:
        return bool(self._renewable)

    def reload_certificate(self) -> None:
        """Read key and certificate again; if they do not fit, the old ones stay in use."""
        try:
            for each in self._renewable:
                each.renew()
        except ConfigError as error:
            logger.error("the certificate of gRPC is not replaced: %s", error)

    async def close(self, grace: float = GRACE) -> None:
        """Close them. Calls that are under way get ``grace`` seconds, new ones are refused."""
        servers, self._servers = self._servers, []
        await asyncio.gather(*(server.stop(grace) for server in servers))

    async def add(
        self, name: str, config: Config, handlers: list[Any], *, beside: bool = False
    ) -> None:
        """Listen where ``config`` says; raises ConfigError if that cannot be.

        ``beside``: another server may listen there as well, which is about to go.
        """
        host = getattr(config, f"grpc_{name}_address")
        port = getattr(config, f"grpc_{name}_port")
        server = grpc.aio.server(options=_options(name, config))
        server.add_generic_rpc_handlers(tuple(handlers))
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if port and not beside:
                _refuse_second(host, port)
            if config.enable_grpc_ssl:
                self._renewable.append(RenewableCredentials(config))
                bound = server.add_secure_port(place, self._renewable[-1].credentials)
            else:
                bound = server.add_insecure_port(place)
        except (RuntimeError, OSError):
            bound = 0
        if not bound:
            await server.stop(None)
            raise ConfigError(
                f"gRPC cannot listen on {place}; it may be in use. Set grpc_{name}_port or "
                f"grpc_{name}_address, or enable_grpc=false."
            )
        await server.start()
        self._servers.append(server)
        shown = f"[{host}]" if ":" in host else host
        scheme = "grpcs" if config.enable_grpc_ssl else "grpc"
        self.urls[f"grpc_{name}"] = f"{scheme}://{shown}:{bound}"


async def start_grpc(services: Services, *, beside: bool = False) -> GrpcListeners:
    """Open both listeners; raises ConfigError, with none left open, if one cannot listen.

    ``beside``: another server may listen there as well, which is about to go.
    """
    config, access = services.config, services.access
    predictor = Predictor(
        services.engine,
        services.registry,
        services.metrics,
        services.is_refusing,
        config.max_response_size,
        timing=config.server_timing,
    )
    asking = Caller(
        access, Scope.INFER, of_inference, config.access_log, timed=config.server_timing
    )
    managing = Caller(access, Scope.MANAGE, of_management, config.access_log)
    inference = [
        InferenceService(predictor, services.registry, asking, services.is_draining).handlers()
    ]
    if config.ts_open_inference_protocol:
        open_inference = OpenInferenceService(
            predictor,
            services.registry,
            asking,
            services.is_starting,
            services.is_draining,
        )
        inference.append(open_inference.handlers())
    management = ManagementService(
        services.registry, managing, services.changes, config.enable_model_api
    )
    listeners = GrpcListeners()
    try:
        await listeners.add("inference", config, inference, beside=beside)
        await listeners.add("management", config, [management.handlers()], beside=beside)
    except BaseException:
        await listeners.close()
        raise
    return listeners


def _refuse_second(host: str, port: int) -> None:
    """Raise OSError if somebody listens there: two servers would each get a share of the calls."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def _options(name: str, config: Config) -> list[tuple[str, int]]:
    options = [
        ("grpc.max_receive_message_length", config.max_request_size),
        ("grpc.max_send_message_length", -1),
        # A successor listens beside this server; others are kept off by _refuse_second.
        ("grpc.so_reuseport", 1),
    ]
    for key, option in (
        (f"grpc_{name}_max_connection_age_ms", "grpc.max_connection_age_ms"),
        (f"grpc_{name}_max_connection_age_grace_ms", "grpc.max_connection_age_grace_ms"),
    ):
        value = getattr(config, key)
        if value is not None:
            options.append((option, value))
    return options
