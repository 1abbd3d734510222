"""Metrics that a handler declares where it uses them: ``context.metrics.counter("x").inc()``.

Names and methods are those of Prometheus's clients. What cannot be a name raises ValueError where
the metric is declared; a value that cannot be recorded is logged and nothing is raised, so that no
answer fails for the sake of a metric.
"""

from __future__ import annotations

import logging
import math
import re
import time
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Record = Callable[[str, str, str, dict[str, str], float, "list[float] | None"], None]

logger = logging.getLogger(__name__)

MAX_BUCKETS = 100
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
_TAKEN = frozenset({"le", "model", "version", "Hostname"})


class _Instrument:
    kind = ""

    def __init__(
        self,
        record: Record,
        name: str,
        help: str,
        dimensions: Mapping[str, object],
        buckets: Sequence[float] | None = None,
    ) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"A metric cannot be called {name!r}: use letters, digits and _")
        for label in dimensions:
            if not _LABEL.fullmatch(label) or label in _TAKEN:
                raise ValueError(f"A dimension of metric {name} cannot be called {label!r}")
        self._record = record
        self._name = name
        self._help = str(help)
        self._dimensions = {label: str(value) for label, value in dimensions.items()}
        self._buckets = None if buckets is None else _bounds(name, buckets)

    def _report(self, value: Any) -> None:
        try:
            number = float(value)
            if not math.isfinite(number):
                raise ValueError("the value must be a finite number")
            if number < 0 and self.kind == "counter":
                raise ValueError("a counter cannot go down")
        except (TypeError, ValueError, OverflowError) as error:
            logger.error("Metric %s cannot be set to %r: %s", self._name, value, error)
            return
        self._record(self.kind, self._name, self._help, self._dimensions, number, self._buckets)


class Counter(_Instrument):
    """How often something happened."""

    kind = "counter"

    def inc(self, amount: Any = 1) -> None:
        """Add ``amount``, which must not be negative."""
        self._report(amount)


class Gauge(_Instrument):
    """A value as it is now; that of the worker which reported last."""

    kind = "gauge"

    def set(self, value: Any) -> None:
        """The value is ``value`` now."""
        self._report(value)


class Histogram(_Instrument):
    """How values are spread over buckets."""

    kind = "histogram"

    def observe(self, value: Any) -> None:
        """Count ``value``."""
        self._report(value)


class Instruments:
    """The ways to declare a metric."""

    def record_own(
        self,
        kind: str,
        name: str,
        help: str,
        dimensions: dict[str, str],
        value: float,
        buckets: list[float] | None,
    ) -> None:
        """Take a value of a declared metric."""
        raise NotImplementedError

    def counter(self, name: str, help: str = "", /, **dimensions: object) -> Counter:
        """A metric of the handler's own that only grows: ``counter("refusals").inc()``.

        ``help`` is its text for Prometheus, ``dimensions`` are its labels, to which the frontend
        adds ``model`` and ``version``. It is in ``/metrics`` whatever ``metrics.yaml`` and
        ``metrics_mode`` say. Raises ValueError for what cannot be the name of a metric or a label.
        """
        return Counter(self.record_own, name, help, dimensions)

    def gauge(self, name: str, help: str = "", /, **dimensions: object) -> Gauge:
        """As ``counter``, for a value that goes up and down: ``gauge("cached").set(3)``."""
        return Gauge(self.record_own, name, help, dimensions)

    def histogram(
        self,
        name: str,
        help: str = "",
        /,
        *,
        buckets: Sequence[float] | None = None,
        **dimensions: object,
    ) -> Histogram:
        """As ``counter``, for how values are spread: ``histogram("tokens").observe(17)``.

        ``buckets`` are the upper bounds; without them those of Prometheus, which are meant for
        seconds. The metric keeps the buckets of its first use.
        """
        return Histogram(self.record_own, name, help, dimensions, buckets)

    @contextmanager
    def timer(
        self,
        name: str,
        help: str = "",
        /,
        *,
        buckets: Sequence[float] | None = None,
        **dimensions: object,
    ) -> Iterator[None]:
        """As ``histogram``, of how many seconds a block or a decorated function takes.

        ``with metrics.timer("tokenize_seconds"): ...``. What raises is timed, too.
        """
        histogram = self.histogram(name, help, buckets=buckets, **dimensions)
        started = time.perf_counter()
        try:
            yield
        finally:
            histogram.observe(time.perf_counter() - started)


def _bounds(name: str, buckets: Sequence[float]) -> list[float]:
    bounds = [float(bound) for bound in buckets]
    is_rising = all(low < high for low, high in pairwise(bounds))
    if not is_rising or not 0 < len(bounds) <= MAX_BUCKETS or not all(map(math.isfinite, bounds)):
        raise ValueError(f"The buckets of metric {name} must be 1 to {MAX_BUCKETS} rising numbers")
    return bounds
