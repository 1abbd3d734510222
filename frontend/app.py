"""The listeners: inference, management, metrics."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from .access import Scope
from .config import parse_address
from .errors import ConfigError, MethodNotAllowedError, ResourceNotFoundError
from .http import schema
from .http.direct import Direct
from .http.gate import (
    Gate,
    ScopeOf,
    granted,
    inference_scope,
    management_scope,
    metrics_scope,
    shared_scope,
)
from .http.health import HealthAPI
from .http.inference import InferenceAPI
from .http.listener import Listener
from .http.management import ManagementAPI
from .http.middlewares import Answer, Guard, Route, json_answer, path_segments
from .http.payload import request_query
from .http.sites import Site, UnixSite, open_site
from .http.workflows import WorkflowInference, WorkflowManagement
from .inherited import InheritedSockets, ListeningSocket
from .metrics import CONTENT_TYPE
from .predictor import Predictor
from .shielded import ShieldedCalls
from .tls import Certificate
from .workflow_predictor import WorkflowPredictor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .access import Access
    from .config import Address, Config
    from .engine import Engine
    from .metrics import Metrics
    from .rollout import RollingRegistry
    from .workflows import Workflows

CLOSE_TIMEOUT = 5.0
"""Seconds that an answer under way gets when the listeners are closed."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Services:
    """What the listeners of all protocols stand on."""

    engine: Engine
    registry: RollingRegistry
    workflows: Workflows
    metrics: Metrics
    config: Config
    access: Access
    is_draining: Callable[[], bool]
    is_refusing: Callable[[], bool]
    is_starting: Callable[[], bool]
    changes: ShieldedCalls = field(default_factory=ShieldedCalls)


class Listeners:
    """The open listeners. ``urls`` says where each really listens, by its name.

    ``addresses`` are host and port of those that have them. Sockets that are ``inherited`` are
    listened at, where an address asks for them.
    """

    def __init__(
        self, changes: ShieldedCalls, config: Config, inherited: InheritedSockets | None = None
    ) -> None:
        self.urls: dict[str, str] = {}
        self.addresses: dict[str, tuple[str, int]] = {}
        self._changes = changes
        self._mode = int(config.unix_socket_mode, 8)
        self._certificate = Certificate(config) if _uses_tls(config) else None
        self._inherited = inherited or InheritedSockets()
        self._runners: list[web.ServerRunner] = []
        self._listeners: list[Listener] = []
        self._sites: list[Site] = []
        self._accepts = True
        self.sockets: list[ListeningSocket] = []
        """What is listened at, for whoever is to go on with it."""

    @property
    def uses_tls(self) -> bool:
        return self._certificate is not None

    async def add(self, name: str, address: str, listener: Listener) -> None:
        """Listen on ``address``; raises ConfigError if that cannot be."""
        runner = web.ServerRunner(listener, shutdown_timeout=CLOSE_TIMEOUT)
        await runner.setup()
        self._runners.append(runner)
        wanted = parse_address(address)
        tls = self._certificate.context if self._certificate and wanted.is_tls else None
        given = self._inherited.take(name, wanted)
        try:
            opened = await open_site(listener, runner, wanted, self._mode, tls, given)
        except OSError as error:
            raise ConfigError(_why_not(f"{name}_address", wanted, error)) from None

        self._listeners.append(listener)
        self._sites += opened.sites
        self.sockets += [ListeningSocket(name, address, each) for each in opened.sockets]
        self.note(name, opened.address)

    def is_given(self, name: str, address: str) -> bool:
        """A socket for it is inherited."""
        return self._inherited.has(name, parse_address(address))

    def note(self, name: str, bound: Address) -> None:
        """Make known that ``name`` is served at ``bound``."""
        self.urls[name] = str(bound)
        if not bound.path:
            self.addresses[name] = (bound.host, bound.port)
        logger.info("%s API listens on %s", name, bound)

    def reload_certificate(self) -> None:
        """Read key and certificate again; if they do not fit, the old ones stay in use."""
        if self._certificate is None:
            return
        try:
            self._certificate.reload()
        except (ConfigError, OSError) as error:
            logger.error("the certificate is not replaced: %s", error)
        else:
            logger.info("the certificate is read again")

    async def stop_accepting(self) -> None:
        """Take no more connections; those that exist are served on.

        Whoever has the listening sockets too goes on with them.
        """
        if self._accepts:
            self._accepts = False
            for site in self._sites:
                await site.stop_accepting()

    def own(self) -> None:
        """What was inherited is this server's, and goes with it."""
        for site in self._sites:
            if isinstance(site, UnixSite):
                site.is_ours = True

    def end_connections(self) -> None:
        """Close each connection after its next answer, which says so."""
        for listener in self._listeners:
            listener.guard.ends_connections = True

    def close_idle(self) -> None:
        """Close the connections that wait for their clients."""
        for listener in self._listeners:
            listener.close_idle()

    @property
    def connections(self) -> int:
        """How many are open."""
        arrived = sum(len(each.clients) for each in self._listeners)
        return arrived + sum(site.arriving for site in self._sites)

    async def close(self) -> None:
        """Close everything, after a short wait for the answers that are under way."""
        runners, self._runners = self._runners, []
        await asyncio.gather(*(each.cleanup() for each in runners))
        await self._changes.close(CLOSE_TIMEOUT)


