"""The frontend's side of the template (``worker/template.py``): workers by fork."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
from typing import TYPE_CHECKING

from .exits import UNKNOWN_CODE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

logger = logging.getLogger("flambeau.engine")

COPY_TIME = 10.0
"""Seconds for a copy to be made."""
_LARGEST_PACKET = 64 * 1024


class TemplateLost(OSError):
    """There is no template any more."""


class CopiedProcess:
    """A worker that the template has made; what asyncio's Process has, as far as it is used."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = asyncio.Event()

    async def wait(self) -> int:
        await self._ended.wait()
        return UNKNOWN_CODE if self.returncode is None else self.returncode

    def has_ended(self, code: int) -> None:
        self.returncode = code
        self._ended.set()


class Template:
    """A template process that imports ``modules``. Used from one event loop.

    ``passed`` are descriptors that workers get, too. Raises OSError if it cannot be started.
    """

    def __init__(
        self, python: str, environ: Mapping[str, str], modules: str, passed: Sequence[int]
    ) -> None:
        self.environ = environ
        self._loop = asyncio.get_running_loop()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        self.was_ready = False
        """It had imported its modules: what ended it then was something else."""
        self._orders: list[asyncio.Future[CopiedProcess]] = []
        self._copies: dict[int, CopiedProcess] = {}
        command = [python, "-m", "flambeau.worker.template", f"--modules={modules}"]
        try:
            self._process = subprocess.Popen(
                [*command, f"--control-fd={theirs.fileno()}"],
                stdin=subprocess.DEVNULL,
                # As for workers: Python looks for modules here first.
                cwd="/",
                env=dict(environ),
                pass_fds=(theirs.fileno(), *passed),
                start_new_session=True,
            )
        except BaseException:
            self._control.close()
            raise
        finally:
            theirs.close()
        self._loop.add_reader(self._control, self._read)

    @property
    def is_lost(self) -> bool:
        return self._control.fileno() < 0

    async def copy(self, order: Mapping[str, object], out: int, err: int) -> CopiedProcess:
        """A worker whose output goes to two descriptors; raises TemplateLost.

        A template that takes too long is ended: workers do not wait for it without limit.
        """
        if self.is_lost:
            raise TemplateLost
        started: asyncio.Future[CopiedProcess] = self._loop.create_future()
        try:
            socket.send_fds(self._control, [json.dumps(order).encode()], [out, err])
        except OSError as error:
            # An order that is too large, or more of them than the socket takes.
            raise TemplateLost from error
        self._orders.append(started)
        await asyncio.wait([started], timeout=COPY_TIME)
        if not started.done():
            logger.warning("the template of the workers takes longer than %g s", COPY_TIME)
            self._lose()
        return await started

    def close(self) -> None:
        """End the template, and with it whatever copies there still are."""
        self._lose()

    def _read(self) -> None:
        try:
            packet = self._control.recv(_LARGEST_PACKET)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            logger.warning("the template of the workers has ended; others start without it")
            self._lose()
            return
        message = json.loads(packet)
        if "started" in message:
            self._started(message["started"])
        elif "exited" in message:
            copy = self._copies.pop(message["exited"], None)
            if copy is not None:
                copy.has_ended(message["code"])
        else:
            self.was_ready = True
            logger.info("the template of the workers is ready")

    def _started(self, pid: int) -> None:
        copy = self._copies[pid] = CopiedProcess(pid)
        order = self._orders.pop(0)
        if order.done():
            # Whoever ordered it has given up.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        else:
            order.set_result(copy)

    def _lose(self) -> None:
        if self.is_lost:
            return
        self._loop.remove_reader(self._control)
        self._control.close()
        self._process.kill()
        self._process.wait()
        for order in self._orders:
            if not order.done():
                order.set_exception(TemplateLost())
        for copy in self._copies.values():
            self._watch(copy)
        self._copies.clear()

    def _watch(self, copy: CopiedProcess) -> None:
        """Learn of the end of a worker that has nobody to tell of it."""
        try:
            descriptor = os.pidfd_open(copy.pid)
        except OSError:
            copy.has_ended(UNKNOWN_CODE)
            return

        def ended() -> None:
            self._loop.remove_reader(descriptor)
            os.close(descriptor)
            copy.has_ended(UNKNOWN_CODE)

        self._loop.add_reader(descriptor, ended)
