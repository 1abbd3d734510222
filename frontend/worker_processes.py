"""The processes of workers, from their start to their end: one task for each worker."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic as now
from typing import TYPE_CHECKING

from .exits import Exit, ExitReason
from .launcher import Launch
from .ranks import RankGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .commands import Spawn
    from .launcher import Handle, Launcher
    from .ranks import Parallelism
    from .version_spec import VersionSpec

logger = logging.getLogger("flambeau.engine")


class WorkerProcesses:
    """Starts workers, which find the frontend at ``endpoint``, and ends them.

    ``device_environ`` says which variables a version's worker on a device needs.
    """

    def __init__(
        self,
        launcher: Launcher,
        endpoint: str,
        cores: int,
        device_environ: Callable[[VersionSpec, int | None], Mapping[str, str]],
    ) -> None:
        self._launcher = launcher
        self._endpoint = endpoint
        self._cores = cores
        self._device_environ = device_environ
        self._handles: dict[str, Handle] = {}
        self._doomed: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.groups: dict[str, RankGroup] = {}
        """Workers of several processes by identity."""
        self.ranks: dict[str, tuple[RankGroup, int]] = {}
        """The processes of those, by their own."""

    def start(self, spawn: Spawn, workers: int, exited: Callable[[Exit], None]) -> None:
        """Start a worker, one of ``workers`` that there are; ``exited`` is told of its end."""
        task = asyncio.get_running_loop().create_task(self._run(spawn, workers, exited))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def kill(self, identity: str, force: bool) -> None:
        """End a worker: ask (SIGTERM), or with ``force`` do not."""
        handle = self._handles.get(identity)
        if handle is None:
            # Still being started: end it as soon as it is there.
            self._doomed.add(identity)
        elif force:
            handle.kill()
        else:
            handle.terminate()

    def forget(self, identity: str) -> None:
        """What the worker said has been read to the end."""
        group = self.groups.pop(identity, None)
        for member in group.members if group is not None else ():
            del self.ranks[member]

    async def ended(self) -> None:
        """Every process has ended."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def close(self) -> None:
        self._launcher.close()

    async def _run(self, spawn: Spawn, workers: int, exited: Callable[[Exit], None]) -> None:
        identity = spawn.identity
        logger.info("worker %s starts", identity)
        try:
            handle = await self._launcher.start(self._launch(spawn, workers))
        except Exception as error:
            # Whatever it is: the slot must learn that nobody came.
            logger.exception("worker %s could not be started", identity)
            reason = error.strerror if isinstance(error, OSError) else type(error).__name__
            hint = " (workers_python)" if isinstance(error, FileNotFoundError) else ""
            message = f"The process could not be started: {reason}{hint}."
            exit = Exit(identity, ExitReason.BOOT_FAILURE, message, now())
        else:
            self._handles[identity] = handle
            if identity in self._doomed:
                handle.kill()
            exit = await handle.wait()
            del self._handles[identity]
        self._doomed.discard(identity)
        exited(exit)

    def _launch(self, spawn: Spawn, workers: int) -> Launch:
        parallel = spawn.spec.parallel
        group = None if parallel is None else self._group(spawn.identity, parallel)
        # Cores divided by workers, so that all of them together do not oversubscribe the host.
        # Ranks share the cores with each other: one thread is what torchrun gives them.
        threads = max(1, self._cores // max(1, workers)) if group is None else 1
        return Launch(
            spawn.identity,
            self._endpoint,
            spawn.spec.key,
            threads,
            self._device_environ(spawn.spec, spawn.device),
            spawn.spec.model_dir,
            spawn.spec.python,
            parallel,
        )

    def _group(self, identity: str, parallel: Parallelism) -> RankGroup | None:
        if not parallel.has_ranks:
            return None
        group = self.groups[identity] = RankGroup(identity, parallel)
        for rank, member in enumerate(group.members):
            self.ranks[member] = (group, rank)
        return group
