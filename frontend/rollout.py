"""One archive in the place of another, while it serves: nobody waits, and what fails is undone.

The new workers are started beside the old ones, loaded, tried with the requests of their own
``warmUp`` and with those that the old version has recorded. Then, in one step, they are who is
asked, and the old ones finish what they have and go. If the new ones cannot be started or do not
answer the requests, they go, and the old ones were never touched.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import FlambeauError
from .errors import BadRequestError, ConflictError, DrainingError, WorkerStartError, sentence
from .registry import Registry, Reply, start_error

if TYPE_CHECKING:
    from ..model_store.environments import Environment
    from .describe import Record
    from .exits import Exit
    from .precedence import Registration
    from .samples import Sample

logger = logging.getLogger("flambeau.registry")


@dataclass(slots=True)
class Rollout:
    """The last replacement of a model's default version."""

    source: str
    target: str
    state: str = "loading"
    reason: str | None = None

    @property
    def is_over(self) -> bool:
        return self.state in ("done", "failed")

    def fields(self) -> dict[str, object]:
        """What a description of the model says of it."""
        fields: dict[str, object] = {"state": self.state, "from": self.source, "to": self.target}
        return fields if self.reason is None else {**fields, "reason": self.reason}


class _Change(NamedTuple):
    """What a replacement is about: ``record`` in the place of ``old``."""

    old: Record
    record: Record
    environment: Environment | None
    registration: Registration
    rollout: Rollout


