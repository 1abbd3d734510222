"""A server with real sockets, a fake engine and a fake registry behind them."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
import zipfile
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from flambeau.frontend.access import OpenAccess
from flambeau.frontend.app import Listeners, Services, start_listeners
from flambeau.frontend.config import Config
from flambeau.frontend.errors import QueueFullError, UnknownModelError, UnknownVersionError
from flambeau.frontend.jobs import Job, Outcome
from flambeau.frontend.metrics import Metrics
from flambeau.frontend.registry import Registration, Reply
from flambeau.frontend.shielded import ShieldedCalls
from flambeau.frontend.storage import make_workflow_store
from flambeau.frontend.workflows import Workflows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from flambeau.frontend.access import Access

LIMIT = 100_000
DONE = Reply(200, "done")


@dataclass
class FakeEngine:
    """Answers at once with ``answer(job)``; keeps requests waiting while ``held``."""

    answer: Callable[[Job], Outcome] = lambda job: Outcome(
        body=job.parts[0].body if job.parts else b"",
        queued=0.25,
        handled=0.5,
        batch_size=1,
    )
    held: bool = False
    jobs: list[tuple[tuple[str, str], Job]] = field(default_factory=list)
    abandoned: list[Job] = field(default_factory=list)
    gone: set[tuple[str, str]] = field(default_factory=set)
    schemas: tuple[str | None, str | None] = (None, None)
    full: bool = False
    discipline: str = "fifo"
    waiting: list[Callable[[Outcome], None]] = field(default_factory=list)

    def submit(self, key: tuple[str, str], job: Job, on_outcome: Callable[[Outcome], None]) -> None:
        self.jobs.append((key, job))
        self.waiting.append(on_outcome)
        if not self.held:
            on_outcome(self.answer(job))

    def admit(self, key: tuple[str, str], job: Job) -> None:
        if self.full:
            raise QueueFullError("m", job.requested_version, 7, 100)

    def abandon(self, key: tuple[str, str], job: Job) -> None:
        self.abandoned.append(job)

    def version(self, key: tuple[str, str]) -> object | None:
        return (
            None
            if key in self.gone
            else SimpleNamespace(
                schemas=self.schemas,
                spec=SimpleNamespace(sequences=None, queue_discipline=self.discipline),
                free=not self.full,
            )
        )

    @property
    def job(self) -> Job:
        """The last job."""
        return self.jobs[-1][1]

    def inputs(self) -> dict[str, tuple[str, bytes]]:
        """Content type and body of each part of the last job."""
        return {part.name: (part.content_type, bytes(part.body)) for part in self.job.parts}


@dataclass
class FakeRegistry:
    """Knows model ``m`` in versions 1.0 (the default) and 2.0; remembers what it is asked."""

    names: tuple[str, ...] = ("m",)
    healthy: bool = True
    reply: Reply = DONE
    error: Exception | None = None
    gate: threading.Event | None = None
    started: threading.Event = field(default_factory=threading.Event)
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    loading: dict[str, str] = field(default_factory=dict)
    types: tuple[str | None, str | None] = (None, None)

    def resolve(self, name: str, version: str | None) -> tuple[str, str]:
        if name not in self.names:
            raise UnknownModelError(name)
        if version not in (None, "1.0", "2.0"):
            raise UnknownVersionError(name, str(version))
        return (name, version or "1.0")

    async def register(self, registration: Registration) -> Reply:
        return await self._act("register", registration)

    async def scale(self, *arguments: object) -> Reply:
        return await self._act("scale", *arguments)

    async def unregister(self, *arguments: object) -> Reply:
        return await self._act("unregister", *arguments)

    def set_default(self, name: str, version: str) -> Reply:
        self.calls.append(("set_default", name, version))
        return self.reply

    def describe(self, name: str, version: str | None) -> list[dict[str, object]]:
        self.calls.append(("describe", name, version))
        self.resolve(name, None if version == "all" else version)
        return [{"modelName": name, "modelVersion": version or "1.0", "modelUrl": None}]

    def list_models(self, limit: int = 100, offset: int = 0) -> dict[str, object]:
        self.calls.append(("list", limit, offset))
        return {"models": [{"modelName": name, "modelUrl": f"{name}.mar"} for name in self.names]}

    def is_healthy(self) -> bool:
        return self.healthy

    def schemas(self, name: str, version: str | None) -> tuple[str | None, str | None]:
        self.resolve(name, version)
        return self.types

    def versions(self, name: str) -> list[str]:
        self.resolve(name, None)
        return ["1.0", "2.0"]

    def is_ready(self, name: str, version: str | None) -> bool:
        return f"{name}/{self.resolve(name, version)[1]}" not in self.loading

    def unready(self) -> dict[str, str]:
        return self.loading

    async def _act(self, *call: object) -> Reply:
        self.calls.append(call)
        self.started.set()
        if self.gate is not None:
            await asyncio.to_thread(self.gate.wait, 10)
        self.finished.append(str(call[0]))
        if self.error is not None:
            raise self.error
        return self.reply


@dataclass
class Received:
    """A response as it came."""

    status: int
    reason: str
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class House:
    """The three listeners on a loop of their own, and clients for them."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        access: Access = OpenAccess(),  # noqa: B008 - it has no state
        **settings: object,
    ) -> None:
        self.engine = FakeEngine()
        self.registry = FakeRegistry()
        self.metrics = Metrics()
        self.changes = ShieldedCalls()
        self.draining = False
        self.starting = False
        any_port = "http://127.0.0.1:0"
        self.config = Config(
            **{  # type: ignore[arg-type]
                "inference_address": any_port,
                "management_address": any_port,
                "metrics_address": any_port,
                "max_request_size": LIMIT,
                **settings,
            }
        )
        store = make_workflow_store(self.config, None)
        self.workflows = Workflows(self.registry, store, 5.0)  # type: ignore[arg-type]
        self.access = access
        self.loop = loop
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        try:
            self.listeners: Listeners = self.run(start_listeners(self.services()))
        except BaseException:
            self._stop_loop()
            raise

    def services(self) -> Services:
        return Services(
            engine=self.engine,  # type: ignore[arg-type]
            registry=self.registry,  # type: ignore[arg-type]
            workflows=self.workflows,
            metrics=self.metrics,
            config=self.config,
            access=self.access,
            is_draining=lambda: self.draining,
            is_refusing=lambda: self.draining,
            is_starting=lambda: self.starting,
            changes=self.changes,
        )

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def close(self) -> None:
        for name in [each["workflowName"] for each in self._workflow_page()]:
            self.run(self.workflows.unregister(name))
        self.run(self.listeners.close())
        self._stop_loop()

    def _workflow_page(self) -> Any:
        return self.workflows.list_workflows()["workflows"]

    def _stop_loop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    def connect(self, listener: str = "inference") -> http.client.HTTPConnection:
        return http.client.HTTPConnection(*self.listeners.addresses[listener], timeout=20)

    def ask(
        self,
        method: str,
        target: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        listener: str = "inference",
    ) -> Received:
        """One request on a connection of its own."""
        connection = self.connect(listener)
        try:
            return self.ask_on(connection, method, target, body, headers)
        finally:
            connection.close()

    def ask_on(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        target: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> Received:
        connection.request(method, target, body, headers or {})
        response = connection.getresponse()
        return Received(response.status, response.reason, response.headers, response.read())

    def manage(self, method: str, target: str, body: Any = None, **headers: str) -> Received:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask(method, target, body, sent, listener="management")

    def add_workflow(
        self, name: str, dag: dict[str, list[str]], models: str = "", handler: str | None = "h.py"
    ) -> Received:
        """Write an archive and register it; its nodes can be asked then."""
        spec = f"models: {{{models}}}\ndag: {json.dumps(dag)}\n"
        workflow = {"workflowName": name, "specFile": "spec.yaml", "handler": handler}
        manifest = {"createdOn": "now", "archiverVersion": "1", "workflow": workflow}
        root = self.config.workflow_store
        assert root is not None
        root.mkdir(exist_ok=True)
        with zipfile.ZipFile(root / f"{name}.war", "w") as archive:
            archive.writestr("WAR-INF/MANIFEST.json", json.dumps(manifest))
            archive.writestr("spec.yaml", spec)
            archive.writestr("h.py", "")
        reply = self.manage("POST", f"/workflows?url={name}.war")
        nodes = {*dag, *(child for children in dag.values() for child in children)}
        self.registry.names += tuple(f"{name}__{node}" for node in sorted(nodes))
        return reply

    def raw(self, request: bytes, until: bytes = b"", listener: str = "inference") -> bytes:
        """What comes back for these bytes, up to ``until`` or until the server closes."""
        with socket.create_connection(self.listeners.addresses[listener], timeout=20) as client:
            client.sendall(request)
            answer = b""
            while not (until and answer.endswith(until)) and (chunk := client.recv(65536)):
                answer += chunk
            return answer


def wait_for(condition: Callable[[], object], what: str, seconds: float = 10.0) -> None:
    """Wait until ``condition`` gives something true; the failure says what it gave last."""
    deadline = time.monotonic() + seconds
    while not (last := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: still {last!r} after {seconds} s")
        time.sleep(0.005)


@pytest.fixture(name="wait_for")
def wait_for_fixture() -> Callable[..., None]:
    return wait_for


@pytest.fixture(params=["asyncio", "uvloop"])
def make_house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., House]]:
    new_event_loop = pytest.importorskip(request.param).new_event_loop
    houses: list[House] = []

    folders = {"workflow_store": tmp_path / "workflows", "model_cache_dir": tmp_path / "cache"}

    def make(**settings: Any) -> House:
        houses.append(House(new_event_loop(), **{**folders, **settings}))
        return houses[-1]

    yield make
    for house in houses:
        house.close()


@pytest.fixture
def house(make_house: Callable[..., House]) -> House:
    return make_house()


@pytest.fixture
def make_client(make_house: Callable[..., House]) -> Iterator[Callable[..., Any]]:
    """Makes clients of gRPC listeners; the library is an extra, hence the late import."""
    from grpc_client import open_client

    clients = []

    def make(access: Access | None = None, **settings: object) -> Any:
        clients.append(open_client(make_house, access, **settings))
        return clients[-1]

    yield make
    for each in clients:
        each.close()


@pytest.fixture
def client(make_client: Callable[..., Any]) -> Any:
    return make_client(ts_open_inference_protocol=True)
