"""Where the log goes: one stream, as text or JSON, and TorchServe's files where they are wanted."""

from __future__ import annotations

import copy
import json
import logging
import logging.handlers
import queue
import re
import sys
import time
from typing import TYPE_CHECKING

from .errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from .config import Config

MAX_BYTES = 100 * 1000 * 1000
KEPT_FILES = 5
_TEXT = "%(asctime)s %(levelname)-7s %(name)s - %(message)s"
_TORCHSERVE = "%(asctime)s [%(levelname)-5s] %(threadName)s %(name)s - %(message)s"
_BARE = "%(asctime)s - %(message)s"
_REQUEST_ID = re.compile(
    r"\brequest ([0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})"
)
_METRICS = ("flambeau.ts_metrics", "flambeau.model_metrics")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the request's id if it has one."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        fields: dict[str, object] = {
            "time": _iso(record, "."),
            "level": record.levelname,
            "logger": record.name,
            "message": message,
        }
        request = getattr(record, "request_id", None) or _request_in(message)
        if request is not None:
            fields["request_id"] = request
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def _request_in(message: str) -> str | None:
    """The id of the request that the message is about, as far as it says so."""
    found = _REQUEST_ID.search(message)
    return None if found is None else found[1]


class TextFormatter(logging.Formatter):
    """Lines for people; the id of a request that the message does not name stands at the end."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        text = super().formatMessage(record)
        request = getattr(record, "request_id", None)
        return text if request is None or request in text else f"{text} [{request}]"


class TorchServeFormatter(logging.Formatter):
    """Times and levels as log4j has them, and what a worker says as TorchServe has it."""

    def format(self, record: logging.LogRecord) -> str:
        said = getattr(record, "said", None)
        if record.levelno == logging.WARNING or said is not None:
            # Other handlers get the record, too.
            record = copy.copy(record)
        if record.levelno == logging.WARNING:
            record.levelname = "WARN"
        if said is not None:
            record.name, record.msg, record.args = "MODEL_LOG", "%s", (said,)
            record.threadName = record.said_by  # type: ignore[attr-defined]
        return super().format(record)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return _iso(record, ",")


def _iso(record: logging.LogRecord, mark: str) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(record.created))
    return f"{whole}{mark}{int(record.msecs):03d}"


class _ToThread(logging.handlers.QueueHandler):
    """Hands records over as they are: they do not leave this process."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record


class Logs:
    """The log of this process, from its making until ``close``.

    Files are written by a thread of their own: a slow disk does not keep requests waiting.
    """

    def __init__(self, config: Config) -> None:
        self._listeners: list[logging.handlers.QueueListener] = []
        self._added: list[tuple[logging.Logger, logging.Handler]] = []
        form = JsonFormatter() if config.log_format == "json" else TextFormatter(_TEXT)
        logging.getLogger().setLevel(config.log_level)
        for item in filter(None, config.log_levels.split(",")):
            name, _, level = item.partition("=")
            logging.getLogger(name.strip()).setLevel(level.strip().upper())
        try:
            if config.log_file is None:
                stream = logging.StreamHandler(sys.stderr)
                stream.setFormatter(form)
                self._add("", stream)
            else:
                self._open(config.log_file, "", form)
            self._open_files(config)
        except OSError as error:
            self.close()
            raise ConfigError(
                f"log_file, log_location or metrics_location cannot be written to: "
                f"{error.strerror}. Name a place of your own."
            ) from None

    def close(self) -> None:
        """Write what is waiting, and take the handlers away."""
        while self._added:
            logger, handler = self._added.pop()
            logger.removeHandler(handler)
        while self._listeners:
            listener = self._listeners.pop()
            listener.stop()
            for handler in listener.handlers:
                handler.close()

    def _open_files(self, config: Config) -> None:
        if config.log_location is not None:
            folder = config.log_location
            self._open(folder / "ts_log.log", "", TorchServeFormatter(_TORCHSERVE))
            lines = TorchServeFormatter(_TORCHSERVE)
            self._open(folder / "model_log.log", "flambeau.model", lines)
            self._open(folder / "access_log.log", "flambeau.access", TorchServeFormatter(_BARE))
        if config.metrics_location is not None:
            folder = config.metrics_location
            self._open(folder / "ts_metrics.log", _METRICS[0], TorchServeFormatter(_BARE))
            self._open(folder / "model_metrics.log", _METRICS[1], TorchServeFormatter(_BARE))
            for name in _METRICS:
                # A file of their own is where they are looked for.
                logging.getLogger(name).propagate = False

    def _open(self, path: Path, name: str, form: logging.Formatter) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = logging.handlers.RotatingFileHandler(
            path, maxBytes=MAX_BYTES, backupCount=KEPT_FILES, encoding="utf-8"
        )
        file.setFormatter(form)
        lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
        listener = logging.handlers.QueueListener(lines, file)
        listener.start()
        self._listeners.append(listener)
        self._add(name, _ToThread(lines))

    def _add(self, name: str, handler: logging.Handler) -> None:
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        self._added.append((logger, handler))
