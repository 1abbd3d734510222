"""What a server gives to its successor, and how it begins as one.

``handover`` is how the two talk; this is what they say of their models, keys and listeners.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from .errors import DrainingError, HandoverError
from .inventory import Inventory, restore, take_inventory
from .tokens import TokenAccess

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..model_store.store import ModelStore
    from .access import Access
    from .app import Services
    from .config import Config
    from .entrances import Entrances
    from .handover import Predecessor
    from .inherited import ListeningSocket
    from .registry import Registry
    from .workflows import Workflows

logger = logging.getLogger("flambeau.server")


class OccupiedPlace:
    """The place of a server that serves; ``leave`` is called when a successor has it."""

    def __init__(self, services: Services, entrances: Entrances, leave: Callable[[], None]) -> None:
        self._services = services
        self._entrances = entrances
        self._offered: Inventory | None = None
        self.leave = leave

    def offer(self) -> tuple[dict[str, Any], Sequence[ListeningSocket]]:
        """What is registered, the tokens that clients have, and the listening sockets."""
        if self._services.is_starting():
            raise HandoverError("it is still starting")
        self._offered = self._inventory()
        access = self._services.access
        tokens = access.keys() if isinstance(access, TokenAccess) else None
        return {"inventory": self._offered.as_json(), "tokens": tokens}, self._entrances.sockets

    def freeze(self) -> None:
        """Refuse what would change the models; raises HandoverError if they were changed."""
        changes, registry = self._services.changes, self._services.registry
        if changes.are_running or registry.is_replacing:
            raise HandoverError("its models are being changed; try again when that is done")
        if self._offered is None or not self._offered.says_as(self._inventory()):
            raise HandoverError("its models were changed while the new server loaded; try again")
        changes.refusal = DrainingError(
            "This server is being replaced; ask again, and its successor answers."
        )

    def thaw(self) -> None:
        """Let models be changed again."""
        self._services.changes.refusal = None

    def _inventory(self) -> Inventory:
        services = self._services
        return take_inventory(services.registry, services.workflows, services.config)


async def load_beside(
    predecessor: Predecessor,
    registry: Registry,
    workflows: Workflows,
    store: ModelStore | None,
    config: Config,
    access: Access,
    stop: asyncio.Event,
) -> None:
    """Serve what ``predecessor`` serves, before anybody asks for it, and have its word to go on.

    Raises HandoverError if that cannot be, or ``stop`` comes first.
    """
    offered = predecessor.offered
    if isinstance(access, TokenAccess) and offered["tokens"] is not None:
        access.adopt(offered["tokens"])
    logger.info("the models of the server before, pid %d, are being loaded", predecessor.pid)

    async def load() -> None:
        await restore(Inventory.read(offered["inventory"]), registry, workflows, store, config)
        await predecessor.ready()

    loading = asyncio.ensure_future(load())
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait([loading, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not loading.done():
        loading.cancel()
        await asyncio.wait([loading])
        raise HandoverError("The new server was told to stop before it could serve.")
    loading.result()
