"""Metrics that handlers report: TorchServe's calls, collected until the worker sends them on."""

from __future__ import annotations

import enum
import logging
import math
import socket
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from .instruments import Instruments

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

logger = logging.getLogger(__name__)

MAX_PENDING_SAMPLES = 10_000
MAX_METRICS = 10_000
"""Metrics that are remembered by name: a handler may make up a new one for each request."""

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


class MetricsCacheTypeError(TypeError):
    """What describes a metric is of the wrong type."""


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
    """One reported value. ``type`` is ``counter``, ``gauge`` or ``histogram``.

    ``request`` is whose requests it is about, ``""`` for none. ``help`` is there for a metric that
    the handler has declared itself, ``buckets`` for such a histogram with bounds of its own.
    """

    name: str
    type: str
    unit: str
    value: float
    dimensions: list[tuple[str, str]]
    request: str = ""
    help: str | None = None
    buckets: list[float] | None = None

    def line(self) -> str:
        """The line that TorchServe's workers write, and its frontend and ours read."""
        dimensions = ",".join(f"{name}:{value}" for name, value in self.dimensions)
        request = f",{self.request}" if self.request else ""
        return (
            f"[METRICS]{self.name}.{self.unit}:{self.value}|#{dimensions}"
            f"|#type:{self.type.upper()}|#hostname:{socket.gethostname()},{int(time.time())}{request}"
        )


class CachingMetric:
    """A metric with its dimension names, to which values can be reported.

    One that a handler makes by itself, without ``recorder``, writes lines to the log, which the
    frontend reads.
    """

    def __init__(
        self,
        metric_name: str,
        unit: str | None,
        dimension_names: Iterable[str] | None = None,
        metric_type: MetricTypes = MetricTypes.COUNTER,
        recorder: Metrics | None = None,
    ) -> None:
        self._recorder = recorder
        self.metric_name = metric_name
        self.unit = UNITS.get(unit, unit) or "unit"
        self.dimension_names = list(dimension_names or ())
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
        sample = Sample(
            self.metric_name,
            self.metric_type.value,
            self.unit,
            number,
            dimensions,
            str(request_id or ""),
        )
        if self._recorder is None:
            logger.info("%s", sample.line())
        else:
            self._recorder.record(sample)

    def update(self, value: Any, request_id: str = "", dimensions: Sequence[Any] = ()) -> None:
        """TorchServe's older call: ``dimensions`` replace the metric's dimension names."""
        logger.warning("Overriding existing dimensions")
        self.dimension_names = [dimension.name for dimension in dimensions]
        self.add_or_update(value, [dimension.value for dimension in dimensions], request_id)


