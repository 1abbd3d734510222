"""Metrics that handlers report through ``context.metrics``, added up for Prometheus.

Names, labels and help texts are TorchServe's: the dimensions of the call, then ``Hostname``.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

from prometheus_client import Histogram
from prometheus_client.core import Metric

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_SERIES = 10_000
"""Label sets that handlers may make, all of them together; a runaway label must not fill memory."""
BOUNDS = tuple(float(bound) for bound in Histogram.DEFAULT_BUCKETS)

_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_:]")
_NOT_IN_LABELS = re.compile(r"[^a-zA-Z0-9_]")
_KINDS = ("counter", "gauge", "histogram")

logger = logging.getLogger(__name__)

Labels = tuple[tuple[str, str], ...]


class _Family:
    """One metric: its series by their labels. A histogram's series is its counts and its sum."""

    def __init__(self, kind: str, unit: str) -> None:
        self.kind = kind
        self.unit = unit
        self.series: dict[Labels, float] = {}
        self.counts: dict[Labels, list[int]] = {}


class HandlerMetrics:
    """Adds up what workers send: counters grow, gauges keep the last value."""

    def __init__(self, hostname: str) -> None:
        self._hostname = hostname
        self._families: dict[str, _Family] = {}
        self._series = 0
        self._is_full = False

    def record(self, samples: Sequence[Sequence[Any]]) -> None:
        """Take samples of (name, type, unit, value, dimensions); nonsense is left out."""
        for sample in samples:
            try:
                name, kind, unit, value, dimensions = sample
                labels = tuple(
                    # Lone surrogates would make every later exposition fail.
                    (_NOT_IN_LABELS.sub("_", str(label)), _encodable(of))
                    for label, of in dimensions
                )
                self._add(
                    _NOT_IN_NAMES.sub("_", str(name)),
                    str(kind),
                    _encodable(unit),
                    float(value),
                    labels,
                )
            except (TypeError, ValueError) as error:
                logger.debug("a handler's metric was left out: %s", error)

    def forget(self, model: str) -> None:
        """Drop the series of a model that is gone."""
        for family in self._families.values():
            for labels in [each for each in family.series if ("ModelName", model) in each]:
                del family.series[labels]
                family.counts.pop(labels, None)
                self._series -= 1

    def families(self) -> Iterator[Metric]:
        """What there is now, for the Prometheus library."""
        for name, family in self._families.items():
            text = f"Torchserve prometheus {family.kind} metric with unit: {family.unit}"
            metric = Metric(name, text, family.kind)
            for labels, value in family.series.items():
                named = {**dict(labels), "Hostname": self._hostname}
                if family.kind == "histogram":
                    _add_histogram(metric, named, family.counts[labels], value)
                else:
                    metric.add_sample(name, named, value)
            yield metric

    def _add(self, name: str, kind: str, unit: str, value: float, labels: Labels) -> None:
        if kind not in _KINDS or not name or name[0].isdigit():
            raise ValueError(f"{kind} {name}")
        family = self._families.setdefault(name, _Family(kind, unit))
        if family.kind != kind:
            raise ValueError(f"{name} is a {family.kind}, not a {kind}")
        if labels not in family.series and not self._admit():
            return
        if kind == "gauge":
            family.series[labels] = value
            return
        family.series[labels] = family.series.get(labels, 0.0) + value
        if kind == "histogram":
            counts = family.counts.setdefault(labels, [0] * len(BOUNDS))
            for index, bound in enumerate(BOUNDS):
                counts[index] += value <= bound

    def _admit(self) -> bool:
        if self._series < MAX_SERIES:
            self._series += 1
            return True
        if not self._is_full:
            self._is_full = True
            logger.warning(
                "handlers made more than %d label sets; new ones are dropped. "
                "Use labels of few values.",
                MAX_SERIES,
            )
        return False


def _encodable(value: object) -> str:
    return str(value).encode(errors="replace").decode()


def _add_histogram(
    metric: Metric, labels: dict[str, str], counts: Sequence[int], total: float
) -> None:
    for bound, count in zip(BOUNDS, counts, strict=True):
        le = "+Inf" if bound == float("inf") else str(bound)
        metric.add_sample(f"{metric.name}_bucket", {**labels, "le": le}, count)
    metric.add_sample(f"{metric.name}_count", labels, counts[-1])
    metric.add_sample(f"{metric.name}_sum", labels, total)
