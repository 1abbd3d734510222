"""What a server serves, as plain data, so that another one can serve the same.

A model is written down as what was asked for, not as what came of it: what nobody said is decided
by the configuration of the new server, as at any start.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from .. import FlambeauError
from .errors import HandoverError
from .precedence import Registration
from .startup import load_model
from .workflows import WorkflowRegistration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..model_store.store import ModelStore
    from .config import Config
    from .registry import Registry
    from .workflows import Workflows

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Known:
    """A registered version. ``asked`` are the fields of its registration.

    ``workers`` are its least, its most and its present number, where they are not what comes of
    the registration; ``fetched`` is the name in the store of an archive that was fetched for it.
    """

    name: str
    version: str
    asked: Mapping[str, Any]
    at_startup: bool
    is_ready: bool
    workers: tuple[int, int, int] | None = None
    fetched: str | None = None

    @property
    def said(self) -> tuple[object, ...]:
        """What only somebody's call can change."""
        return (self.name, self.version, dict(self.asked), self.workers and self.workers[:2])


@dataclass(frozen=True, slots=True)
class Inventory:
    """``nodes`` are the least and the most workers of nodes of workflows that were scaled;
    ``load_models`` is what the configuration says.
    """

    models: tuple[Known, ...]
    defaults: Mapping[str, str]
    workflows: tuple[Mapping[str, Any], ...]
    nodes: tuple[tuple[str, str, int, int], ...]
    load_models: list[list[str | None]]

    def as_json(self) -> dict[str, Any]:
        """In types that JSON has."""
        return asdict(self)

    @classmethod
    def read(cls, text: Mapping[str, Any]) -> Inventory:
        """What ``as_json`` gave, in this or in another release of flambeau."""
        models = []
        for each in text["models"]:
            known = _made(Known, each)
            workers = None if known.workers is None else (*known.workers,)
            models.append(replace(known, workers=workers))
        nodes = [(name, version, least, most) for name, version, least, most in text["nodes"]]
        return cls(
            tuple(models),
            text["defaults"],
            (*text["workflows"],),
            tuple(nodes),
            text["load_models"],
        )

    def says_as(self, other: Inventory) -> bool:
        """Nobody has registered, scaled or removed anything from one to the other."""
        return (
            [each.said for each in self.models] == [each.said for each in other.models]
            and self.defaults == other.defaults
            and self.workflows == other.workflows
            and self.nodes == other.nodes
        )


def take_inventory(registry: Registry, workflows: Workflows, config: Config) -> Inventory:
    """What is registered now."""
    models, nodes = [], []
    for record, workers in registry.records():
        name, version = record.spec.key
        if record.of_workflow:
            nodes += [] if workers is None else [(name, version, *workers[:2])]
            continue
        asked = {**_fields(record.asked), "replace": False, "keep_old": False, "synchronous": True}
        fetched = record.stored.fetched
        models.append(
            Known(
                name,
                version,
                {**asked, "url": record.asked.url, "model_name": name},
                record.loaded_at_startup,
                registry.is_ready(name, version),
                workers,
                None if fetched is None else fetched.name,
            )
        )
    asked_workflows = tuple(asdict(each) for each in workflows.registrations())
    return Inventory(
        tuple(models), registry.defaults(), asked_workflows, tuple(nodes), _listed(config)
    )


async def restore(
    inventory: Inventory,
    registry: Registry,
    workflows: Workflows,
    store: ModelStore | None,
    config: Config,
) -> None:
    """Serve what is listed, and what the configuration names beyond what it named before.

    Raises HandoverError if something does not come up that did.
    """
    kept, added = _wanted(inventory, store, config)
    registry.awaited.update(each.name for each in kept)
    failures = await asyncio.gather(
        *(_restore(registry, store, each) for each in kept),
        *(
            load_model(registry, name or url, Registration(url, name), at_startup=True)
            for name, url in added
        ),
        *(_restore_workflow(workflows, each) for each in inventory.workflows),
    )
    for name, version, least, most in inventory.nodes:
        if registry.has(name, version):
            await registry.scale(name, version, least, most, synchronous=True)
    for name, version in inventory.defaults.items():
        if registry.has(name, version):
            registry.set_default(name, version)
    found = [failure for failure in failures if failure is not None]
    if found:
        raise HandoverError(f"Not everything can be served: {'; '.join(found)}")


def _wanted(
    inventory: Inventory, store: ModelStore | None, config: Config
) -> tuple[list[Known], list[tuple[str | None, str]]]:
    """What is to be served of what is registered, and what besides."""
    models = list(inventory.models)
    if _listed(config) == inventory.load_models:
        return models, []
    named: list[tuple[str | None, str]] = []
    if config.loads_all_models:
        named = [] if store is None else [(None, url) for url in store.archives()]
    else:
        named = [*config.load_models]
    urls = {url for _, url in named}
    kept = [each for each in models if not each.at_startup or each.asked["url"] in urls]
    there = {each.asked["url"] for each in kept}
    return kept, [each for each in named if each[1] not in there]


async def _restore(registry: Registry, store: ModelStore | None, known: Known) -> str | None:
    """Why the version is not served, None if it is, or was not served before."""
    name, version = known.name, known.version
    registration = _made(Registration, known.asked)
    if known.workers is not None:
        registration = replace(registration, initial_workers=known.workers[2])
    try:
        if known.fetched is not None and store is not None:
            stored = await asyncio.to_thread(store.find_fetched, registration.url, known.fetched)
            registration = replace(registration, borrowed=stored)
    except FlambeauError as error:
        failure: str | None = f"{registration.url}: {error}"
    else:
        failure = await load_model(registry, name, registration, at_startup=known.at_startup)
    if failure is None and not registry.has(name, version):
        failure = f"{registration.url} does not hold version {version} of model {name} any more"
    if failure is None and known.workers is not None:
        await registry.scale(name, version, *known.workers[:2], synchronous=True)
    if failure is None and known.is_ready and not registry.is_ready(name, version):
        failure = f"{name} {version} has no worker"
    return failure if known.is_ready else None


async def _restore_workflow(workflows: Workflows, asked: Mapping[str, Any]) -> str | None:
    try:
        await workflows.register(_made(WorkflowRegistration, asked))
    except FlambeauError as error:
        return f"workflow {asked['url']}: {error}"
    return None


def _fields(registration: Registration) -> dict[str, Any]:
    """What is plain data; a borrowed archive is not."""
    return {
        each.name: getattr(registration, each.name)
        for each in fields(registration)
        if each.name != "borrowed"
    }


def _made(kind: type[_T], given: Mapping[str, Any]) -> _T:
    """An object of what is known here of ``given``: the other side may be another release."""
    names = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in given.items() if name in names})


def _listed(config: Config) -> list[list[str | None]]:
    return [[name, url] for name, url in config.load_models]