class Metrics(Instruments):
    """What handlers find as ``context.metrics``.

    Every sample gets the dimensions ``ModelName`` and ``Level:Model``, unless the call gives its
    own; an error gets ``Level:Error`` alone. Unlike TorchServe, the caller's list of dimensions is
    left as it is. A metric keeps the dimension names of its first use, or those of ``listed``: a
    later call with another number of them is logged and dropped. ``idx`` says which row of the
    batch a sample is about; it is about all of them otherwise.

    ``listed`` are the metrics of ``metrics.yaml``: name, type, unit, dimension names.

    Handlers that do not need TorchServe's calls declare their metrics where they use them, with
    ``counter``, ``gauge``, ``histogram`` and ``timer``; such a metric is in no ``metrics.yaml``.

    A copy, deep or not, reports to the same place, and is about requests of its own.
    """

    def __init__(self, model_name: str | None = None, listed: Iterable[Sequence[Any]] = ()) -> None:
        self.model_name = model_name
        self.request_ids: dict[int, str] | str | None = None
        self.cache: dict[MetricTypes, dict[str, CachingMetric]] = {}
        self.dropped = 0
        # Shared by copies, as the samples are.
        self._warnings: set[str] = set()
        self._samples: list[Sample] = []
        for name, kind, unit, dimension_names in listed:
            self.add_metric_to_cache(name, unit, dimension_names, MetricTypes(kind))

    def __deepcopy__(self, memo: dict[int, Any]) -> Metrics:
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin

    @property
    def store(self) -> list[Sample]:
        """The samples that wait to be drained."""
        return self._samples

    def set_request_ids(self, request_ids: dict[int, str] | str | None) -> None:
        self.request_ids = request_ids

    def record(self, sample: Sample) -> None:
        """Keep ``sample`` until the next drain; beyond 10,000 it is dropped and counted."""
        if len(self._samples) >= MAX_PENDING_SAMPLES:
            self._warn_once(
                "More than %d values were reported for one batch; some are dropped. "
                "Add them up in the handler.",
                MAX_PENDING_SAMPLES,
            )
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
        known = [*(dimensions or ()), *self._missing(dimensions)]
        self._add(name, value, unit, known, metric_type, self._request(idx))

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
        self._add(name, value, "", given, MetricTypes.COUNTER, "")

    def add_metric_to_cache(
        self,
        metric_name: str,
        unit: str | None,
        dimension_names: Sequence[str] | None = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> CachingMetric:
        """Make the metric, in place of one of that type and name, and return it.

        Raises MetricsCacheTypeError for a name that is no str, a type that is no MetricTypes and
        dimension names that are no list. The first 10,000 metrics can be found again.
        """
        _check_types(metric_name, metric_type)
        if dimension_names and not isinstance(dimension_names, (list, tuple)):
            raise MetricsCacheTypeError(
                "`dimension_names` should be a list of dimension name strings"
            )
        metrics = self.cache.setdefault(metric_type, {})
        metric = CachingMetric(metric_name, unit, dimension_names, metric_type, self)
        if metric_name in metrics:
            logger.warning("Overriding existing key %s:%s", metric_type, metric_name)
        elif len(metrics) >= MAX_METRICS:
            self._warn_once(
                "The handler has made %d metrics; from '%s' on they are not remembered. "
                "Use few names, and dimensions of few values.",
                MAX_METRICS,
                metric_name,
            )
            return metric
        metrics[metric_name] = metric
        return metric

    def get_metric(
        self, metric_name: str, metric_type: MetricTypes = MetricTypes.COUNTER
    ) -> CachingMetric:
        """The metric of that type and name; MetricsCacheKeyError if there is none yet."""
        _check_types(metric_name, metric_type)
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

    def _request(self, idx: Any) -> str:
        """The id of the request in row ``idx``; without such a row those of all, with commas."""
        ids = self.request_ids
        if not isinstance(ids, dict):
            return str(ids or "")
        return ids[idx] if type(idx) is int and idx in ids else ",".join(ids.values())

    def _add(
        self,
        name: str,
        value: Any,
        unit: str | None,
        dimensions: Sequence[Any],
        metric_type: MetricTypes,
        request_id: str,
    ) -> None:
        metric = self.cache.get(metric_type, {}).get(name)
        if metric is None:
            names = [dimension.name for dimension in dimensions]
            metric = self.add_metric_to_cache(name, unit, names, metric_type)
        metric.add_or_update(value, [dimension.value for dimension in dimensions], request_id)

    def record_own(
        self,
        kind: str,
        name: str,
        help: str,
        dimensions: dict[str, str],
        value: float,
        buckets: list[float] | None,
    ) -> None:
        self.record(Sample(name, kind, "unit", value, list(dimensions.items()), "", help, buckets))

    def _warn_once(self, message: str, *values: object) -> None:
        if message not in self._warnings:
            self._warnings.add(message)
            logger.warning(message, *values)


def _check_types(metric_name: object, metric_type: object) -> None:
    if not isinstance(metric_name, str):
        raise MetricsCacheTypeError("`metric_name` must be a str")
    if not isinstance(metric_type, MetricTypes):
        raise MetricsCacheTypeError("`metric_type` must be a MetricTypes enum")
