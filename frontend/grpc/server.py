"""The two gRPC listeners: inference and management."""

from __future__ import annotations

import logging
import os
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

    async def close(self) -> None:
        """Close them, after a short wait for the calls that are under way."""
        while self._servers:
            await self._servers.pop().stop(GRACE)

    async def add(self, name: str, config: Config, handlers: list[Any]) -> None:
        """Listen where ``config`` says; raises ConfigError if that cannot be."""
        host = getattr(config, f"grpc_{name}_address")
        port = getattr(config, f"grpc_{name}_port")
        server = grpc.aio.server(options=_options(name, config))
        server.add_generic_rpc_handlers(tuple(handlers))
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if config.enable_grpc_ssl:
                self._renewable.append(RenewableCredentials(config))
                bound = server.add_secure_port(place, self._renewable[-1].credentials)
            else:
                bound = server.add_insecure_port(place)
        except RuntimeError:
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


async def start_grpc(services: Services) -> GrpcListeners:
    """Open both listeners; raises ConfigError, with none left open, if one cannot listen."""
    config, access = services.config, services.access
    predictor = Predictor(
        services.engine,
        services.registry,
        services.metrics,
        services.is_draining,
        config.max_response_size,
        timing=config.server_timing,
    )
    asking = Caller(
        access, Scope.INFER, of_inference, config.access_log, timed=config.server_timing
    )
    managing = Caller(access, Scope.MANAGE, of_management, config.access_log)
    inference = [InferenceService(predictor, services.registry, asking).handlers()]
    if config.ts_open_inference_protocol:
        open_inference = OpenInferenceService(
            predictor, services.registry, asking, services.is_starting
        )
        inference.append(open_inference.handlers())
    management = ManagementService(
        services.registry, managing, services.changes, config.enable_model_api
    )
    listeners = GrpcListeners()
    try:
        await listeners.add("inference", config, inference)
        await listeners.add("management", config, [management.handlers()])
    except BaseException:
        await listeners.close()
        raise
    return listeners


def _options(name: str, config: Config) -> list[tuple[str, int]]:
    options = [
        ("grpc.max_receive_message_length", config.max_request_size),
        ("grpc.max_send_message_length", -1),
        # Two servers on one port would each get a share of the calls.
        ("grpc.so_reuseport", 0),
    ]
    for key, option in (
        (f"grpc_{name}_max_connection_age_ms", "grpc.max_connection_age_ms"),
        (f"grpc_{name}_max_connection_age_grace_ms", "grpc.max_connection_age_grace_ms"),
    ):
        value = getattr(config, key)
        if value is not None:
            options.append((option, value))
    return options
