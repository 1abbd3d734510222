"""Metrics that handlers report: TorchServe's calls, collected until the worker sends them on."""

from __future__ import annotations

import enum
import logging
import math
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

logger = logging.getLogger(__name__)

MAX_PENDING_SAMPLES = 10_000

UNITS: dict[str | None, str] = {
    "ms": "Milliseconds",
    "s": "Seconds",
    "percent": "Percent",
    "count": "Count",
    "MB": "Megabytes",
    "GB": "Gigabytes",
    "kB": "Kilobytes",
    "B": "Bytes",
    "": "unit",
    None: "unit",
}


class MetricsCacheValueError(ValueError):
    """A unit that does not fit the kind of metric."""


class MetricsCacheKeyError(KeyError):
    """No metric of that type and name."""


class MetricTypes(enum.Enum):
    """How samples of a metric add up."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Dimension:
    """A label of a metric."""

    def __init__(self, name: str, value: object) -> None:
        self.name = name
        self.value = value

    def __str__(self) -> str:
        return f"{self.name}:{self.value}"

    def to_dict(self) -> dict[str, object]:
        return {"Name": self.name, "Value": self.value}


class Sample(NamedTuple):
    """One reported value. ``type`` is ``counter``, ``gauge`` or ``histogram``."""

    name: str
    type: str
    unit: str
    value: float
    dimensions: list[tuple[str, str]]


class CachingMetric:
    """A metric with its dimension names, to which values can be reported."""

    def __init__(
        self,
        recorder: Metrics,
        metric_name: str,
        unit: str | None,
        dimension_names: Iterable[str],
        metric_type: MetricTypes,
    ) -> None:
        self._recorder = recorder
        self.metric_name = metric_name
        self.unit = UNITS.get(unit, unit) or "unit"
        self.dimension_names = list(dimension_names)
        self.metric_type = metric_type

    def add_or_update(
        self, value: Any, dimension_values: Sequence[object] | None = (), request_id: str = ""
    ) -> None:
        """Report ``value``. What cannot be recorded is logged as an error; nothing is raised."""
        names, values = self.dimension_names, list(dimension_values or ())
        try:
            if len(values) != len(names):
                raise ValueError(
                    f"Dimension values: {values} should correspond to Dimension names: {names}"
                )
            number = float(value)
            if not math.isfinite(number):
                raise ValueError("the value must be a finite number")
            if self.metric_type is MetricTypes.COUNTER and number < 0:
                raise ValueError("Counter metric update value cannot be negative")
        except (TypeError, ValueError, OverflowError) as error:
            logger.error(
                "[METRICS]Failed to update metric with name:%s and dimensions: %s "
                "with value: %s: %s",
                self.metric_name,
                ",".join(f"{name}:{item}" for name, item in zip(names, values, strict=False)),
                value,
                error,
            )
            return
        dimensions = [(name, str(item)) for name, item in zip(names, values, strict=True)]
        self._recorder.record(
            Sample(self.metric_name, self.metric_type.value, self.unit, number, dimensions)
        )

    def update(self, value: Any, request_id: str = "", dimensions: Sequence[Any] = ()) -> None:
        """TorchServe's older call: ``dimensions`` replace the metric's dimension names."""
        logger.warning("Overriding existing dimensions")
        self.dimension_names = [dimension.name for dimension in dimensions]
        self.add_or_update(value, [dimension.value for dimension in dimensions], request_id)


class Metrics:
    """What handlers find as ``context.metrics``.

    Every sample gets the dimensions ``ModelName`` and ``Level:Model``, unless the call gives its
    own; an error gets ``Level:Error`` alone. Unlike TorchServe, the caller's list of dimensions is
    left as it is. A metric keeps the dimension names of its first use: a later call with another
    number of them is logged and dropped. ``idx`` is accepted and has no effect on a sample.
    """

    def __init__(self, model_name: str | None = None) -> None:
        self.model_name = model_name
        self.request_ids: dict[int, str] | str | None = None
        self.cache: dict[MetricTypes, dict[str, CachingMetric]] = {}
        self.dropped = 0
        self._samples: list[Sample] = []

    @property
    def store(self) -> list[Sample]:
        """The samples that wait to be drained."""
        return self._samples

    def set_request_ids(self, request_ids: dict[int, str] | str | None) -> None:
        self.request_ids = request_ids

    def record(self, sample: Sample) -> None:
        """Keep ``sample`` until the next drain; beyond 10,000 it is dropped and counted."""
        if len(self._samples) >= MAX_PENDING_SAMPLES:
            self.dropped += 1
            return
        self._samples.append(sample)

    def drain(self) -> list[Sample]:
        """Hand over the pending samples in the order of their calls, and keep none of them."""
        samples = list(self._samples)
        # In place: copies report into the same list, and threads may do so right now.
        del self._samples[: len(samples)]
        return samples

    def add_metric(
        self,
        name: str,
        value: Any,
        unit: str | None,
        idx: Any = None,
        dimensions: Sequence[Any] | None = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> None:
        """Report a value of any kind; the other ``add_`` calls are this one with a fixed unit."""
        self._add(name, value, unit, [*(dimensions or ()), *self._missing(dimensions)], metric_type)

    def add_counter(
        self, name: str, value: Any, idx: Any = None, dimensions: Sequence[Any] | None = ()
    ) -> None:
        self.add_metric(name, value, "count", idx, dimensions)

    def add_time(
        self,
        name: str,
        value: Any,
        idx: Any = None,
        unit: str = "ms",
        dimensions: Sequence[Any] | None = (),
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Report a duration in ``ms`` or ``s``; MetricsCacheValueError for another unit."""
        if unit not in ("ms", "s"):
            raise MetricsCacheValueError("the unit for a timed metric should be one of ['ms', 's']")
        self.add_metric(name, value, unit, idx, dimensions, metric_type)

    def add_size(
        self,
        name: str,
        value: Any,
        idx: Any = None,
        unit: str = "MB",
        dimensions: Sequence[Any] | None = (),
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Report a size in ``MB``, ``kB``, ``GB`` or ``B``; ValueError for another unit."""
        if unit not in ("MB", "kB", "GB", "B"):
            raise ValueError("The unit for size based metric is one of ['MB','kB', 'GB', 'B']")
        self.add_metric(name, value, unit, idx, dimensions, metric_type)

    def add_percent(
        self,
        name: str,
        value: Any,
        idx: Any = None,
        dimensions: Sequence[Any] | None = (),
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        self.add_metric(name, value, "percent", idx, dimensions, metric_type)

    def add_error(self, name: str, value: Any, dimensions: Sequence[Any] | None = ()) -> None:
        """Count an error; its only default dimension is ``Level:Error``."""
        given = list(dimensions or ())
        if not any(dimension.name == "Level" for dimension in given):
            given.append(Dimension("Level", "Error"))
        self._add(name, value, "", given, MetricTypes.COUNTER)

    def add_metric_to_cache(
        self,
        metric_name: str,
        unit: str | None,
        dimension_names: Sequence[str] | None = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> CachingMetric:
        """Make the metric, in place of one of that type and name, and return it."""
        metrics = self.cache.setdefault(metric_type, {})
        if metric_name in metrics:
            logger.warning("Overriding existing key %s:%s", metric_type, metric_name)
        metric = CachingMetric(self, metric_name, unit, dimension_names or (), metric_type)
        metrics[metric_name] = metric
        return metric

    def get_metric(
        self, metric_name: str, metric_type: MetricTypes = MetricTypes.COUNTER
    ) -> CachingMetric:
        """The metric of that type and name; MetricsCacheKeyError if there is none yet."""
        try:
            return self.cache[metric_type][metric_name]
        except KeyError:
            raise MetricsCacheKeyError(
                f"Metric of type '{metric_type}' and name '{metric_name}' doesn't exist"
            ) from None

    def cache_keys(self) -> list[str]:
        return [f"{kind.value}:{name}" for kind, metrics in self.cache.items() for name in metrics]

    def _missing(self, dimensions: Sequence[Any] | None) -> list[Dimension]:
        given = {dimension.name for dimension in dimensions or ()}
        defaults = (("ModelName", self.model_name), ("Level", "Model"))
        return [Dimension(name, value) for name, value in defaults if name not in given]

    def _add(
        self,
        name: str,
        value: Any,
        unit: str | None,
        dimensions: Sequence[Any],
        metric_type: MetricTypes,
    ) -> None:
        metric = self.cache.get(metric_type, {}).get(name)
        if metric is None:
            names = [dimension.name for dimension in dimensions]
            metric = self.add_metric_to_cache(name, unit, names, metric_type)
        metric.add_or_update(value, [dimension.value for dimension in dimensions])
