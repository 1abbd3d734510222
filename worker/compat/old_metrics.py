"""TorchServe's metrics before there was a cache, for handlers and test rigs that have them."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any

from ..metrics import Dimension

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_UNITS = {"ms": "Milliseconds", "percent": "Percent", "count": "Count", "MB": "Megabytes"}
_UNITS |= {"s": "Seconds", "GB": "Gigabytes", "kB": "Kilobytes", "B": "Bytes", "": "unit"}


class Metric:
    """One value with its dimensions; ``str`` is a line in TorchServe's form."""

    def __init__(
        self,
        name: str,
        value: Any,
        unit: str,
        dimensions: Sequence[Any],
        request_id: str | None = None,
        metric_method: str | None = None,
    ) -> None:
        self.name = name
        self.unit = _UNITS.get(unit, unit)
        self.metric_method = metric_method
        self.value = value
        self.dimensions = dimensions
        self.request_id = request_id

    def update(self, value: Any) -> None:
        """Add to a counter, replace anything else."""
        self.value = self.value + value if self.metric_method == "counter" else value

    def reset(self) -> None:
        self.value = 0

    def to_dict(self) -> dict[str, Any]:
        return {
            "MetricName": self.name,
            "Value": self.value,
            "Unit": self.unit,
            "Dimensions": [dimension.to_dict() for dimension in self.dimensions],
            "Timestamp": int(time.time()),
            "HostName": socket.gethostname(),
            "RequestId": self.request_id,
        }

    def __str__(self) -> str:
        dimensions = ",".join(str(dimension) for dimension in self.dimensions)
        tail = f"#hostname:{socket.gethostname()},{int(time.time())}"
        tail += f",{self.request_id}" if self.request_id else ""
        return f"{self.name}.{self.unit}:{self.value}|#{dimensions}|{tail}"


class MetricsStore:
    """Keeps what it is told in ``store``; nothing is sent anywhere."""

    def __init__(self, request_ids: Mapping[int, str] | None, model_name: str | None) -> None:
        self.store: list[Metric] = []
        self.request_ids = request_ids
        self.model_name = model_name
        self.cache: dict[str, Metric] = {}

    def add_counter(
        self, name: str, value: Any, idx: Any = None, dimensions: Sequence[Any] | None = None
    ) -> None:
        self._add(name, value, "count", idx, dimensions, "counter")

    def add_time(
        self,
        name: str,
        value: Any,
        idx: Any = None,
        unit: str = "ms",
        dimensions: Sequence[Any] | None = None,
    ) -> None:
        """ValueError for a unit other than ms and s."""
        if unit not in ("ms", "s"):
            raise ValueError("the unit for a timed metric should be one of ['ms', 's']")
        self._add(name, value, unit, idx, dimensions)

    def add_size(
        self,
        name: str,
        value: Any,
        idx: Any = None,
        unit: str = "MB",
        dimensions: Sequence[Any] | None = None,
    ) -> None:
        """ValueError for a unit other than MB, kB, GB and B."""
        if unit not in ("MB", "kB", "GB", "B"):
            raise ValueError("The unit for size based metric is one of ['MB','kB', 'GB', 'B']")
        self._add(name, value, unit, idx, dimensions)

    def add_percent(
        self, name: str, value: Any, idx: Any = None, dimensions: Sequence[Any] | None = None
    ) -> None:
        self._add(name, value, "percent", idx, dimensions)

    def add_error(self, name: str, value: Any, dimensions: Sequence[Any] | None = None) -> None:
        self._add(name, value, "", None, dimensions)

    def add_metric(
        self,
        name: str,
        value: Any,
        unit: str,
        idx: Any = None,
        dimensions: Sequence[Any] | None = None,
    ) -> None:
        self._add(name, value, unit, idx, dimensions)

    def _add(
        self,
        name: str,
        value: Any,
        unit: str,
        idx: Any,
        dimensions: Sequence[Any] | None,
        method: str | None = None,
    ) -> None:
        ids = self.request_ids or {}
        request = ids.get(idx) if idx is not None else ",".join(ids.values()) or None
        own = [Dimension("ModelName", self.model_name), Dimension("Level", "Model")]
        known = [*(dimensions or ()), *(own if request else [Dimension("Level", "Error")])]
        key = "-".join([name, unit, str(request), *map(str, known)])
        if method == "counter" and key in self.cache:
            self.cache[key].update(value)
            return
        self.cache[key] = Metric(name, value, unit, known, request, method)
        self.store.append(self.cache[key])
