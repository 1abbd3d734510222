"""TorchServe's metrics before there was a cache, for handlers and test rigs that have them."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any

from ..metrics import UNITS, CachingMetric, Dimension, Metrics, MetricTypes

if TYPE_CHECKING:
    from collections.abc import Sequence


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
        self.unit = UNITS.get(unit, unit) or "unit"
        self.metric_method = metric_method
        self.value = value
        self.dimensions = dimensions
        self.request_id = request_id

    def update(self, value: Any) -> None:
        """Report ``value`` as a counter, at once; ``self.value`` stays. So it is in TorchServe."""
        names = [dimension.name for dimension in self.dimensions]
        values = [dimension.value for dimension in self.dimensions]
        metric = CachingMetric(self.name, self.unit, names)
        metric.add_or_update(value, values, self.request_id or "")

    def reset(self) -> None:
        self.update(0)

    def to_dict(self) -> dict[str, Any]:
        return {
            "MetricName": self.name,
            "Value": self.value,
            "Unit": self.unit,
            "Dimensions": self.dimensions,
            "Timestamp": int(time.time()),
            "HostName": socket.gethostname(),
            "RequestId": self.request_id,
        }

    def __str__(self) -> str:
        dimensions = ",".join(str(dimension) for dimension in self.dimensions)
        tail = f"#hostname:{socket.gethostname()},{int(time.time())}"
        tail += f",{self.request_id}" if self.request_id else ""
        return f"{self.name}.{self.unit}:{self.value}|#{dimensions}|{tail}"


class MetricsStore(Metrics):
    """Keeps what it is told in ``store``; nothing is sent anywhere."""

    def __init__(self, request_ids: dict[int, str] | str | None, model_name: str | None) -> None:
        super().__init__(model_name)
        self.request_ids = request_ids
        self._kept: list[Metric] = []
        self._counters: dict[tuple[str, ...], Metric] = {}

    @property
    def store(self) -> list[Metric]:  # type: ignore[override]
        """The metrics in the order of their first calls; counters are added up."""
        return self._kept

    def add_metric(
        self,
        name: str,
        value: Any,
        unit: str | None,
        idx: Any = None,
        dimensions: Sequence[Any] | None = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> None:
        known = [*(dimensions or ()), *self._missing(dimensions)]
        self._keep(name, value, unit or "", known, self._request(idx) or None, metric_type)

    def add_error(self, name: str, value: Any, dimensions: Sequence[Any] | None = ()) -> None:
        known = [*(dimensions or ()), Dimension("Level", "Error")]
        self._keep(name, value, "", known, None, MetricTypes.GAUGE)

    def _keep(
        self,
        name: str,
        value: Any,
        unit: str,
        dimensions: list[Any],
        request: str | None,
        metric_type: MetricTypes,
    ) -> None:
        key = (name, unit, str(request), *map(str, dimensions))
        if metric_type is MetricTypes.COUNTER and key in self._counters:
            self._counters[key].value += value
            return
        metric = Metric(name, value, unit, dimensions, request, metric_type.value)
        self._counters[key] = metric
        self._kept.append(metric)
