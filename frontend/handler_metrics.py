"""Metrics that models report, added up for Prometheus.

A reading comes from a handler's call, by the wire, or from a line that a handler printed. Names,
labels and help texts are TorchServe's: the dimensions of the call, under the names that
``metrics.yaml`` has for them, then ``Hostname``. A metric that a handler has declared itself has
its own help text, and the labels ``model`` and ``version``.

What models report must not fill memory: names and label sets of each are bounded.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from prometheus_client import Histogram
from prometheus_client.core import Metric

from .metrics_config import KINDS, MetricsConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .lifecycle import VersionKey

MAX_SERIES = 10_000
"""Label sets that one model may make; a runaway label must not fill memory."""
LONGEST_TEXT = 1000
"""Characters of a name, a label or its value."""
MAX_LABELS = 32
BOUNDS = tuple(float(bound) for bound in Histogram.DEFAULT_BUCKETS)

_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_:]")
_NOT_IN_LABELS = re.compile(r"[^a-zA-Z0-9_]")
_OF_THE_SERVER = re.compile(
    r"flambeau_.*|process_.*|ts_(inference|queue)_.*|Requests[245]XX|(Queue|WorkerThread|WorkerLoad)"
    r"Time|PredictionTime|CPUUtilization|(GPU)?Memory.*|Disk(Usage|Utilization|Available)"
    r"|GPUUtilization"
)
"""Names of the frontend's own metrics: a second one of such a name would spoil every scrape."""
_MOST_COMPLAINTS = 100

logger = logging.getLogger(__name__)

Labels = tuple[tuple[str, str], ...]


class Reading(NamedTuple):
    """One reported value; ``help`` is there for a metric that the handler has declared itself."""

    name: str
    kind: str
    unit: str
    value: float
    dimensions: Labels
    request: str = ""
    help: str | None = None
    bounds: tuple[float, ...] = BOUNDS


_PARTS_OF = {
    "histogram": ("_count", "_sum", "_bucket", "_created"),
    "counter": ("_total", "_created"),
}
_PARTS = ("_count", "_sum", "_bucket", "_created", "_total")
"""Ends of the names of samples that Prometheus's library makes of one metric."""
_LABELS_OF_OURS = frozenset({"Hostname", "le"})


class _Series:
    """The values of one label set; ``owner`` is the model, or version, that they go with."""

    __slots__ = ("counts", "owner", "value")

    def __init__(self, owner: VersionKey, buckets: int) -> None:
        self.owner = owner
        self.value = 0.0
        self.counts = [0] * buckets


class _Family:
    """One metric: its series by their labels."""

    def __init__(self, reading: Reading) -> None:
        self.kind = reading.kind
        self.is_declared = reading.help is not None
        self.help = reading.help or (
            f"Torchserve prometheus {reading.kind} metric with unit: {reading.unit}"
        )
        self.bounds = reading.bounds if reading.kind == "histogram" else ()
        self.series: dict[Labels, _Series] = {}


