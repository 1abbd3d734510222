"""Metrics that are read off the fleet at each scrape."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.core import Metric

    from .lifecycle import VersionKey
    from .roster import Version


def count_workers(
    versions: Mapping[VersionKey, Version],
) -> Iterator[tuple[str, str, str, int]]:
    """Model, version, state, and how many of its workers are in that."""
    for (name, version), known in versions.items():
        states = Counter(slot.shown_state for slot in known.slots.values())
        for state, count in states.items():
            yield name, version, state, count


def fleet_families(versions: Mapping[VersionKey, Version]) -> Iterator[Metric]:
    """How often versions got more or fewer workers by themselves."""
    scalings = CounterMetricFamily(
        "flambeau_scalings_total",
        "Changes of the number of workers by load, by direction",
        labels=["model", "version", "direction"],
    )
    for key, version in versions.items():
        if version.is_elastic:
            for direction, count in version.scaled.items():
                scalings.add_metric([*key, direction], count)
    yield scalings
