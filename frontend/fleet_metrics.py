"""Metrics that are read off the fleet at each scrape."""

from __future__ import annotations

from collections import Counter
from time import monotonic
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from .memory_limits import safe_batch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.core import Metric

    from .lifecycle import VersionKey
    from .versions import Version


def count_workers(
    versions: Mapping[VersionKey, Version],
) -> Iterator[tuple[str, str, str, int]]:
    """Model, version, state, and how many of its workers are in that."""
    for (name, version), known in versions.items():
        states = Counter(slot.shown_state for slot in known.slots.values())
        for state, count in states.items():
            yield name, version, state, count


def fleet_families(versions: Mapping[VersionKey, Version]) -> Iterator[Metric]:
    """What waits, how often versions got more or fewer workers, and what they lack memory for."""
    labels = ["model", "version"]
    waiting = GaugeMetricFamily("flambeau_queue_requests", "Requests that wait", labels=labels)
    oldest = GaugeMetricFamily(
        "flambeau_queue_oldest_seconds",
        "Time that the request has waited which has waited longest",
        labels=labels,
    )
    scalings = CounterMetricFamily(
        "flambeau_scalings_total",
        "Changes of the number of workers by load, by direction",
        labels=["model", "version", "direction"],
    )
    now = monotonic()
    for key, version in versions.items():
        waiting.add_metric(list(key), len(version.queue))
        oldest.add_metric(list(key), version.queue.oldest_wait(now))
        if version.is_elastic:
            for direction, count in version.scaled.items():
                scalings.add_metric([*key, direction], count)
    yield from (waiting, oldest, scalings)
    yield from _memory_families(versions)


def _memory_families(versions: Mapping[VersionKey, Version]) -> Iterator[Metric]:
    shortages = CounterMetricFamily(
        "flambeau_out_of_memory_total",
        "Calls of handlers that ran out of memory",
        labels=["model", "version"],
    )
    sizes = GaugeMetricFamily(
        "flambeau_safe_batch_size",
        "Requests that fit into memory at once, where that is less than batchSize",
        labels=["model", "version"],
    )
    for key, version in versions.items():
        shortages.add_metric(key, version.shortages)
        size = safe_batch(version)
        if size is not None:
            sizes.add_metric(key, size)
    yield from (shortages, sizes)
