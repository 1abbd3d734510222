"""A process that is a server: its log, its event loop, its word to who has started it."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

from .. import FlambeauError
from .handover import Predecessor, handover_path
from .inherited import sockets_of_systemd
from .logs import Logs
from .server import Circumstances, Server

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .config import Config
    from .runstate import Launch

logger = logging.getLogger("flambeau.server")


def run(
    config: Config,
    ready_fd: int | None = None,
    *,
    reload: bool = False,
    replaced: int | None = None,
    launch: Launch | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT; the process's exit code.

    When the models of the configuration are there, one JSON line is written to ``ready_fd``: with
    ``pid``, ``addresses`` and the archives that ``failed``, or with ``error`` if the server cannot
    start. With ``reload`` models get new workers when their files change.

    ``replaced`` is the server of the same run directory whose place this one takes. ``launch`` is
    how it was started, for who is to start the next one.
    """
    tell = functools.partial(_tell, ready_fd)
    try:
        logs = Logs(config)
    except FlambeauError as error:
        tell({"error": str(error)})
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201 - there is no log to write it to
        return 1
    for warning in config.warnings:
        logger.warning("%s", warning)
    loop = _new_event_loop()
    try:
        given = sockets_of_systemd(os.environ)
        before = None
        if replaced is not None:
            before = Predecessor.meet(handover_path(config.run_dir, replaced), replaced)
        around = Circumstances(tell, reload, before, given, launch)
        return loop.run_until_complete(_serve(config, around))
    except (FlambeauError, OSError) as error:
        logger.error("%s", error)
        tell({"error": str(error)})
        return 1
    finally:
        # Whoever asks it to end now gets what he asks for; closing the loop would make that fatal.
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        logs.close()


async def _serve(config: Config, around: Circumstances) -> int:
    server = Server(config, around)
    await server.run()
    return server.exit_code


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        loop = asyncio.new_event_loop()
    else:
        loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


def _tell(ready_fd: int | None, message: Mapping[str, object]) -> None:
    if ready_fd is not None:
        with os.fdopen(ready_fd, "w", encoding="utf-8") as pipe:
            pipe.write(json.dumps(message) + "\n")
