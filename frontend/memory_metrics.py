"""What Prometheus is told of the memory that handlers lack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .memory_limits import safe_batch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .lifecycle import VersionKey
    from .roster import Version

_LABELS = ["model", "version"]


class MemoryMetrics(Collector):
    """Of all ``versions`` that are there when somebody scrapes."""

    def __init__(self, versions: Mapping[VersionKey, Version]) -> None:
        self._versions = versions

    def collect(self) -> Iterator[Metric]:
        """The families of this moment."""
        shortages = CounterMetricFamily(
            "flambeau_out_of_memory_total",
            "Calls of handlers that ran out of memory",
            labels=_LABELS,
        )
        sizes = GaugeMetricFamily(
            "flambeau_safe_batch_size",
            "Requests that fit into memory at once, where that is less than batchSize",
            labels=_LABELS,
        )
        for key, version in self._versions.items():
            shortages.add_metric(key, version.shortages)
            size = safe_batch(version)
            if size is not None:
                sizes.add_metric(key, size)
        yield from (shortages, sizes)
