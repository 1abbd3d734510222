"""TorchServe's ``metrics.yaml``: which metrics there are to be."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from pathlib import Path

LONGEST_FILE = 1 << 20

logger = logging.getLogger("flambeau.metrics")


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """Names of the metrics that are wanted; None: all of them."""

    host: frozenset[str] | None = None
    model: frozenset[str] | None = None

    def wants_host(self, name: str) -> bool:
        return self.host is None or name in self.host

    def wants_model(self, name: str) -> bool:
        return self.model is None or name in self.model


NOTHING = MetricsConfig(frozenset(), frozenset())


def read_metrics_config(path: Path | None, *, detect_models: bool) -> MetricsConfig:
    """What ``path`` lists under ``ts_metrics`` and ``model_metrics``; everything without a file.

    With ``detect_models`` a model's metrics need not be listed. As in TorchServe a file that cannot
    be read is an error in the log, and means no metrics.
    """
    if path is None:
        return MetricsConfig()
    try:
        with path.open("rb") as file:
            document = yaml.safe_load(file.read(LONGEST_FILE))
        host, model = _names(document, "ts_metrics"), _names(document, "model_metrics")
    except (
        OSError,
        ValueError,
        TypeError,
        AttributeError,
        KeyError,
        RecursionError,
        yaml.YAMLError,
    ) as error:
        logger.error("metrics_config cannot be read, so there are no metrics: %s", error)
        return NOTHING
    return MetricsConfig(host, None if detect_models else model)


def _names(document: Any, section: str) -> frozenset[str]:
    """The names in the lists ``counter``, ``gauge`` and ``histogram`` of a section."""
    found = set()
    kinds = (document or {}).get(section) or {}
    for kind in ("counter", "gauge", "histogram"):
        for metric in kinds.get(kind) or ():
            found.add(str(metric["name"]))
    return frozenset(found)