class HandlerMetrics:
    """Adds up what workers send: counters grow, gauges keep the last value.

    Without ``adds_all`` only what handlers have declared themselves is added up.
    """

    def __init__(self, hostname: str, wanted: MetricsConfig, *, adds_all: bool = True) -> None:
        self._hostname = hostname
        self._wanted = wanted
        self._adds_all = adds_all
        self._families: dict[str, _Family] = {}
        self._counts: dict[VersionKey, int] = {}
        self._complaints: set[str] = set()

    def record(self, key: VersionKey, samples: Sequence[Sequence[Any]]) -> list[Reading]:
        """Take samples of a version: name, type, unit, value, dimensions, and what may follow.

        Returns them as they are to be logged: those that are wanted, under their listed names, and
        none that handlers have declared themselves. Nonsense is left out, and named in the log.
        """
        readings = []
        for sample in samples:
            try:
                reading = self._listed(_reading(*sample))
                if reading is None:
                    continue
                if self._adds_all or reading.help is not None:
                    self._add(key, reading)
                if reading.help is None:
                    readings.append(reading)
            except (TypeError, ValueError, OverflowError) as error:
                self._complain(key, sample, error)
        return readings

    def forget(self, key: VersionKey, *, is_last: bool) -> None:
        """Drop the series of a version that is gone; ``is_last``: of its model, too."""
        owners = {key, (key[0], "")} if is_last else {key}
        for owner in owners:
            self._counts.pop(owner, None)
        for name, family in list(self._families.items()):
            for labels in [each for each, of in family.series.items() if of.owner in owners]:
                del family.series[labels]
            if not family.series:
                del self._families[name]

    def families(self) -> Iterator[Metric]:
        """What there is now, for the Prometheus library."""
        for name, family in self._families.items():
            metric = Metric(name, family.help, family.kind)
            for labels, series in family.series.items():
                named = {**dict(labels), "Hostname": self._hostname}
                if family.kind == "histogram":
                    _add_histogram(metric, named, family.bounds, series)
                else:
                    metric.add_sample(name, named, series.value)
            yield metric

    def _listed(self, reading: Reading) -> Reading | None:
        """The reading as ``metrics.yaml`` wants it; None if it does not."""
        if reading.help is not None:
            return reading
        listed = self._wanted.model.get(reading.name)
        if listed is None:
            return reading if self._wanted.detects_models else None
        if len(reading.dimensions) != len(listed.dimensions):
            raise ValueError(
                f"metrics_config lists it with the dimensions {', '.join(listed.dimensions)}"
            )
        dimensions = tuple(
            [
                (name, value)
                for name, (_, value) in zip(listed.dimensions, reading.dimensions, strict=True)
            ]
        )
        return Reading(
            reading.name, listed.kind, listed.unit, reading.value, dimensions, reading.request
        )

    def _add(self, key: VersionKey, reading: Reading) -> None:
        if reading.name == "PredictionTime":
            # The frontend has it already, of every model.
            return
        name = _name(reading.name)
        if reading.kind not in KINDS:
            raise ValueError(f"its type must be one of {', '.join(KINDS)}")
        if reading.kind == "counter" and reading.value < 0:
            raise ValueError("a counter cannot go down")
        owner = (key[0], "")
        labels = tuple([(_label(label), of) for label, of in reading.dimensions])
        if reading.help is not None:
            owner, labels = key, (*labels, ("model", key[0]), ("version", key[1]))
        if len(dict(labels)) < len(labels):
            raise ValueError("two of its dimensions have the same name")
        family = self._families.get(name) or self._new_family(name, reading)
        if family.kind != reading.kind or family.is_declared != (reading.help is not None):
            raise ValueError(f"there is a {family.kind} of that name already")
        series = family.series.get(labels)
        if series is None:
            if not self._admit(owner, name):
                return
            self._families[name] = family
            series = family.series[labels] = _Series(owner, len(family.bounds))
        if reading.kind == "gauge":
            series.value = reading.value
            return
        series.value += reading.value
        for index, bound in enumerate(family.bounds):
            series.counts[index] += reading.value <= bound

    def _new_family(self, name: str, reading: Reading) -> _Family:
        """Raises ValueError where a sample of it would bear the name of another's."""
        for part in _PARTS:
            above = self._families.get(name.removesuffix(part)) if name.endswith(part) else None
            is_taken = above is not None and part in _PARTS_OF.get(above.kind, ())
            own = part in _PARTS_OF.get(reading.kind, ())
            if is_taken or (own and name + part in self._families):
                raise ValueError("a histogram or counter has samples of that name")
        return _Family(reading)

    def _admit(self, owner: VersionKey, name: str) -> bool:
        count = self._counts[owner] = self._counts.get(owner, 0) + 1
        if count == MAX_SERIES + 1:
            logger.warning(
                "model %s made more than %d label sets; new ones are dropped, as is one of metric "
                "%s now. Use few names, and labels of few values.",
                owner[0],
                MAX_SERIES,
                name,
            )
        return count <= MAX_SERIES

    def _complain(self, key: VersionKey, sample: Sequence[Any], error: Exception) -> None:
        """Once for each metric: a wrong call is made for every request."""
        name = _text(sample[0]) if len(sample) else ""
        if name not in self._complaints and len(self._complaints) < _MOST_COMPLAINTS:
            self._complaints.add(name)
            logger.warning("metric %s of model %s is left out: %s", name, key[0], error)


def _reading(
    name: Any,
    kind: Any,
    unit: Any,
    value: Any,
    dimensions: Any,
    request: Any = "",
    help: Any = None,
    buckets: Any = None,
    *_: Any,
) -> Reading:
    if len(dimensions) > MAX_LABELS:
        raise ValueError(f"it has more than {MAX_LABELS} dimensions")
    return Reading(
        _text(name),
        str(kind),
        _text(unit),
        float(value),
        tuple([(_text(label), _text(of)) for label, of in dimensions]),
        _text(request, None),
        None if help is None else _text(help),
        BOUNDS if buckets is None else (*map(float, buckets[:100]), float("inf")),
    )


def _text(value: object, longest: int | None = LONGEST_TEXT) -> str:
    text = str(value)[:longest]
    # Lone surrogates would make every later exposition fail.
    return text if text.isascii() else text.encode(errors="replace").decode()


@lru_cache(1024)
def _name(name: str) -> str:
    """A metric's name as Prometheus takes it; raises ValueError for one that it cannot have."""
    fit = _NOT_IN_NAMES.sub("_", name)
    if not fit or fit[0].isdigit():
        raise ValueError("names begin with letters")
    if _OF_THE_SERVER.fullmatch(fit):
        raise ValueError("the server has a metric of that name itself")
    return fit


@lru_cache(1024)
def _label(name: str) -> str:
    """A label's name as Prometheus takes it; raises ValueError for one that it cannot have."""
    fit = _NOT_IN_LABELS.sub("_", name)
    if not fit or fit[0].isdigit():
        raise ValueError("names of dimensions begin with letters")
    if fit in _LABELS_OF_OURS or fit.startswith("__"):
        raise ValueError(f"the dimension {fit} is the server's")
    return fit


def _add_histogram(
    metric: Metric, labels: dict[str, str], bounds: Sequence[float], series: _Series
) -> None:
    for bound, count in zip(bounds, series.counts, strict=True):
        le = "+Inf" if bound == float("inf") else str(bound)
        metric.add_sample(f"{metric.name}_bucket", {**labels, "le": le}, count)
    metric.add_sample(f"{metric.name}_count", labels, series.counts[-1])
    metric.add_sample(f"{metric.name}_sum", labels, series.value)
