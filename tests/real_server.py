"""A real ``flambeau start`` in a process of its own, and a model that does what it is told."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode, urlsplit

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Future

T = TypeVar("T")

COMMAND = (sys.executable, "-m", "flambeau.frontend.cli")
LOG_TAIL = 12_000

RUNNING: list[RealServer] = []
"""Servers whose logs belong to the report of a test that fails now."""

OBEDIENT = '''
"""Does what the JSON body of each request says; answers with the worker's pid and batch size."""

import ctypes
import os
import sys
import time
from pathlib import Path


def handle(data, context):
    if data is None:
        return None
    orders = [row.get("body") if isinstance(row.get("body"), dict) else {} for row in data]
    for order in orders:
        if "seen" in order:
            with open(order["seen"], "a") as file:
                file.write(f"{order.get('name')} {len(data)} {os.getpid()}\\n")
    return [obey(order, len(data)) for order in orders]


def obey(order, size):
    if "say" in order:
        print(order["say"], file=sys.stderr, flush=True)
    while "gate" in order and not Path(order["gate"]).exists():
        time.sleep(0.005)
    if "exit" in order:
        os._exit(order["exit"])
    if "signal" in order:
        os.kill(os.getpid(), order["signal"])
    if "hold_gil" in order:
        ctypes.PyDLL(None).usleep(int(order["hold_gil"] * 1e6))
    while "spin" in order:
        pass
    return order.get("answer", {"pid": os.getpid(), "size": size})
