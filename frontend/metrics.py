"""What the frontend counts, and its Prometheus exposition.

A request is counted with plain integers and one dictionary look-up; the families of the Prometheus
library are made from them when somebody scrapes. Series exist only for registered versions, so
clients cannot make new ones by asking for unknown models.
"""

from __future__ import annotations

import socket
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from .exposition import HistogramLines, sample_names, write
from .handler_metrics import HandlerMetrics
from .lifecycle import VersionKey, torchserve_name
from .metric_log import MetricLog
from .metrics_config import MetricsConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from .jobs import Outcome
    from .system_metrics import SystemMetrics

PROMETHEUS, LEGACY = "prometheus", "legacy"
PREDICTION = "PredictionTime"
EVERYTHING = MetricsConfig()
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS_BOUNDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
)  # fmt: skip
BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128)


class _Histogram:
    """Counts per bucket and the sum; a value on a bound belongs to the bucket below it."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class _Totals:
    """TorchServe's counters of one way to ask for a version: by its name, or as the default."""

    __slots__ = ("latency_seconds", "queue_seconds", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.latency_seconds = 0.0
        self.queue_seconds = 0.0


class _Version:
    """All that is counted about one model version."""

    __slots__ = ("as_default", "batch", "by_name", "handler", "queue", "request", "statuses")

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.queue = _Histogram(SECONDS_BOUNDS)
        self.handler = _Histogram(SECONDS_BOUNDS)
        self.request = _Histogram(SECONDS_BOUNDS)
        self.batch = _Histogram(BATCH_BOUNDS)
        self.as_default = _Totals()
        self.by_name = _Totals()


class Metrics(Collector):
    """Counts requests, responses and worker exits, and shows them to Prometheus.

    ``workers`` is asked at each scrape for (model, version, state, count), and ``late_results`` for
    how many answers came when nobody waited for them any more.
    """

    def __init__(
        self,
        workers: Callable[[], Iterable[tuple[str, str, str, int]]] = tuple,
        *,
        mode: str = PROMETHEUS,
        wanted: MetricsConfig = EVERYTHING,
        system: SystemMetrics | None = None,
    ) -> None:
        self.workers = workers
        self._mode = mode
        self._wanted = wanted
        self._system = system
        self._log = None if mode == PROMETHEUS else MetricLog()
        self._last_thread_seconds = 0.0
        self._load_seconds: dict[tuple[VersionKey, int], float] = {}
        self._prediction_seconds: dict[VersionKey, float] = {}
        self.late_results: Callable[[], int] = int
        self.of_fleet: Callable[[], Iterable[Metric]] = tuple
        self._versions: dict[VersionKey, _Version] = {}
        self._exits: dict[tuple[str, str, str], int] = {}
        self._responses = {"2XX": 0, "4XX": 0, "5XX": 0}
        self._last_queue_seconds = 0.0
        self._hostname = socket.gethostname()
        self._of_handlers = HandlerMetrics(self._hostname, wanted, adds_all=mode == PROMETHEUS)
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def observe(
        self,
        key: VersionKey,
        requested_version: str | None,
        outcome: Outcome,
        total_seconds: float,
        request_id: str = "",
    ) -> None:
        """Count one answered inference request; ``total_seconds`` is what the client waited."""
        version = self._versions.get(key)
        if version is None:
            version = self._versions[key] = _Version()
        status = outcome.status if outcome.error is None else outcome.error.status
        version.statuses[status] = version.statuses.get(status, 0) + 1
        version.request.add(total_seconds)
        totals = version.as_default if requested_version is None else version.by_name
        totals.requests += 1
        if outcome.batched:
            version.queue.add(outcome.queued)
        if outcome.batch_size:
            version.handler.add(outcome.handled)
            version.batch.add(outcome.batch_size)
            self._last_thread_seconds = outcome.batched - outcome.handled
            if outcome.error is None:
                self._prediction_seconds[key] = outcome.handled
        if outcome.error is None:
            totals.latency_seconds += total_seconds
            totals.queue_seconds += outcome.queued
            self._last_queue_seconds = outcome.queued
        if self._log is not None:
            self._log_request(self._log, key, outcome, request_id)
            self._log_totals(self._log, key[0], requested_version, outcome, total_seconds)

    def _log_totals(
        self,
        log: MetricLog,
        model: str,
        requested_version: str | None,
        outcome: Outcome,
        total_seconds: float,
    ) -> None:
        labels = (("model_name", model), ("model_version", requested_version or "default"))
        totals = [("ts_inference_requests_total", "Count", 1.0)]
        if outcome.error is None:
            totals += [
                ("ts_inference_latency_microseconds", "Microseconds", total_seconds * 1e6),
                ("ts_queue_latency_microseconds", "Microseconds", outcome.queued * 1e6),
            ]
        for name, unit, value in totals:
            # In legacy mode Prometheus has these.
            if self._mode != LEGACY and self._wanted.wants_host(name):
                log.request(name, unit, value, labels)

    def _log_request(
        self, log: MetricLog, key: VersionKey, outcome: Outcome, request_id: str
    ) -> None:
        if outcome.error is None and self._wanted.wants_host("QueueTime"):
            log.host("QueueTime", "Milliseconds", outcome.queued * 1000)
        if outcome.batch_size and self._wanted.wants_host("WorkerThreadTime"):
            log.host("WorkerThreadTime", "Milliseconds", self._last_thread_seconds * 1000)
        if outcome.batch_size and outcome.error is None and self._wanted.wants_model(PREDICTION):
            labels = (("ModelName", key[0]), ("Level", "Model"))
            log.model(PREDICTION, "ms", outcome.handled * 1000, labels, request_id)

    def log_system(self) -> None:
        """Write the host's figures into the log, where metrics go there."""
        if self._log is not None and self._system is not None:
            for name, unit, value, labels in self._system.read():
                if self._wanted.wants_host(name):
                    self._log.host(name, unit, value, labels)

    def worker_loaded(self, key: VersionKey, slot: int, seconds: float) -> None:
        """The worker in a slot took ``seconds`` to load its model."""
        self._load_seconds[key, slot] = seconds
        if self._log is not None and self._wanted.wants_host("WorkerLoadTime"):
            labels = (("WorkerName", torchserve_name(key, slot)),)
            self._log.host("WorkerLoadTime", "Milliseconds", seconds * 1000, labels)

    def count_response(self, status: int) -> None:
        """Count one HTTP response. As in TorchServe, what is neither 2xx nor 4xx counts as 5XX."""
        family = "2XX" if 200 <= status < 300 else "4XX" if 400 <= status < 500 else "5XX"
        self._responses[family] += 1
        if self._log is not None and self._wanted.wants_host(f"Requests{family}"):
            self._log.host(f"Requests{family}", "Count", 1.0)

    def worker_exit(self, key: VersionKey, reason: str) -> None:
        """Count the end of a worker process."""
        exit_of = (*key, reason)
        self._exits[exit_of] = self._exits.get(exit_of, 0) + 1

    def record_samples(self, key: VersionKey, samples: Sequence[Sequence[Any]]) -> None:
        """Take the metrics that a handler of this version has reported."""
        readings = self._of_handlers.record(key, samples)
        if self._log is not None:
            for each in readings:
                self._log.model(each.name, each.unit, each.value, each.dimensions, each.request)

    def forget(self, key: VersionKey) -> None:
        """Drop the series of a version that is gone."""
        self._versions.pop(key, None)
        self._prediction_seconds.pop(key, None)
        for loaded in [loaded for loaded in self._load_seconds if loaded[0] == key]:
            del self._load_seconds[loaded]
        for exit_of in [exit_of for exit_of in self._exits if exit_of[:2] == key]:
            del self._exits[exit_of]
        is_last = not any(model == key[0] for model, _ in self._versions)
        self._of_handlers.forget(key, is_last=is_last)

    def exposition(self, names: Sequence[str] = ()) -> bytes:
        """Prometheus text 0.0.4; with ``names``, only the families or samples called so."""
        wanted = frozenset(names)
        return write(
            family
            for family in self._registry.collect()
            if not wanted or family.name in wanted or wanted & sample_names(family)
        )

    def collect(self) -> Iterator[Metric]:
        """The families of this moment, for the library's registry."""
        yield from filter(self._is_shown, self._torchserve_families())
        yield from self._histograms()
        requests = CounterMetricFamily(
            "flambeau_requests_total",
            "Answered inference requests",
            labels=["model", "version", "status"],
        )
        for key, version in self._versions.items():
            for status, count in version.statuses.items():
                requests.add_metric([*key, str(status)], count)
        yield requests
        workers = GaugeMetricFamily(
            "flambeau_workers", "Workers by state", labels=["model", "version", "state"]
        )
        for model, model_version, state, count in self.workers():
            workers.add_metric([model, model_version, state], count)
        yield workers
        exits = CounterMetricFamily(
            "flambeau_worker_exits_total",
            "Ended worker processes by reason",
            labels=["model", "version", "reason"],
        )
        for exit_of, count in self._exits.items():
            exits.add_metric(exit_of, count)
        yield exits
        yield CounterMetricFamily(
            "flambeau_late_results_total",
            "Answers of workers that nobody waited for any more",
            value=self.late_results(),
        )
        yield from self.of_fleet()
        yield from self._of_handlers.families()

    def _is_shown(self, family: Metric) -> bool:
        """TorchServe's metrics go to Prometheus, to the log, or (legacy) its counters to one and
        the rest to the other.
        """
        name = family.name
        if name == PREDICTION:
            is_wanted = self._wanted.wants_model(name)
        else:
            # Prometheus wants counters to be called so; the families are named without that.
            is_wanted = self._wanted.wants_host(name) or self._wanted.wants_host(f"{name}_total")
        if not is_wanted or self._mode == PROMETHEUS:
            return is_wanted
        return self._mode == LEGACY and name.startswith("ts_")

    def _torchserve_families(self) -> Iterator[Metric]:
        host = {"Level": "Host", "Hostname": self._hostname}
        for family, count in self._responses.items():
            responses = _torchserve_metric(f"Requests{family}", "counter", "Count")
            responses.add_sample(f"Requests{family}", host, count)
            yield responses
        queue_time = _torchserve_metric("QueueTime", "gauge", "Milliseconds")
        queue_time.add_sample("QueueTime", host, self._last_queue_seconds * 1000)
        yield queue_time
        thread_time = _torchserve_metric("WorkerThreadTime", "gauge", "Milliseconds")
        thread_time.add_sample("WorkerThreadTime", host, self._last_thread_seconds * 1000)
        yield thread_time
        load_time = _torchserve_metric("WorkerLoadTime", "gauge", "Milliseconds")
        for worker, seconds in self._load_seconds.items():
            labels = {"WorkerName": torchserve_name(*worker), **host}
            load_time.add_sample("WorkerLoadTime", labels, seconds * 1000)
        yield load_time
        prediction = _torchserve_metric(PREDICTION, "gauge", "ms")
        for (model, _), seconds in self._prediction_seconds.items():
            of = {"ModelName": model, "Level": "Model", "Hostname": self._hostname}
            prediction.add_sample(PREDICTION, of, seconds * 1000)
        yield prediction
        yield from self._system_families(host)
        requests = _torchserve_metric("ts_inference_requests", "counter", "Count")
        latency = _torchserve_metric("ts_inference_latency_microseconds", "counter", "Microseconds")
        queued = _torchserve_metric("ts_queue_latency_microseconds", "counter", "Microseconds")
        for labels, totals in self._totals():
            requests.add_sample("ts_inference_requests_total", labels, totals.requests)
            latency.add_sample(latency.name, labels, totals.latency_seconds * 1e6)
            queued.add_sample(queued.name, labels, totals.queue_seconds * 1e6)
        yield from (requests, latency, queued)

    def _system_families(self, host: dict[str, str]) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for name, unit, value, labels in self._system.read() if self._system else ():
            family = families.setdefault(name, _torchserve_metric(name, "gauge", unit))
            family.add_sample(name, {**host, **dict(labels)}, value)
        yield from families.values()

    def _totals(self) -> Iterator[tuple[dict[str, str], _Totals]]:
        """TorchServe's labels say ``default`` for requests that named no version.

        They name the model only, so what its versions counted as the default is added up.
        """
        defaults: dict[str, _Totals] = {}
        for (model, model_version), version in self._versions.items():
            if version.by_name.requests:
                yield self._labels(model, model_version), version.by_name
            if version.as_default.requests:
                total = defaults.setdefault(model, _Totals())
                total.requests += version.as_default.requests
                total.latency_seconds += version.as_default.latency_seconds
                total.queue_seconds += version.as_default.queue_seconds
        for model, total in defaults.items():
            yield self._labels(model, "default"), total

    def _labels(self, model: str, model_version: str) -> dict[str, str]:
        return {"model_name": model, "model_version": model_version, "hostname": self._hostname}

    def _histograms(self) -> Iterator[Metric]:
        for field, name, documentation in (
            ("queue", "flambeau_queue_seconds", "Time a request waited for its batch to leave"),
            (
                "handler",
                "flambeau_handler_seconds",
                "Time a batch spent in the handler",
            ),
            ("request", "flambeau_request_seconds", "Time from a request's headers to its answer"),
            ("batch", "flambeau_batch_size", "Requests in a batch"),
        ):
            bounds = BATCH_BOUNDS if field == "batch" else SECONDS_BOUNDS
            family = HistogramLines(name, documentation, bounds)
            for (model, model_version), version in self._versions.items():
                histogram: _Histogram = getattr(version, field)
                labels = {"model": model, "version": model_version}
                family.add(labels, histogram.counts, histogram.total)
            yield family


def _torchserve_metric(name: str, kind: str, unit: str) -> Metric:
    return Metric(name, f"Torchserve prometheus {kind} metric with unit: {unit}", kind)
