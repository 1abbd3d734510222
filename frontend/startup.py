"""What is served from the start: the models that the configuration or a snapshot names."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from .. import FlambeauError
from ..model_store.store import default_model_name
from .lifecycle import VersionState
from .precedence import Registration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..model_store.store import ModelStore
    from .config import Config, VersionSettings
    from .engine import Engine
    from .lifecycle import VersionKey
    from .registry import Registry

logger = logging.getLogger("flambeau.registry")


async def load_startup_models(
    registry: Registry, store: ModelStore | None, config: Config
) -> list[str]:
    """Load what is to be served; one that fails is logged and left out.

    Returns a line for each archive that is not served.
    """
    if config.model_snapshot is not None:
        return await _restore(registry, config.model_snapshot)
    wanted = config.load_models
    if config.loads_all_models and store is not None:
        wanted = tuple((None, url) for url in store.archives())
    named = [(name or default_model_name(url), Registration(url, name)) for name, url in wanted]
    registry.awaited.update(name for name, _ in named)
    failures = await asyncio.gather(
        *(load_model(registry, name, registration, at_startup=True) for name, registration in named)
    )
    return [failure for failure in failures if failure is not None]


async def first_failure(engine: Engine, keys: Sequence[VersionKey], failed: Sequence[str]) -> str:
    """Why a model of the start is not served: what has ``failed``, else the first of ``keys`` that
    is given up, as soon as one is.
    """
    if failed:
        return failed[0]
    names: list[str] = []

    def has_failed() -> bool:
        versions = filter(None, map(engine.version, keys))
        names[:] = [each.key[0] for each in versions if each.state is VersionState.FAILED]
        return bool(names)

    await engine.wait_until(None, has_failed, None)
    return f"model {names[0]} was given up"


async def _restore(
    registry: Registry, models: Mapping[str, Mapping[str, VersionSettings]]
) -> list[str]:
    """Register what a snapshot lists, with its settings; lines for what cannot be."""
    wanted = [
        (name, version, settings)
        for name, versions in models.items()
        for version, settings in versions.items()
    ]
    registry.awaited.update(models)
    failures = await asyncio.gather(*(_restore_version(registry, *each) for each in wanted))
    for name, version, settings in wanted:
        if settings.default_version and registry.has(name, version):
            registry.set_default(name, version)
    return [failure for failure in failures if failure is not None]


async def _restore_version(
    registry: Registry, name: str, version: str, settings: VersionSettings
) -> str | None:
    if settings.mar_name is None:
        return f"{name} {version}: the snapshot does not name its archive"
    minimum = settings.min_workers or 0
    registration = Registration(
        settings.mar_name,
        model_name=name,
        batch_size=settings.batch_size,
        max_batch_delay=settings.max_batch_delay,
        response_timeout=settings.response_timeout,
        startup_timeout=settings.startup_timeout,
        initial_workers=minimum,
    )
    failure = await load_model(registry, name, registration, at_startup=False)
    maximum = max(minimum, settings.max_workers or 0)
    if failure is None and registry.has(name, version) and maximum > minimum:
        await registry.scale(name, version, minimum, maximum)
    return failure


async def load_model(
    registry: Registry, name: str, registration: Registration, *, at_startup: bool
) -> str | None:
    """Load one model; why it is not served, None if it is.

    ``name`` is what clients will ask for, as far as that is known before.
    """
    url = registration.url
    try:
        await registry.load(registration, at_startup=at_startup)
    except Exception as error:
        # One archive must not keep the others from being served, whatever is wrong with it.
        unexpected = not isinstance(error, FlambeauError)
        logger.error("Failed to load model: %s: %s", url, error, exc_info=unexpected)
        return f"{url}: {error}"
    finally:
        registry.awaited.discard(name)
    return None
