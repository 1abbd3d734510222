"""Metrics as lines of a log, in TorchServe's form."""

from __future__ import annotations

import logging
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

HOST_LOGGER = logging.getLogger("flambeau.ts_metrics")
MODEL_LOGGER = logging.getLogger("flambeau.model_metrics")
_UNITS = {"unit": "Unit"}


class MetricLog:
    """Writes a line for each value; host and model metrics have loggers of their own."""

    def __init__(self) -> None:
        self._hostname = socket.gethostname()

    def host(
        self, name: str, unit: str, value: float, labels: Iterable[tuple[str, str]] = ()
    ) -> None:
        """A figure of the server or its machine."""
        level = ("Level", "Host")
        # TorchServe's order, whatever the reason.
        ordered = [*labels, level] if name == "WorkerLoadTime" else [level, *labels]
        line = self._line(name, unit, value, ordered, "")
        HOST_LOGGER.info("%s", line)

    def request(
        self, name: str, unit: str, value: float, labels: Iterable[tuple[str, str]]
    ) -> None:
        """A counter of requests, by their model."""
        HOST_LOGGER.info("%s", self._line(name, unit, value, labels, ""))

    def model(
        self,
        name: str,
        unit: str,
        value: float,
        labels: Iterable[tuple[str, str]],
        request_id: str = "",
    ) -> None:
        """A figure of a model; ``request_id`` is whose request it came with."""
        # TorchServe's word for no request; readers of the file rely on the field.
        MODEL_LOGGER.info("%s", self._line(name, unit, value, labels, request_id or "null"))

    def _line(
        self,
        name: str,
        unit: str,
        value: float,
        labels: Iterable[tuple[str, str]],
        request_id: str,
    ) -> str:
        dimensions = ",".join(f"{label}:{of}" for label, of in labels)
        request = f"requestID:{request_id}," if request_id else ""
        line = (
            f"{name}.{_UNITS.get(unit, unit)}:{float(value)}|#{dimensions}"
            f"|#hostname:{self._hostname},{request}timestamp:{int(time.time())}"
        )
        # A handler's names must not begin a line of their own.
        return line.replace("\n", " ").replace("\r", " ")
