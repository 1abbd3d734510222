"""The fixture ``flambeau_server``: serves a handler in a test, by a real server.

::

    from my_handler import MyHandler

    def test_it_counts_letters(flambeau_server):
        model = flambeau_server(MyHandler)
        assert model.predict(json={"text": "abc"}).json() == 3
"""

from __future__ import annotations

import contextlib
import inspect
import json as json_module
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from .background import Ready
    from .cli_client import Server

_PATIENCE = 30.0
_LISTENERS = ("inference", "management", "metrics")


@dataclass(frozen=True)
class Response:
    """An answer. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json_module.loads(self.body)


@dataclass
class ServedModel:
    """A model that is served until the end of the test session."""

    name: str
    url: str
    """Where the inference API listens, such as ``http://127.0.0.1:40123``."""
    management_url: str
    log: Path
    """The server's log, with what the handler prints."""
    _server: Server = field(repr=False)

    def predict(
        self,
        data: bytes | str | None = None,
        *,
        json: Any = None,
        content_type: str | None = None,
        timeout: float = 60.0,
    ) -> Response:
        """Ask the model for ``data`` as it is, or for ``json``; whatever the status."""
        if data is None and json is not None:
            data, content_type = json_module.dumps(json), content_type or "application/json"
        body = data.encode() if isinstance(data, str) else data or b""
        with self._server.send(
            "POST",
            f"/predictions/{self.name}",
            body=body,
            content_type=content_type or "application/octet-stream",
            timeout=timeout,
        ) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Response(response.status, headers, response.read())


@pytest.fixture(scope="session")
def flambeau_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """A function that serves a handler and returns its ServedModel.

    The handler is a class, or the path of a handler file, a folder or an archive. ``batch_size``,
    ``workers`` and further parameters are those of TorchServe's registration call. What was served
    before with the same arguments is served still. Servers end with the session.
    """
    served: dict[Any, ServedModel] = {}
    servers: list[Ready] = []

    def serve(handler: type | str | os.PathLike[str], **parameters: Any) -> ServedModel:
        key = (handler, tuple(sorted(parameters.items())))
        if key not in served:
            base = tmp_path_factory.mktemp("flambeau")
            path, handler_name = _place(handler)
            servers.append(_start(path.parent, base))
            served[key] = _register(servers[-1], path, handler_name, parameters)
        return served[key]

    yield serve
    for each in servers:
        _stop(each)


def _place(handler: type | str | os.PathLike[str]) -> tuple[Path, str | None]:
    """The file or folder to register, and the handler in it if that has to be named."""
    if isinstance(handler, type):
        path = Path(inspect.getfile(handler)).resolve()
        return path, f"{path.name}:{handler.__name__}"
    path = Path(handler).resolve()
    if not path.exists():
        raise FileNotFoundError(f"There is no handler, folder or archive {handler}")
    return path, None


def _start(store: Path, base: Path) -> Ready:
    from .background import start_detached

    command = [sys.executable, "-m", "flambeau.frontend.cli", "start", f"--model-store={store}"]
    command += [f"--{each}-address=http://127.0.0.1:0" for each in _LISTENERS]
    config = base / "config.properties"
    config.write_text(f"enable_grpc=false\npreload=none\nmodel_cache_dir={base / 'cache'}\n")
    command += [f"--run-dir={base / 'run'}", f"--config={config}"]
    return start_detached(command, base / "server.log")


def _register(
    ready: Ready, path: Path, handler: str | None, parameters: Mapping[str, Any]
) -> ServedModel:
    from .cli_client import Server

    name = parameters.get("model_name", "model")
    query = {"url": path.name, "model_name": name, "initial_workers": 1, **parameters}
    if "workers" in query:
        query["initial_workers"] = query.pop("workers")
    if handler is not None:
        query["handler"] = handler
    management = Server(ready.addresses["management"])
    with management.send("POST", f"/models?{urlencode(query)}") as response:
        answer = response.read().decode()
        if response.status != 200:
            pytest.fail(f"{path.name} is not served: {answer}\n{ready.log.read_text()}")
    inference = Server(ready.addresses["inference"])
    return ServedModel(name, inference.url, management.url, ready.log, inference)


def _stop(ready: Ready) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(ready.pid, signal.SIGTERM)
    try:
        ready.process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        ready.process.kill()
        ready.process.wait()
