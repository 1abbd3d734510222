"""What a snapshot says: the settings and, as ``model_snapshot``, the registered models."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from ..model_store import snapshot
from .properties import format_properties

if TYPE_CHECKING:
    from .config import Config
    from .registry import Registry

# Secrets, what holds for one start only, and what must be asked for anew each time.
_NOT_KEPT = frozenset(
    {
        "allow_open_listeners",
        "api_keys",
        "authorization",
        "disable_token_authorization",
        "enable_envvars_config",
        "keystore_pass",
        "load_models",
        "log_file",
        "log_location",
        "metrics_location",
        "model_snapshot",
        "snapshots",
        "snapshot_dir",
    }
)

logger = logging.getLogger("flambeau.snapshot")


class _Draft(NamedTuple):
    """What was registered at a time."""

    occasion: snapshot.Occasion
    at: float
    models: dict[str, dict[str, dict[str, object]]]


class Snapshots:
    """Writes a snapshot of the registry after each change, in order, off the event loop.

    Of changes that come while another snapshot is written, the last one counts: a snapshot holds
    everything, and one for each of many models would be work that grows with their square.
    """

    def __init__(self, config: Config, registry: Registry) -> None:
        self._config = config
        self._registry = registry
        self._writer = ThreadPoolExecutor(1, "snapshots")
        self._lock = threading.Lock()
        self._waiting: deque[_Draft] = deque()

    def take(self, occasion: snapshot.Occasion) -> None:
        """Write down what is registered now."""
        draft = _Draft(occasion, time.time(), self._registry.snapshot())
        with self._lock:
            if self._waiting and self._waiting[-1].occasion == occasion:
                self._waiting[-1] = draft
                return
            self._waiting.append(draft)
        self._writer.submit(self._write_next)

    def close(self) -> None:
        """Wait until everything is written."""
        self._writer.shutdown()

    def _write_next(self) -> None:
        with self._lock:
            draft = self._waiting.popleft()
        name = snapshot.name_at(draft.at, draft.occasion)
        try:
            text = render(self._config, draft.models, name, draft.at)
            snapshot.write(self._config.snapshot_dir, name, text)
        except OSError as error:
            logger.error("snapshot %s cannot be written: %s", name, error.strerror)


def render(
    config: Config, models: dict[str, dict[str, dict[str, object]]], name: str, now: float
) -> str:
    """The text of a snapshot, in the form of TorchServe's."""
    summary = {
        "name": name,
        "modelCount": sum(map(len, models.values())),
        "created": int(now * 1000),
        "models": models,
    }
    entries = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value, source in config.explain()
        if source != "default" and key not in _NOT_KEPT and value is not None
    }
    entries["model_snapshot"] = json.dumps(summary, indent=2)
    when = time.strftime("%a %b %d %H:%M:%S %Z %Y", time.localtime(now))
    return f"#Saving snapshot\n#{when}\n" + format_properties(entries)
