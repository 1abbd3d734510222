"""``flambeau start --reload``: a model whose files change gets new workers, the others do not.

For models that lie in the store as folders or as handler files. A handler file's own module counts,
and what modules are beside it that are no models themselves.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from .engine import Engine
    from .lifecycle import VersionKey
    from .registry import Registry

logger = logging.getLogger("flambeau.server")

INTERVAL = 0.5
"""Seconds between two looks at the files."""
_MOST_FILES = 10_000

Model = tuple["Path", str | None]
"""The folder of a model, and its handler file where the model is nothing else."""
_State = dict[str, tuple[int, int]]
_OTHER = (-1, -1)
"""The size and time of no file."""


async def watch(registry: Registry, engine: Engine) -> None:
    """Look at the files of all models time and again, until cancelled."""
    seen: dict[VersionKey, _State] = {}
    while True:
        models = registry.places()
        try:
            now = await asyncio.to_thread(states, models)
        except OSError as error:
            logger.warning("the files of the models cannot be looked at: %s", error.strerror)
            now = {key: seen[key] for key in models if key in seen}
        for key, state in now.items():
            before = seen.get(key) or as_of(_started(engine, key), state)
            changed = changes(before, state, models[key][1])
            if changed:
                logger.info("%s changed: new workers for model %s", ", ".join(changed), key[0])
                engine.replace(key)
        seen = now
        await asyncio.sleep(INTERVAL)


def states(models: dict[VersionKey, Model]) -> dict[VersionKey, _State]:
    """What the files of each model look like now: path in its folder to size and time."""
    handlers = {folder / name for folder, name in models.values() if name is not None}
    return {key: dict(_files(*model, handlers)) for key, model in models.items()}


def as_of(moment: float, state: _State) -> _State:
    """``state`` as it was at ``moment`` (wall clock), as far as its times tell.

    A file may change after the workers have read it and before the first look at it.
    """
    limit = moment * 1e9
    return {name: stamp if stamp[1] <= limit else _OTHER for name, stamp in state.items()}


def _started(engine: Engine, key: VersionKey) -> float:
    """When, by the wall clock, the first of its workers started; for ever if it has none."""
    version = engine.version(key)
    slots = version.slots.values() if version is not None else ()
    starts = [slot.started_at for slot in slots if slot.started_at]
    return time.time() - (time.monotonic() - min(starts)) if starts else float("inf")


def changes(before: _State, after: _State, handler: str | None = None) -> list[str]:
    """Names of the files that are new, gone or different, the first few.

    Of what lies beside a handler file, only what was there before and still is: another draft in
    the folder concerns nobody.
    """
    names = before.keys() | after.keys()
    if handler is not None:
        names = (before.keys() & after.keys()) | {handler}
    different = sorted(name for name in names if before.get(name) != after.get(name))
    return different[:3] + [f"{len(different) - 3} more"] * (len(different) > 3)


def _files(
    folder: Path, handler: str | None, handlers: set[Path]
) -> Iterator[tuple[str, tuple[int, int]]]:
    for path in _candidates(folder, handler, handlers):
        try:
            status = path.stat()
        except OSError:
            # Editors replace files; the next look finds it.
            continue
        yield str(path.relative_to(folder)), (status.st_size, status.st_mtime_ns)


def _candidates(folder: Path, handler: str | None, handlers: set[Path]) -> Iterable[Path]:
    if handler is not None:
        beside = [path for path in folder.glob("*.py") if path not in handlers]
        return [folder / handler, *beside]
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__" and name[0] != "."]
        found += [folder / place / name for name in names if name[0] != "."]
        if len(found) > _MOST_FILES:
            break
    return found
