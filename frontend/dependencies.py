"""Packages that models bring requirements for: installed before their workers start.

The shell around ``model_store.environments``: installations run in threads, one for each
environment at a time and a few in all, and the event loop goes on. What pip says goes to the
model's log, and its last lines into the model's description.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import TYPE_CHECKING

from .. import FlambeauError, without_folders
from ..model_store.environments import TAIL_LINES, Environments, Stopped
from ..model_store.errors import StorageError
from .errors import DrainingError
from .exits import Exit, ExitReason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from ..model_store.environments import Environment
    from ..model_store.store import StoredModel
    from .config import Config
    from .engine import Engine
    from .lifecycle import VersionKey

logger = logging.getLogger("flambeau.registry")

AT_A_TIME = 4
"""Installations that run together; further ones wait."""
_SHOWN = 12
"""Digits of an environment's name that are shown."""


class _Installation:
    """What becomes of the environment of one version."""

    def __init__(self, key: VersionKey, environment: Environment) -> None:
        self.environment = environment
        self.name = key[0]
        self.output: tuple[str, ...] = ()
        self.stop = threading.Event()
        self.is_in_thread = False
        self.is_held = False
        self.error: FlambeauError | None = None
        self.replaced: tuple[str, ...] = ()
        self.task: asyncio.Task[None] | None = None
        self._logger = logging.getLogger(f"flambeau.model.{key[0]}")
        self._identity = "/".join(key)

    @property
    def is_over(self) -> bool:
        return self.task is None or self.task.done()

    def say(self, line: str) -> None:
        """Called from the thread in which pip is listened to."""
        self.output = (*self.output, line)[-TAIL_LINES:]
        self._logger.info("%s: deps: %s", self._identity, line)

    def failure(self) -> Exit | None:
        if self.error is None:
            return None
        return Exit(
            self._identity,
            ExitReason.DEPENDENCIES,
            self.error.message,
            monotonic(),
            status=self.error.status,
            tail=self.output,
        )


class Dependencies:
    """The environments of registered versions. ``environ`` is what pip gets, as workers do."""

    def __init__(self, engine: Engine, config: Config, environ: Mapping[str, str]) -> None:
        self._engine = engine
        self._installs = config.install_py_dep_per_model
        self._environments = Environments(
            config.model_cache_dir / "environments",
            config.workers_python,
            environ,
            float(config.dependency_timeout),
            config.dependency_cache_mb * 1_000_000,
        )
        self._known: dict[VersionKey, _Installation] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._slots = asyncio.Semaphore(AT_A_TIME)
        self._threads = ThreadPoolExecutor(AT_A_TIME, "dependencies")

    async def plan(self, stored: StoredModel, runtime: str | None) -> Environment | None:
        """The environment that the model is to have, None for that of all workers.

        Raises InvalidModelError for requirements that are not allowed.
        """
        manifest = stored.manifest
        requirements = manifest.requirements_file if manifest and self._installs else None
        runtime = runtime or (manifest.runtime if manifest else "python")
        if requirements is None and not (stored.config.use_venv and runtime == "python"):
            return None
        return await asyncio.to_thread(self._environments.plan, stored.model_dir, requirements)

    def begin(self, key: VersionKey, environment: Environment) -> None:
        """Have the environment made; workers of the version are kept back until it is there."""
        installation = self._known[key] = _Installation(key, environment)
        self._engine.preparing(key)
        installation.task = asyncio.ensure_future(self._install(key, installation))

    def try_again(self, key: VersionKey) -> None:
        """Begin once more, if the version's packages could not be installed."""
        installation = self._known.get(key)
        if installation is not None and installation.is_over and not installation.is_held:
            self.begin(key, installation.environment)

    async def finished(self, key: VersionKey, timeout: float | None) -> FlambeauError | None:
        """Wait until the version's packages are there; the error if they are not to be had.

        None too when ``timeout`` seconds passed first.
        """
        installation = self._known.get(key)
        if installation is None or installation.task is None:
            return None
        await asyncio.wait([installation.task], timeout=timeout)
        if installation.stop.is_set() and not installation.is_held:
            return DrainingError(f'Model "{key[0]}" version {key[1]} is being unregistered.')
        return installation.error

    def describe(self, key: VersionKey) -> dict[str, object]:
        """What a description of the version says of its packages; nothing if it has none."""
        installation = self._known.get(key)
        if installation is None:
            return {}
        fields: dict[str, object] = {
            "environment": installation.environment.key[:_SHOWN],
            "requirements": installation.environment.requirements,
            "replaced": list(installation.replaced),
            "output": [without_folders(line) for line in installation.output],
        }
        stage = {} if installation.is_over else {"stage": "deps"}
        return {**stage, "dependencies": {k: v for k, v in fields.items() if v}}

    async def release(self, key: VersionKey) -> None:
        """The version is gone: an installation for it ends, and its environment is not in use."""
        installation = self._known.pop(key, None)
        if installation is not None:
            await self._end(installation)

    async def close(self) -> None:
        """End all installations. What is in use stays so until this process ends."""
        await asyncio.gather(
            *(self._end(each) for each in self._known.values() if not each.is_held)
        )
        self._threads.shutdown()

    async def _end(self, installation: _Installation) -> None:
        installation.stop.set()
        if installation.task is not None:
            if not installation.is_in_thread:
                installation.task.cancel()
            await asyncio.wait([installation.task])
        if installation.is_held:
            installation.is_held = False
            await asyncio.to_thread(self._environments.release, installation.environment)

    async def _install(self, key: VersionKey, installation: _Installation) -> None:
        """The task of one installation. It tells the engine how it ended, unless it was ended."""
        try:
            async with self._turn(installation):
                await self._take(installation)
        except Stopped:
            return
        except FlambeauError as error:
            installation.error = error
            logger.error("%s", error)
        except Exception:
            logger.exception("The packages of model %s could not be installed", installation.name)
            message = f"The packages of model {installation.name} could not be installed."
            installation.error = StorageError(f"{message} The server's log says why.")
        if not installation.stop.is_set():
            self._engine.prepared(key, installation.failure())

    async def _take(self, installation: _Installation) -> None:
        environment, loop = installation.environment, asyncio.get_running_loop()
        with _in_thread(installation):
            installation.is_held = await asyncio.to_thread(self._environments.find, environment)
        if installation.stop.is_set():
            raise Stopped
        if not installation.is_held:
            if self._slots.locked():
                installation.say("Other models install their packages; waiting for them.")
            async with self._slots:
                with _in_thread(installation):
                    await loop.run_in_executor(
                        self._threads,
                        self._environments.make,
                        environment,
                        installation.name,
                        installation.say,
                        installation.stop,
                    )
                    installation.is_held = True
        with _in_thread(installation):
            installation.replaced = await asyncio.to_thread(
                self._environments.replaced, environment
            )
        for each in installation.replaced:
            installation.say(f"Used in place of the server's: {each}")

    @contextlib.asynccontextmanager
    async def _turn(self, installation: _Installation) -> AsyncIterator[None]:
        """One installation of an environment at a time: those that come later find it made."""
        lock = self._turns.setdefault(installation.environment.key, asyncio.Lock())
        if lock.locked():
            installation.say("Another model installs the same packages; waiting for it.")
        async with lock:
            yield


@contextlib.contextmanager
def _in_thread(installation: _Installation) -> Iterator[None]:
    """Meanwhile it is ended through ``stop`` alone: a thread cannot be cancelled."""
    installation.is_in_thread = True
    try:
        yield
    finally:
        installation.is_in_thread = False