async def start_listeners(
    services: Services, inherited: InheritedSockets | None = None
) -> Listeners:
    """Open the listeners; raises ConfigError, with none left open, if one cannot listen.

    There are three, or two where inference and management have one address.
    """
    config = services.config
    management = ManagementAPI(
        services.registry,
        WorkflowManagement(services.workflows, config, services.changes),
        config,
        services.access,
        services.changes,
    )
    predictor = Predictor(
        services.engine,
        services.registry,
        services.metrics,
        services.is_refusing,
        config.max_response_size,
        timing=config.server_timing,
    )
    health = HealthAPI(services.registry, services.is_draining, services.is_starting)
    workflows = WorkflowInference(WorkflowPredictor(services.workflows, predictor), config)
    inference = InferenceAPI(predictor, services.registry, workflows, config, health)
    metrics = MetricsAPI(services.metrics)
    listeners = Listeners(services.changes, config, inherited)
    routes: list[tuple[str, str, Route, ScopeOf]] = [
        ("inference", config.inference_address, inference, inference_scope),
        ("management", config.management_address, management, management_scope),
        ("metrics", config.metrics_address, metrics, metrics_scope),
    ]
    shared = parse_address(config.inference_address)
    if shared.is_one_with(parse_address(config.management_address)):
        del routes[1]
        together = SharedAPI((inference, management, metrics))
        routes[0] = ("inference", str(shared), together, shared_scope)
    if not config.enable_metrics_api:
        del routes[-1]
    # Those whose socket is there already take connections at once, and must not be undone after.
    routes.sort(key=lambda each: listeners.is_given(each[0], each[1]))
    cors = _cors(config)
    try:
        for name, address, route, scope_of in routes:
            gate = Gate(services.access, scope_of, answers_preflight=bool(cors))
            count = services.metrics.count_response
            predicts = name == "inference"
            timed = config.server_timing and predicts
            guard = Guard(route, gate.admit, count, config.access_log, cors, timed=timed)
            direct = Direct(predictor, gate, guard, config.max_request_size) if predicts else None
            await listeners.add(name, address, Listener(guard, direct))
        if "management" not in listeners.urls:
            listeners.note("management", shared)
        services.access.announce()
    except BaseException:
        await listeners.close()
        raise

    return listeners


class SharedAPI:
    """The route of a listener for several APIs: the first that knows the path answers."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = routes

    async def __call__(self, request: web.BaseRequest, request_id: str) -> web.StreamResponse:
        match path_segments(request.raw_path):
            case ["api-description"]:
                return json_answer(schema.shared_document())
            case [] if request.method == "OPTIONS":
                return json_answer(schema.shared_document())
        for route in self._routes:
            try:
                return await route(request, request_id)
            except ResourceNotFoundError:
                continue
        raise ResourceNotFoundError


class MetricsAPI:
    """The route of the metrics listener."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def __call__(self, request: web.BaseRequest, request_id: str) -> Answer:
        match path_segments(request.raw_path):
            case ["metrics", *_]:
                granted(Scope.METRICS)
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


def _uses_tls(config: Config) -> bool:
    addresses = (config.inference_address, config.management_address, config.metrics_address)
    return any(parse_address(each).is_tls for each in addresses)


def _cors(config: Config) -> dict[str, str]:
    headers = {
        hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: config.cors_allowed_origin,
        hdrs.ACCESS_CONTROL_ALLOW_METHODS: config.cors_allowed_methods,
        hdrs.ACCESS_CONTROL_ALLOW_HEADERS: config.cors_allowed_headers,
    }
    return {name: value for name, value in headers.items() if value}


def _why_not(setting: str, wanted: Address, error: OSError) -> str:
    host, port = wanted.host, wanted.port
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    if wanted.path:
        if error.errno == errno.EADDRINUSE:
            return f"{wanted} is in use; stop the other server or set {setting}."
        return f"Cannot listen on {wanted} ({reason}); check {setting}."

    if error.errno == errno.EADDRINUSE:
        return f"Port {port} on {host} is in use; stop the other server or set {setting}."

    if error.errno == errno.EACCES:
        return f"Port {port} on {host} needs privileges; set {setting} to a port above 1023."

    return f"Cannot listen on {host}, port {port} ({reason}); check {setting}."
