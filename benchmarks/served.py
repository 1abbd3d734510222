"""A flambeau server of the benchmark's own: on free ports, with folders of its own."""

from __future__ import annotations

import http.client
import json
import os
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from load import Target
from processes import BenchmarkError, read_json_line, running

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FLAMBEAU = Path(sys.executable).with_name("flambeau")  # the command in this Python's environment
START_DEADLINE = 120.0
# A proxy that the environment names must not be asked for pages of this machine.
_HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Served:
    """A server whose models are loaded. ``start_seconds`` counts from the start of the process."""

    pid: int
    inference: str
    management: str
    metrics: str
    run_dir: Path
    start_seconds: float

    def worker(self, model: str) -> int:
        """The process id of the model's only worker."""
        described = json.loads(call("GET", f"{self.management}/models/{model}"))
        workers = described[0]["workers"]
        if len(workers) != 1:
            raise BenchmarkError(f"model {model} has {len(workers)} workers instead of one.")
        return int(workers[0]["pid"])

    def target(self, model: str, body: Path, content_type: str) -> Target:
        """How the load generator asks this model."""
        return Target(f"{self.inference}/predictions/{model}", body, content_type)


@contextmanager
def serving(
    folder: Path,
    models: Mapping[str, str],
    scheme: str = "http",
    source: Path | None = None,
    **settings: object,
) -> Iterator[Served]:
    """Start flambeau on ``folder/store`` and wait until each model (name: archive) has a worker.

    It is imported from ``source``, if that is given. ``settings`` are keys of its configuration.
    """
    # Sockets want short paths, so theirs is not under the folder.
    with tempfile.TemporaryDirectory(prefix="fl-", ignore_cleanup_errors=True) as run_dir:
        reading, writing = os.pipe()
        command = _command(folder / "store", run_dir, models, writing, scheme)
        log = folder / "server.log"
        with open(reading, "rb", buffering=0) as pipe, log.open("wb") as output:
            started = time.perf_counter()
            with running(
                command,
                _environment(folder, settings, source),
                cwd=folder,
                stdout=output,
                stderr=output,
                pass_fds=(writing,),
            ) as process:
                # Only the server holds this end now, so that its end is noticed.
                os.close(writing)
                addresses = _wait(pipe.fileno(), log)
                seconds = time.perf_counter() - started
                urls = (addresses[name] for name in ("inference", "management", "metrics"))
                yield Served(process.pid, *urls, Path(run_dir), seconds)


def _command(
    store: Path, run_dir: str, models: Mapping[str, str], ready_fd: int, scheme: str
) -> list[object]:
    named = ",".join(f"{name}={archive}" for name, archive in models.items())
    command: list[object] = [FLAMBEAU, "start", "--model-store", store, "--models", named]
    command += ["--run-dir", run_dir, "--ready-fd", ready_fd]
    for api in ("inference", "management", "metrics"):
        command += [f"--{api}-address", f"{scheme}://127.0.0.1:0"]
    return command


def _environment(
    folder: Path, settings: Mapping[str, object], source: Path | None
) -> dict[str, str]:
    """Nothing of the caller's own configuration; one worker for each model, one thread in it."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TS_", "FLAMBEAU_"))
    }
    if source is not None:
        inherited["PYTHONPATH"] = str(source)
    return {
        **inherited,
        "FLAMBEAU_MODEL_CACHE_DIR": str(folder / "cache"),
        "FLAMBEAU_DEFAULT_WORKERS_PER_MODEL": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        **{f"FLAMBEAU_{key.upper()}": str(value) for key, value in settings.items()},
    }


def _wait(fd: int, log: Path) -> dict[str, str]:
    """The addresses, once the models are loaded."""
    try:
        ready = read_json_line(fd, START_DEADLINE, "flambeau start")
    except BenchmarkError as exc:
        raise BenchmarkError(f"{exc}\n{last_lines(log)}") from None
    if "error" in ready:
        raise BenchmarkError(f"flambeau did not start: {ready['error']}")
    addresses: dict[str, str] = ready["addresses"]
    return addresses


def last_lines(log: Path) -> str:
    """The end of what a server has printed, for the message of a failure."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-10:])


def call(method: str, url: str, body: bytes | None = None, content_type: str = "") -> bytes:
    """One request; the answer's body. BenchmarkError for every answer that is not 2xx."""
    request = urllib.request.Request(url, data=body, method=method)
    if body is not None:
        request.add_header("Content-Type", content_type)
    try:
        with _HTTP.open(request, timeout=60) as answer:
            content: bytes = answer.read()
            return content
    except urllib.error.HTTPError as exc:
        detail = exc.read().decode(errors="replace").strip()
        raise BenchmarkError(f"{method} {url} was answered {exc.code}: {detail}") from exc
    except (OSError, http.client.HTTPException) as exc:
        raise BenchmarkError(f"{method} {url} got no answer: {exc}") from exc
