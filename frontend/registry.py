"""Models and versions by name: register, scale, describe, unregister, set the default.

The one place that knows which archive a version came from and which version is a model's default.
Texts and status codes are TorchServe's. Two things differ on purpose: what the caller says beats
what the archive says, and a synchronous registration that fails leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from .catalog import Catalog
from .errors import (
    BadRequestError,
    ConflictError,
    DefaultVersionError,
    DrainingError,
    RequestTimeoutError,
    UnknownModelError,
    UnknownVersionError,
    WorkerStartError,
)
from .lifecycle import VersionState
from .precedence import Registration, initial_workers
from .records import make_record
from .self_description import ask_about_itself

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..model_store.environments import Environment
    from ..model_store.store import ModelStore
    from .config import Config
    from .dependencies import Dependencies
    from .describe import Record
    from .engine import Engine
    from .exits import Exit
    from .lifecycle import VersionKey
    from .version_spec import VersionSpec
    from .versions import Version

__all__ = ["Registration", "Registry", "Reply"]

logger = logging.getLogger("flambeau.registry")

MAX_WORKERS = max(64, 16 * (os.cpu_count() or 1))
"""Workers that one version may be asked to have: a slip of the finger must not fill the machine."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A management answer: HTTP status and the text of its ``status`` field."""

    status: int
    message: str