'''


def wait_for(condition: Callable[[], T], timeout: float, what: str) -> T:
    """What ``condition`` returns as soon as that is true; fails with the last it returned."""
    deadline = time.monotonic() + timeout
    while not (seen := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s for {what}; last seen: {seen!r}")
        time.sleep(0.01)
    return seen


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_gone(process: psutil.Process) -> bool:
    """It has ended, buried or not."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; header names are in lower case."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        """The message of an error envelope, which must agree with status line and headers."""
        envelope = self.json
        assert list(envelope)[:4] == ["code", "type", "message", "requestId"]
        assert envelope["code"] == self.status
        assert envelope["requestId"] == self.headers["x-request-id"]
        return str(envelope["message"])

    @classmethod
    def read(cls, response: http.client.HTTPResponse) -> Answer:
        headers = {name.lower(): value for name, value in response.getheaders()}
        return cls(response.status, response.reason, headers, response.read())


class Store:
    """A folder of models, made of whatever files a test gives."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def folder(
        self,
        name: str,
        files: Mapping[str, str | bytes] | None = None,
        config: str | None = None,
        **model: object,
    ) -> str:
        """A model that is a plain folder; its url. ``model`` are entries of the manifest."""
        for path, content in _members(name, files, config, model).items():
            target = self.root / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        return name

    def mar(
        self,
        name: str,
        files: Mapping[str, str | bytes] | None = None,
        config: str | None = None,
        **model: object,
    ) -> str:
        """A model that is an archive; its url."""
        with zipfile.ZipFile(self.root / f"{name}.mar", "w") as archive:
            for path, content in _members(name, files, config, model).items():
                archive.writestr(path, content)
        return f"{name}.mar"

    def war(self, name: str, spec: Mapping[str, object], functions: str | None = None) -> str:
        """A workflow; its url. ``functions`` is the source of those that are nodes."""
        workflow = {"workflowName": name, "specFile": "spec.yaml"}
        if functions is not None:
            workflow["handler"] = "functions.py"
        manifest = {"createdOn": "now", "archiverVersion": "1", "workflow": workflow}
        with zipfile.ZipFile(self.root / f"{name}.war", "w") as archive:
            archive.writestr("WAR-INF/MANIFEST.json", json.dumps(manifest))
            archive.writestr("spec.yaml", json.dumps(spec))
            if functions is not None:
                archive.writestr("functions.py", functions)
        return f"{name}.war"


def _members(
    name: str,
    files: Mapping[str, str | bytes] | None,
    config: str | None,
    model: Mapping[str, object],
) -> dict[str, bytes]:
    entry = {"modelName": name, "modelVersion": "1.0", "handler": "handler.py", **model}
    members = dict({"handler.py": OBEDIENT} if files is None else files)
    if config is not None:
        entry["configFile"] = "model-config.yaml"
        members["model-config.yaml"] = config
    members.setdefault("MAR-INF/MANIFEST.json", json.dumps({"runtime": "python", "model": entry}))
    return {
        path: content.encode() if isinstance(content, str) else content
        for path, content in members.items()
    }


class RealServer:
    """``flambeau start`` on free ports, with run directory, store, cache and log of its own."""

    def __init__(self, base: Path, flags: tuple[str, ...], settings: Mapping[str, object]) -> None:
        self.base = base
        self.environ = environment()
        self.store = Store(base / "store")
        self.cache = base / "cache"
        # An ipc path holds 107 bytes: pytest's own temporary folders are too deep for that.
        self.run_dir = Path(tempfile.mkdtemp(prefix="fl"))
        self.addresses: dict[str, str] = {}
        self.prefix: list[str] = []
        """What is run in place of the server, with the server's command as arguments."""
        self.inherited: tuple[int, ...] = ()
        """Descriptors that it gets."""
        self._log = base / "server.log"
        self._flags = flags
        # Most tests need no torch in each of their servers.
        self._settings = {"model_cache_dir": self.cache, "preload": "none", **settings}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> RealServer:
        """Start and wait until it says that it is ready."""
        reading, writing = os.pipe()
        with open(reading, "rb", buffering=0) as pipe, open(self._log, "ab") as log:
            try:
                self._process = subprocess.Popen(
                    [*self.prefix, *self.command(), "--ready-fd", str(writing)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.base,
                    env=self.environ,
                    pass_fds=(writing, *self.inherited),
                )
            finally:
                os.close(writing)
            RUNNING.append(self)
            ready, _, _ = select.select([pipe], [], [], 30)
            word = json.loads(pipe.readline() or "{}") if ready else {}
        if "addresses" not in word:
            self.kill()
            raise AssertionError(f"the server did not start: {word}\n{self.log()}")
        self.addresses = word["addresses"]
        return self

    def command(self) -> list[str]:
        config = self.base / "config.properties"
        config.write_text("".join(f"{key}={value}\n" for key, value in self._settings.items()))
        addresses = [f"--{name}-address=http://127.0.0.1:0" for name in LISTENERS]
        places = [f"--config={config}", f"--model-store={self.store.root}"]
        return [*COMMAND, "start", *places, f"--run-dir={self.run_dir}", *addresses, *self._flags]

    def log(self) -> str:
        return self._log.read_text(errors="replace")[-LOG_TAIL:] if self._log.exists() else ""

    def processes(self) -> list[psutil.Process]:
        """The server and everything that it has started."""
        if self._process is None or self._process.poll() is not None:
            return []
        server = psutil.Process(self.pid)
        return [server, *server.children(recursive=True)]

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def has_ended(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None

    def wait(self, timeout: float = 15.0) -> int:
        """Its exit code, once it has ended; fails when a process of it is still there then."""
        assert self._process is not None
        processes = self.processes()
        wait_for(self.has_ended, timeout, f"the end of the server, pid {self.pid}")
        code = self._process.wait()
        wait_for(
            lambda: all(map(is_gone, processes)), 2.0, f"the end of {[p.pid for p in processes]}"
        )
        return code

    def crash(self) -> None:
        """End the server itself by SIGKILL, as if it had crashed; its workers are not touched."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def stop(self) -> None:
        """Stop it, if it still runs, and hold it to a clean end."""
        try:
            if self._process is not None and self._process.poll() is None:
                self.signal(signal.SIGTERM)
                assert self.wait() == 0, f"exit code {self._process.returncode}\n{self.log()}"
        finally:
            self.kill()
            shutil.rmtree(self.run_dir, ignore_errors=True)

    def kill(self) -> None:
        """End it at once, with everything that it has started."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self._process is not None:
            self._process.wait(10)
        if self in RUNNING:
            RUNNING.remove(self)

    def connect(self, listener: str = "inference", timeout: float = 20.0) -> Connection:
        address = urlsplit(self.addresses[listener])
        return Connection(address.hostname or "", address.port, timeout=timeout)

    def request(
        self,
        method: str,
        target: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        listener: str = "inference",
        timeout: float = 20.0,
    ) -> Answer:
        """One request on a connection of its own."""
        with self.connect(listener, timeout) as connection:
            return connection.ask(method, target, body, headers)

    def predict(self, model: str, timeout: float = 20.0, **order: object) -> Answer:
        """Ask ``model`` (a name, or name/version) with ``order`` as the JSON body."""
        return self.request(
            "POST",
            f"/predictions/{model}",
            json.dumps(order),
            {"Content-Type": "application/json"},
            timeout=timeout,
        )

    def manage(self, method: str, path: str, **query: object) -> Answer:
        """A call of the management API with ``query`` as its parameters."""
        target = path + (f"?{urlencode(query)}" if query else "")
        return self.request(method, target, listener="management", timeout=30.0)

    def register(self, url: str, workers: int = 1, **query: object) -> Answer:
        return self.manage("POST", "/models", url=url, initial_workers=workers, **query)

    def serve(self, url: str, workers: int = 1, **query: object) -> None:
        """Register a model that must come up."""
        answer = self.register(url, workers, **query)
        assert answer.status == 200, answer

    def scale(self, model: str, workers: int, **query: object) -> Answer:
        query = {"synchronous": "true", **query}
        return self.manage("PUT", f"/models/{model}", min_worker=workers, **query)

    def describe(self, model: str) -> dict[str, Any]:
        """The description of one version."""
        answer = self.manage("GET", f"/models/{model}")
        assert answer.status == 200, answer
        (version,) = answer.json
        return dict(version)

    def workers(self, model: str) -> list[dict[str, Any]]:
        return list(self.describe(model)["workers"])

    def ready_pids(self, model: str) -> set[int]:
        return {each["pid"] for each in self.workers(model) if each["status"] == "READY"}

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples called ``name`` that carry ``labels``."""
        text = self.request("GET", "/metrics", listener="metrics").body.decode()
        total = 0.0
        for line in text.splitlines():
            sample, _, value = line.rpartition(" ")
            family = sample.partition("{")[0]
            if family == name and all(f'{k}="{v}"' in sample for k, v in labels.items()):
                total += float(value)
        return total


LISTENERS = ("inference", "management", "metrics")


class Connection(http.client.HTTPConnection):
    """A connection that stays open from request to request, and is closed by ``with``."""

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(
        self, method: str, target: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        self.request(method, target, body, dict(headers or {}))
        return Answer.read(self.getresponse())


def environment() -> dict[str, str]:
    """This process's environment without what would configure a server."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FLAMBEAU_", "TS_", "XDG_"))
    }


@contextlib.contextmanager
def in_background(count: int) -> Iterator[Callable[..., Future[Any]]]:
    """``submit`` of a pool of ``count`` threads: each call runs at once."""
    with ThreadPoolExecutor(count) as pool:
        yield pool.submit


def lines(path: Path) -> list[str]:
    """What handlers have noted in ``path`` so far."""
    return path.read_text().splitlines() if path.exists() else []
