"""The three listeners: inference, management, metrics."""

from __future__ import annotations

import errno
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from .config import parse_address
from .errors import ConfigError, MethodNotAllowedError, ResourceNotFoundError
from .http import schema
from .http.health import HealthAPI
from .http.inference import InferenceAPI
from .http.management import ManagementAPI
from .http.middlewares import Answer, Guard, Listener, Route, json_answer, path_segments
from .http.payload import request_query
from .metrics import CONTENT_TYPE
from .predictor import Predictor

if TYPE_CHECKING:
    from collections.abc import Callable

    from .config import Config
    from .engine import Engine
    from .metrics import Metrics
    from .registry import Registry

BACKLOG = 1024
CLOSE_TIMEOUT = 5.0
"""Seconds that an answer under way gets when the listeners are closed."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Services:
    """What the HTTP faces stand on."""

    engine: Engine
    registry: Registry
    metrics: Metrics
    config: Config
    is_draining: Callable[[], bool]
    is_starting: Callable[[], bool]


class Listeners:
    """The open listeners. ``addresses`` says where each really listens, by its name."""

    def __init__(self, management: ManagementAPI) -> None:
        self.addresses: dict[str, tuple[str, int]] = {}
        self._management = management
        self._runners: list[web.ServerRunner] = []

    async def add(self, name: str, address: str, listener: Listener) -> None:
        """Listen on ``address``; raises ConfigError if that cannot be."""
        runner = web.ServerRunner(listener, shutdown_timeout=CLOSE_TIMEOUT)
        await runner.setup()
        self._runners.append(runner)
        wanted = parse_address(address)
        try:
            await web.TCPSite(runner, wanted.host, wanted.port, backlog=BACKLOG).start()
        except OSError as error:
            raise ConfigError(_why_not(name, wanted.host, wanted.port, error)) from None

        self.addresses[name] = runner.addresses[0][:2]
        logger.info("%s API listens on http://%s:%d", name, *self.addresses[name])

    async def stop_accepting(self) -> None:
        """Close the listening sockets; connections that exist are served on."""
        for runner in self._runners:
            for site in runner.sites:
                await site.stop()

    async def close(self) -> None:
        """Close everything, after a short wait for the answers that are under way."""
        while self._runners:
            await self._runners.pop().cleanup()
        await self._management.close(CLOSE_TIMEOUT)


async def start_listeners(services: Services) -> Listeners:
    """Open the three listeners; raises ConfigError, with none left open, if one cannot listen."""
    config = services.config
    management = ManagementAPI(services.registry, config)
    predictor = Predictor(
        services.engine, services.registry, services.metrics, services.is_draining
    )
    health = HealthAPI(services.registry, services.is_draining, services.is_starting)
    inference = InferenceAPI(predictor, services.registry, config, health)
    listeners = Listeners(management)
    routes: tuple[tuple[str, str, Route], ...] = (
        ("inference", config.inference_address, inference),
        ("management", config.management_address, management),
        ("metrics", config.metrics_address, MetricsAPI(services.metrics)),
    )
    try:
        for name, address, route in routes:
            guard = Guard(route, services.metrics.count_response, config.access_log)
            await listeners.add(name, address, Listener(guard))
    except BaseException:
        await listeners.close()
        raise

    return listeners


class MetricsAPI:
    """The route of the metrics listener."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def __call__(self, request: web.BaseRequest, request_id: str) -> Answer:
        match path_segments(request.raw_path):
            case ["metrics", *_]:
                names = [value for name, value in request_query(request) if name == "name[]"]
                answer = Answer(self._metrics.exposition(names))
                answer.headers[hdrs.CONTENT_TYPE] = CONTENT_TYPE
                return answer
            case ["api-description"]:
                return json_answer(schema.metrics_document())
            case []:
                if request.method != "OPTIONS":
                    raise MethodNotAllowedError
                return json_answer(schema.metrics_document())
            case _:
                raise ResourceNotFoundError


def _why_not(name: str, host: str, port: int, error: OSError) -> str:
    setting = f"{name}_address"
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} on {host} is in use; stop the other server or set {setting}."

    if error.errno == errno.EACCES:
        return f"Port {port} on {host} needs privileges; set {setting} to a port above 1023."

    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    return f"Cannot listen on {host}, port {port} ({reason}); check {setting}."