class Registry(Catalog):
    """Changes the registered models. ``forget`` is told of each version that is gone.

    ``room_for`` says how many workers of a version the GPUs have room for, None for any number.
    """

    def __init__(
        self,
        engine: Engine,
        store: ModelStore | None,
        dependencies: Dependencies,
        config: Config,
        default_workers: int,
        gpu_usage: Callable[[int], str],
        forget: Callable[[VersionKey], None],
        room_for: Callable[[VersionSpec], int | None],
    ) -> None:
        super().__init__(engine, dependencies, gpu_usage)
        self.changed: Callable[[], None] = _nobody_cares
        """Called after each change that a client asked for."""
        self._store = store
        self._config = config
        self._default_workers = default_workers
        self._forget = forget
        self._room_for = room_for

    async def register(self, registration: Registration) -> Reply:
        """Register a version and start its initial workers.

        Raises a FlambeauError that says what is wrong; then nothing stays registered.
        """
        reply = await self._register(registration, at_startup=False, keep=False)
        self.changed()
        return reply

    async def load(self, registration: Registration, *, at_startup: bool) -> None:
        """Register as ``register`` does, but keep a version whose workers fail, to be tried again.

        ``at_startup``: the configuration names the model, a client never did.
        """
        await self._register(registration, at_startup=at_startup, keep=True)

    async def _register(self, registration: Registration, *, at_startup: bool, keep: bool) -> Reply:
        record, environment = await self._acquire(registration, at_startup)
        return await self._serve(registration, record, environment, keep=keep)

    async def _acquire(
        self, registration: Registration, at_startup: bool
    ) -> tuple[Record, Environment | None]:
        """The archive, checked and unpacked, as the version that it makes; to be given back."""
        if self._store is None:
            raise BadRequestError(
                "Model store has not been configured. Start flambeau with --model-store DIR."
            )
        stored = registration.borrowed
        if stored is None:
            stored = await asyncio.to_thread(
                self._store.acquire, registration.url, registration.sha256, registration.s3_sse_kms
            )
        try:
            environment = await self._dependencies.plan(stored, registration.runtime)
            record = make_record(registration, stored, environment, self._config, at_startup)
        except BaseException:
            if registration.borrowed is None:
                await asyncio.to_thread(self._store.release, stored)
            raise
        return record, environment

    async def _give_back(self, record: Record) -> None:
        if self._store is not None and not record.is_function:
            await asyncio.to_thread(self._store.release, record.stored)

    async def _serve(
        self,
        registration: Registration,
        record: Record,
        environment: Environment | None,
        *,
        keep: bool,
    ) -> Reply:
        """Start the version's workers."""
        try:
            minimum, maximum = self._that_fit(record.spec, *self._workers(registration, record))
            self._insert(record)
        except BaseException:
            await self._give_back(record)
            raise
        name, version = key = record.spec.key
        if environment is not None:
            self._dependencies.begin(key, environment)
        if maximum:
            self._engine.scale(key, minimum, maximum)
        if registration.synchronous:
            await self._installed(record, keep)
        if maximum == 0:
            return Reply(
                200,
                f'Model "{name}" Version: {version} registered with 0 initial workers. '
                "Use scale workers API to add workers for the model.",
            )
        if not registration.synchronous:
            return Reply(202, "Processing worker updates...")
        failure = await self._started(record.spec, record.spec.startup_timeout + 60.0)
        if failure is not None:
            if not keep:
                await self._remove(record, timeout=0.0)
            raise start_error(record.spec, version, failure)
        self._refuse_if_draining(key)
        current = self._engine.version(key)
        if current is not None and not current.is_settled:
            return Reply(206, "Workers scaling in progress...")
        return Reply(
            200, f'Model "{name}" Version: {version} registered with {minimum} initial workers'
        )

    async def scale(
        self,
        name: str,
        version: str | None,
        min_worker: int,
        max_worker: int | None = None,
        synchronous: bool = False,
        timeout: float | None = None,
    ) -> Reply:
        """Change how many workers a version has; ``timeout`` bounds a synchronous wait."""
        maximum = min_worker if max_worker is None else max_worker
        if maximum < min_worker:
            raise BadRequestError("max_worker cannot be less than min_worker.")
        key = self.resolve(name, version)
        spec = self._records[name][key[1]].spec
        self._refuse_if_draining(key)
        min_worker, maximum = self._that_fit(spec, min_worker, maximum)
        self._dependencies.try_again(key)
        self._engine.scale(key, min_worker, maximum)
        self.changed()
        if not synchronous:
            return Reply(202, "Processing worker updates...")
        given = timeout if timeout and timeout > 0 else None
        began = monotonic()
        await self._installed(self._records[name][key[1]], True, given)
        limit = spec.startup_timeout + 60.0
        if given is not None:
            limit = max(0.0, given - (monotonic() - began))
        failure = await self._started(spec, limit)
        if failure is not None:
            raise start_error(spec, version, failure)
        self._refuse_if_draining(key)
        current = self._engine.version(key)
        if current is not None and not current.is_settled:
            return Reply(206, "Workers scaling in progress...")
        suffix = "" if version is None else f", version: {version}"
        return Reply(200, f"Workers scaled to {min_worker} for model: {name}{suffix}")

    async def unregister(self, name: str, version: str | None) -> Reply:
        """Serve what waits, stop the workers, forget the version.

        Raises RequestTimeoutError when that takes longer than ``unregister_model_timeout``.
        """
        key = self.resolve(name, version)
        if key[1] == self._defaults[name] and len(self._records[name]) > 1:
            raise DefaultVersionError(f"Cannot remove default version for model {name}")
        record = self._records[name][key[1]]
        if not await self._remove(record, timeout=float(self._config.unregister_model_timeout)):
            raise RequestTimeoutError(f"Timed out while cleaning resources: {name}")
        self.changed()
        return Reply(200, f'Model "{name}" unregistered')

    def set_default(self, name: str, version: str) -> Reply:
        """Make ``version`` the one that requests without a version get."""
        if name not in self._records:
            raise UnknownModelError(name)
        if version not in self._records[name]:
            error = UnknownVersionError(name, version)
            # TorchServe words it differently here than elsewhere.
            error.message = f"Model version {version} does not exist for model {name}"
            raise error
        self._defaults[name] = version
        self.changed()
        return Reply(200, f'Default version successfully updated for model "{name}" to "{version}"')

    async def customized(
        self, name: str, version: str | None, headers: dict[str, str], request_id: str
    ) -> dict[str, object] | None:
        """What the version's handler says of itself, None if nothing.

        Raises as ``resolve``, and what the handler answers with.
        """
        return await ask_about_itself(
            self._engine, self.resolve(name, version), headers, request_id
        )

    def records(self) -> Iterator[tuple[Record, tuple[int, int, int] | None]]:
        """Each version, and its least, most and present number of workers where that is not what
        comes of its registration.
        """
        for records in self._records.values():
            for record in records.values():
                version = self._engine.version(record.spec.key)
                wanted = self._workers(record.asked, record)
                now = wanted
                if version is not None:
                    now = version.min_workers, version.max_workers
                present = now[0] if version is None else len(version.active_slots)
                is_usual = (now, present) == (wanted, wanted[0])
                yield record, None if is_usual else (*now, present)

    def _refuse_if_draining(self, key: VersionKey) -> None:
        version = self._engine.version(key)
        if version is None or version.state is VersionState.DRAINING:
            raise DrainingError(f'Model "{key[0]}" version {key[1]} is being unregistered.')

    def _workers(self, registration: Registration, record: Record) -> tuple[int, int]:
        default = self._config.default_workers_per_model
        if record.loaded_at_startup:
            default = self._default_workers
            if record.spec.parallel is not None and not self._config.default_workers_per_model:
                # As many as there are processors or GPUs, shared out among the processes.
                default = max(1, default // record.spec.parallel.level)
        return initial_workers(
            record.spec.key, registration, record.stored.config, self._config, default
        )

    def _that_fit(self, spec: VersionSpec, minimum: int, maximum: int) -> tuple[int, int]:
        """So many workers, or as many as the GPUs have room for, if those are fewer.

        Raises WorkerStartError if that is none, and BadRequestError for more than the machine
        starts at all.
        """
        _refuse_too_many(minimum, 1 if spec.parallel is None else spec.parallel.processes)
        room = self._room_for(spec)
        if room is None or spec.parallel is None or maximum <= room:
            return minimum, maximum
        name, level = spec.key[0], spec.parallel.level
        if room == 0:
            raise WorkerStartError(f"No enough gpu devices for model:{name} parallelLevel:{level}")
        logger.warning("model %s: there are GPUs for %d workers of %d each", name, room, level)
        return min(minimum, room), room

    def _insert(self, record: Record) -> None:
        name, version = record.spec.key
        if version in self._records.get(name, {}):
            raise ConflictError(f"Model version {version} is already registered for model {name}")
        self._engine.add(record.spec)
        self._records.setdefault(name, {})[version] = record
        self._defaults.setdefault(name, version)
        self.awaited.discard(name)
        logger.info("model %s version %s registered from %s", name, version, record.stored.url)

    async def _installed(self, record: Record, keep: bool, timeout: float | None = None) -> None:
        """Wait for the packages of the version; raise the error if they are not to be had."""
        error = await self._dependencies.finished(record.spec.key, timeout)
        if error is not None:
            if not keep:
                await self._remove(record, timeout=0.0)
            raise error

    async def _started(self, spec: VersionSpec, timeout: float) -> Exit | None:
        """Wait until the version has the workers that it should have; the failure if one did not
        start. None too when time ran out: look at the version.
        """

        def failure() -> Exit | None:
            version: Version | None = self._engine.version(spec.key)
            return None if version is None else (version.failure or version.boot_failure)

        def is_over() -> bool:
            version = self._engine.version(spec.key)
            return version is None or version.is_settled or failure() is not None

        await self._engine.wait_until(spec.key, is_over, timeout)
        return failure()

    async def _remove(self, record: Record, timeout: float) -> bool:
        """Drain the version and forget it; False when it is still there after all deadlines."""
        name, version = key = record.spec.key
        self._engine.drain(key, timeout)
        # Stop, SIGTERM and SIGKILL come after the drain, each with its own deadline.
        gone = await self._engine.wait_until(
            key, lambda: self._engine.version(key) is None, timeout + 30.0
        )
        if gone and self._records.get(name, {}).get(version) is record:
            del self._records[name][version]
            if not self._records[name]:
                del self._records[name]
                del self._defaults[name]
            elif self._defaults[name] == version:
                self._defaults[name] = next(iter(self._records[name]))
            self._forget(key)
            await self._dependencies.release(key)
            await self._give_back(record)
            logger.info("model %s version %s unregistered", name, version)
        return gone


def _nobody_cares() -> None:
    pass


def _refuse_too_many(workers: int, processes: int) -> None:
    """``processes`` is how many of them one worker is."""
    if workers * processes > MAX_WORKERS:
        spread = "" if processes == 1 else f" of {processes} processes"
        raise BadRequestError(
            f"{workers} workers{spread} are more than the {MAX_WORKERS // processes} that this "
            "machine starts for one version. Lower min_worker or initial_workers, or minWorkers in "
            "the archive's configuration."
        )


def start_error(spec: VersionSpec, version: str | None, failure: Exit) -> WorkerStartError:
    """What a client is told whose workers did not start."""
    message = f"Failed to start workers for model {spec.key[0]} version: {version or 'null'}"
    return WorkerStartError(f"{message}: {failure.explanation}", failure.status, failure.clock)
