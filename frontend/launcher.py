"""Worker processes: started, watched, ended. ``Launcher`` is the seam for other hosts later."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
from collections import deque
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from ..worker.protocol import REQUESTS_MARK
from .exits import Exit, Oom, classify
from .lifecycle import VersionKey, torchserve_name
from .metric_lines import METRICS_MARK, parse_metric_line
from .oom_kills import LOOK_EVERY, OomKills
from .template import CopiedProcess, Template, TemplateLost

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    OnSample = Callable[[VersionKey, list[Any]], None]

    from .ranks import Parallelism

logger = logging.getLogger("flambeau.engine")

TAIL_LINES = 50
_LONGEST_LINE = 8 * 1024
_PIPE_GRACE = 1.0
"""Seconds that the pipes of a dead worker may stay open in the hands of its own children."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What it takes to start one worker; with ``parallel``, all of its ranks.

    ``python`` is its own interpreter if it has one.
    """

    identity: str
    endpoint: str
    key: VersionKey
    threads: int
    environ: Mapping[str, str]
    model_dir: str = ""
    python: str | None = None
    parallel: Parallelism | None = None


class Handle(Protocol):
    """A started worker."""

    async def wait(self) -> Exit:
        """How it ended, once it has."""

    def terminate(self) -> None:
        """Ask it to end."""

    def kill(self) -> None:
        """End it and everything that it started."""


class Launcher(Protocol):
    """Starts workers somewhere."""

    async def start(self, launch: Launch) -> Handle:
        """Start one worker; raises OSError when that is impossible."""

    def close(self) -> None:
        """Let go of everything; workers that are still there end at once."""


class LocalLauncher:
    """Workers as subprocesses of this process.

    They are started with the command line that a remote host would use, in a session of their own,
    so that a Ctrl-C in the terminal reaches the server only. ``environ`` is what they see of the
    server's. With ``preload``, modules separated by commas, those that come after the first are
    copies of a template that has imported them. ``on_sample`` is told of each metric that one
    prints.
    """

    def __init__(
        self,
        python: str,
        environ: Mapping[str, str],
        preload: str = "",
        on_sample: OnSample = lambda _, __: None,
    ) -> None:
        self._python = python
        self._preload = preload
        self._on_sample = on_sample
        self._template: Template | None = None
        self._is_closed = False
        self._oom_kills = OomKills()
        self._looks: asyncio.TimerHandle | None = None
        self._environ = environ
        # Only this process holds the write end: when it ends, each worker reads the end of file.
        self._read_end, self._write_end = os.pipe()

    async def start(self, launch: Launch) -> LocalHandle:
        environ = {**self._shared_environ(launch.threads), **launch.environ}
        if launch.python is not None:
            # Commands of packages that are installed for this model.
            path = [os.path.dirname(launch.python), environ.get("PATH")]
            environ["PATH"] = os.pathsep.join(filter(None, path))
        # Pipes of our own: with those of asyncio, its wait() would go on for as long as a child of
        # the worker holds one open.
        out = os.pipe()
        try:
            err = os.pipe()
        except OSError:
            os.close(out[0])
            os.close(out[1])
            raise
        process: asyncio.subprocess.Process | CopiedProcess | None
        try:
            process = await self._copy(launch, environ, out[1], err[1])
            if process is None:
                process = await self._spawn(launch, environ, out[1], err[1])
        except BaseException:
            os.close(out[0])
            os.close(err[0])
            raise
        finally:
            os.close(out[1])
            os.close(err[1])
        handle = LocalHandle(process, launch, out[0], err[0], self._on_sample, self._oom_kills)
        if self._looks is None:
            self._look()
        return handle

    def _look(self) -> None:
        """While there are workers, look at the counts of OOM kills."""
        self._looks = None
        self._oom_kills.look(monotonic())
        if self._oom_kills.is_watching and not self._is_closed:
            self._looks = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look)

    async def _copy(
        self, launch: Launch, environ: Mapping[str, str], out: int, err: int
    ) -> CopiedProcess | None:
        """A worker from the template; None where there is no template for it."""
        if launch.python is not None:
            return None
        template = self._template
        if template is None or (template.is_lost and template.was_ready):
            # Not before the first workers are on their way: they need the processor now.
            # Its variables are those that all workers have: a copy can add some, and drop none.
            shared = self._shared_environ(launch.threads)
            asyncio.get_running_loop().call_soon(self._prepare, shared)
            return None
        if not template.was_ready:
            # A new process is there as soon as the template would be.
            return None
        order = {
            "arguments": self._arguments(launch),
            "environ": {k: v for k, v in environ.items() if template.environ.get(k) != v},
            "model_dir": launch.model_dir,
        }
        try:
            return await template.copy(order, out, err)
        except TemplateLost:
            return None

    def _shared_environ(self, threads: int) -> dict[str, str]:
        return {
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            # ONNX Runtime would report its use to Microsoft.
            "ORT_DISABLE_TELEMETRY": "1",
            **self._environ,
            "PYTHONUNBUFFERED": "1",
        }

    def _prepare(self, environ: Mapping[str, str]) -> None:
        is_there = self._template is not None and not self._template.is_lost
        if not self._preload or is_there or self._is_closed:
            return
        try:
            self._template = Template(self._python, environ, self._preload, [self._read_end])
        except OSError as error:
            logger.warning("there is no template for the workers: %s", error.strerror)
            self._preload = ""

    def _arguments(self, launch: Launch) -> list[str]:
        return [
            "--endpoint",
            launch.endpoint,
            "--identity",
            launch.identity,
            "--parent-fd",
            str(self._read_end),
        ]

    async def _spawn(
        self, launch: Launch, environ: Mapping[str, str], out: int, err: int
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            launch.python or self._python,
            "-m",
            "flambeau.worker",
            *self._arguments(launch),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            # Python looks for modules in this folder first: it must be one that nobody writes to.
            cwd="/",
            env=environ,
            pass_fds=(self._read_end,),
            start_new_session=True,
        )

    def close(self) -> None:
        self._is_closed = True
        if self._looks is not None:
            self._looks.cancel()
        if self._template is not None:
            self._template.close()
        os.close(self._write_end)
        os.close(self._read_end)


class LocalHandle:
    """A worker process on this host. Its output goes to the log, the last lines are kept."""

    def __init__(
        self,
        process: asyncio.subprocess.Process | CopiedProcess,
        launch: Launch,
        out: int,
        err: int,
        on_sample: OnSample,
        oom_kills: OomKills,
    ) -> None:
        self._process = process
        self._on_sample = on_sample
        self._identity = launch.identity
        self._key = launch.key
        # By this name TorchServe's files know a worker; its number is that of its slot.
        number = launch.identity.rpartition("/")[2].partition("#")[0]
        self._torchserve_name = torchserve_name(launch.key, number)
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._oom_kills = oom_kills
        self._group = oom_kills.watch(process.pid, monotonic())
        self._is_killed = False
        self._logger = logging.getLogger(f"flambeau.model.{launch.key[0]}")
        self._pumps = [
            asyncio.ensure_future(self._pump(out, logging.INFO)),
            asyncio.ensure_future(self._pump(err, logging.WARNING)),
        ]

    async def wait(self) -> Exit:
        code = await self._process.wait()
        ended_at = monotonic()
        oom = Oom.NO if self._is_killed else self._oom(code, ended_at)
        self._oom_kills.forget(self._group)
        # What the handler has started lives in the worker's process group and ends with it.
        self._kill_group(signal.SIGKILL)
        _, still_open = await asyncio.wait(self._pumps, timeout=_PIPE_GRACE)
        for pump in still_open:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        return classify(self._identity, code, ended_at, tuple(self._tail), oom)

    def _oom(self, code: int, now: float) -> Oom:
        """What want of memory has to do with the end of the process."""
        oom = Oom.NO
        if code == -signal.SIGKILL and self._oom_kills.explains(self._group, now):
            oom = Oom.KILLED
        elif self._oom_kills.rose(self._group, now):
            oom = Oom.NEARBY
        return oom

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._is_killed = True
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        # Not after the process was reaped: its number may be somebody else's by then.
        if self._process.returncode is None:
            self._kill_group(number)

    def _kill_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    async def _pump(self, descriptor: int, level: int) -> None:
        """Read lines until the pipe's other end is closed."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
        )
        pending = b""
        try:
            while chunk := await reader.read(1 << 16):
                *lines, pending = (pending + chunk).split(b"\n")
                if len(pending) > _LONGEST_LINE:
                    lines, pending = [*lines, pending], b""
                for line in lines:
                    self._keep(line, level)
        finally:
            transport.close()
            if pending:
                self._keep(pending, level)

    def _keep(self, line: bytes, level: int) -> None:
        stream = "stdout" if level == logging.INFO else "stderr"
        text = line[:_LONGEST_LINE].decode(errors="replace").rstrip("\r")
        text, _, requests = text.partition(REQUESTS_MARK)
        if text.startswith(METRICS_MARK):
            sample = parse_metric_line(text)
            if sample is not None:
                self._on_sample(self._key, sample)
                return
            level, text = logging.ERROR, f'Failed to parse metrics line: "{text}".'
        if level >= logging.WARNING:
            self._tail.append(text)
        extra = {
            "request_id": requests if requests and requests.isprintable() else None,
            # For TorchServe's files, where workers are threads of other names.
            "said": text,
            "said_by": f"{self._torchserve_name}-{stream}",
        }
        self._logger.log(level, "%s: %s", self._identity, text, extra=extra)


def visible(environ: Mapping[str, str], blacklist: str) -> dict[str, str]:
    """``environ`` without the variables whose whole names match ``blacklist``."""
    hidden = re.compile(blacklist) if blacklist else None
    return {
        name: value
        for name, value in environ.items()
        if hidden is None or hidden.fullmatch(name) is None
    }
