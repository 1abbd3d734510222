"""TorchServe's ``metrics.yaml``: which metrics there are to be.

Of ``ts_metrics`` only the names count. Of ``model_metrics`` everything does: what a model reports
under a listed name has the listed type, unit and dimension names, whatever the worker called them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from .errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONGEST_FILE = 1 << 20
KINDS = ("counter", "gauge", "histogram")


class Listed(NamedTuple):
    """A metric of ``model_metrics``."""

    name: str
    kind: str
    unit: str
    dimensions: tuple[str, ...]


DEFAULTS = {
    name: Listed(name, "gauge", "ms", ("ModelName", "Level"))
    for name in ("HandlerTime", "PredictionTime")
}
"""What TorchServe's own file lists for models."""


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """The metrics that are wanted: of the host by name (None: all), of models as listed.

    With ``detects_models`` what a model reports need not be listed.
    """

    host: frozenset[str] | None = None
    model: dict[str, Listed] = field(default_factory=lambda: DEFAULTS)
    detects_models: bool = True

    def wants_host(self, name: str) -> bool:
        return self.host is None or name in self.host

    def wants_model(self, name: str) -> bool:
        return self.detects_models or name in self.model

    def for_workers(self) -> list[list[Any]]:
        """What a worker is told: name, type, unit and dimension names of each listed metric."""
        return [[*listed[:3], list(listed.dimensions)] for listed in self.model.values()]


def read_metrics_config(path: Path | None, *, detect_models: bool) -> MetricsConfig:
    """What ``path`` lists; everything without a file.

    Raises ConfigError, with file and place, for a file that is not there or says something else
    than it may: TorchServe's workers do not start with such a file.
    """
    if path is None:
        return MetricsConfig()
    try:
        with path.open("rb") as file:
            document = yaml.safe_load(file.read(LONGEST_FILE))
    except FileNotFoundError:
        raise _error(path, "there is no such file.") from None
    except OSError as error:
        raise _error(path, f"cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise _error(path, f"is not YAML: {error}") from error
    if not isinstance(document, dict):
        raise _error(path, "must have the sections ts_metrics and model_metrics.")
    host = frozenset(str(entry["name"]) for _, _, entry in _entries(path, document, "ts_metrics"))
    if not document.get("model_metrics"):
        raise _error(
            path,
            "has no section model_metrics: list the metrics of models there, at least "
            "'gauge: [{name: PredictionTime, unit: ms, dimensions: [ModelName, Level]}]'.",
        )
    listed = [
        _listed(path, place, kind, entry)
        for place, kind, entry in _entries(path, document, "model_metrics")
    ]
    return MetricsConfig(host, {metric.name: metric for metric in listed}, detect_models)


def _entries(
    path: Path, document: dict[str, Any], section: str
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Each entry with its place in the file and its type."""
    kinds = document.get(section) or {}
    if not isinstance(kinds, dict):
        raise _error(path, f"{section} must hold lists called {', '.join(KINDS)}.")
    for kind, entries in kinds.items():
        if kind not in KINDS:
            raise _error(path, f"{section}: {kind!r} is no type of metric; use {', '.join(KINDS)}.")
        if not isinstance(entries or [], list):
            raise _error(path, f"{section}.{kind} must be a list of metrics.")
        for number, entry in enumerate(entries or ()):
            place = f"{section}.{kind}[{number}]"
            if not isinstance(entry, dict) or "name" not in entry:
                raise _error(path, f"{place}: 'name' is missing.")
            yield place, kind, entry


def _listed(path: Path, place: str, kind: str, entry: dict[str, Any]) -> Listed:
    for key in ("unit", "dimensions"):
        if key not in entry:
            raise _error(path, f"{place} ({entry['name']}): '{key}' is missing.")
    dimensions = entry["dimensions"] or []
    if not isinstance(dimensions, list):
        raise _error(path, f"{place} ({entry['name']}): 'dimensions' must be a list of names.")
    return Listed(
        str(entry["name"]), kind, str(entry["unit"] or "unit"), tuple(map(str, dimensions))
    )


def _error(path: Path, what: str) -> ConfigError:
    return ConfigError(f"metrics_config={path}: {what}")