class RollingRegistry(Registry):
    """A registry that also replaces what serves, for a registration that says so."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._rollouts: dict[str, Rollout] = {}
        self._tasks: set[asyncio.Task[Reply]] = set()

    async def register(self, registration: Registration) -> Reply:
        """As Registry's; with ``registration.replace`` in the place of the default version.

        Raises a FlambeauError that says what is wrong; then that goes on serving as before.
        """
        if not registration.replace:
            return await super().register(registration)
        record, environment = await self._acquire(registration, at_startup=False)
        name = record.spec.key[0]
        if name not in self._records:
            reply = await self._serve(registration, record, environment, keep=False)
            self.changed()
            return reply
        try:
            old = self._replaceable(record, registration)
        except BaseException:
            await self._give_back(record)
            raise
        rollout = self._rollouts[name] = Rollout(old.spec.key[1], record.spec.key[1])
        work = self._roll_out(_Change(old, record, environment, registration, rollout))
        if registration.synchronous:
            return await work
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return Reply(202, "Processing worker updates...")

    @property
    def is_replacing(self) -> bool:
        """A model is being replaced now."""
        return any(not each.is_over for each in self._rollouts.values())

    def describe(self, name: str, version: str | None) -> list[dict[str, object]]:
        described = super().describe(name, version)
        rollout = self._rollouts.get(name)
        if rollout is not None:
            described = [{**fields, "rollout": rollout.fields()} for fields in described]
        return described

    async def _remove(self, record: Record, timeout: float) -> bool:
        gone = await super()._remove(record, timeout)
        if record.spec.key[0] not in self._records:
            self._rollouts.pop(record.spec.key[0], None)
        return gone

    def _done(self, task: asyncio.Task[Reply]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and not isinstance(task.exception(), FlambeauError | None):
            logger.error("a model could not be replaced", exc_info=task.exception())

    def _replaceable(self, record: Record, registration: Registration) -> Record:
        """The version that is to be replaced; raises where that cannot be done."""
        name, version = record.spec.key
        default = self._defaults[name]
        old = self._records[name][default]
        rollout = self._rollouts.get(name)
        if rollout is not None and not rollout.is_over:
            raise ConflictError(
                f'Model "{name}" is being replaced already. Wait for the end of that: its '
                "description says how far it is."
            )
        if old.of_workflow:
            raise ConflictError(f'Model "{name}" is a part of a workflow. Replace the workflow.')
        if version != default and version in self._records[name]:
            raise ConflictError(
                f'Version {version} of model "{name}" is registered already. Make it the default, '
                "or unregister it first."
            )
        if registration.initial_workers == 0:
            raise BadRequestError(
                f'Model "{name}" would have no worker afterwards, and the archive would not be '
                "tried. Give initial_workers at least 1, or leave it out."
            )
        if version == default and registration.keep_old:
            raise BadRequestError(
                f"The archive has the version that serves, {version}, and only one of them can be "
                "kept. Give it another modelVersion, or leave out keep_old."
            )
        return old

    async def _roll_out(self, change: _Change) -> Reply:
        old, record, rollout = change.old, change.record, change.rollout
        name, before = old.spec.key
        after = record.spec.key[1]
        logger.info(
            "model %s: version %s is to be replaced by %s from %s",
            name,
            before,
            after,
            record.stored.url,
        )
        try:
            if before == after:
                await self._exchange(change)
            else:
                await self._succeed(change)
        except BaseException as error:
            why = error.message if isinstance(error, FlambeauError) else type(error).__name__
            rollout.state, rollout.reason = "failed", why
            logger.error("model %s: version %s goes on serving: %s", name, before, why)
            if isinstance(error, FlambeauError):
                error.message = f"{sentence(error.message)} Version {before} goes on serving."
            raise
        rollout.state = "done"
        logger.info("model %s: version %s has replaced %s", name, after, before)
        self.changed()
        return Reply(200, f'Model "{name}" version {before} replaced by version {after}')

    def _trials(self, old: Record) -> tuple[Sample, ...]:
        current = self._engine.version(old.spec.key)
        return () if current is None or current.recorder is None else current.recorder.samples

    async def _succeed(self, change: _Change) -> None:
        """Another version in the place of the old one: a new version, then a new default."""
        old, record, environment, registration, rollout = change
        record = replace(record, spec=replace(record.spec, trials=self._trials(old)))
        name, version = key = record.spec.key
        current = self._engine.version(old.spec.key)
        wanted = (0, 0) if current is None else (current.min_workers, current.max_workers)
        if registration.initial_workers is not None:
            wanted = (registration.initial_workers, registration.initial_workers)
        try:
            minimum, maximum = self._that_fit(record.spec, *wanted)
            self._insert(record)
        except BaseException:
            await self._give_back(record)
            raise
        if environment is not None:
            self._dependencies.begin(key, environment)
        self._engine.scale(key, minimum, maximum)
        await self._installed(record, keep=False)
        failure = await self._started(record.spec, record.spec.startup_timeout + 60.0)
        started = self._engine.version(key)
        if failure is not None or started is None or not started.is_settled:
            await self._remove(record, timeout=0.0)
            raise _not_started(record, failure)
        self._engine.proven(key)
        self._records[name][version] = replace(record, spec=record.spec.proven())
        self._defaults[name] = version
        if not registration.keep_old and self._records[name].get(old.spec.key[1]) is old:
            rollout.state = "draining"
            if not await self._remove(old, float(self._config.unregister_model_timeout)):
                logger.error("model %s: version %s is still there", *old.spec.key)

    async def _exchange(self, change: _Change) -> None:
        """Another archive under the same version: its workers are exchanged."""
        old, record, environment, registration, rollout = change
        name, version = key = record.spec.key
        spec = replace(record.spec, trials=self._trials(old))
        try:
            if environment is not None or self._dependencies.describe(key):
                raise ConflictError(
                    f'Model "{name}" has packages of its own. Give the archive another '
                    "modelVersion."
                )
            self._engine.roll(key, spec)
            await self._engine.wait_until(key, lambda: not self._is_rolling(record), None)
            current = self._engine.version(key)
            if current is None or self._records.get(name, {}).get(version) is not old:
                raise DrainingError(f'Model "{name}" version {version} is being unregistered.')
            if current.roll_failure is not None:
                raise start_error(spec, version, current.roll_failure)
        except BaseException:
            await self._give_back(record)
            raise
        self._records[name][version] = replace(record, spec=spec.proven())
        if registration.initial_workers is not None:
            count = registration.initial_workers
            self._engine.scale(key, *self._that_fit(spec, count, count))
        rollout.state = "draining"
        # Those that leave still work in the folder of the old archive.
        await self._engine.wait_until(
            key, lambda: not self._is_leaving(record), float(self._config.unregister_model_timeout)
        )
        await self._give_back(old)

    def _is_rolling(self, record: Record) -> bool:
        current = self._engine.version(record.spec.key)
        return current is not None and current.roll is not None

    def _is_leaving(self, record: Record) -> bool:
        current = self._engine.version(record.spec.key)
        return current is not None and any(slot.retiring for slot in current.slots.values())


def _not_started(record: Record, failure: Exit | None) -> FlambeauError:
    name, version = record.spec.key
    if failure is not None:
        return start_error(record.spec, version, failure)
    return WorkerStartError(
        f"The workers of model {name} version {version} were not ready in time (startup_timeout).",
        504,
    )
