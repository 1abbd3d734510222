"""What a handler sees of its worker and of the requests in front of it.

Names, signatures and values are those of TorchServe's ``ts.context``, which handlers rely on;
``begin_batch``, ``copy_for_batch``, ``drain_samples`` and
what concerns clients that leave are ours.
"""

from __future__ import annotations

import copy
import operator
import os
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_LINE_BREAKING = re.compile(r"[\r\n\0]")


class RequestProcessor:
    """The headers of one request, and the status and headers of its answer."""

    def __init__(self, request_header: dict[str, Any]) -> None:
        self._status_code = 200
        self._reason_phrase: str | None = None
        self._response_header: dict[str, str] = {}
        self._request_header = request_header

    def get_request_property(self, key: str) -> Any:
        """The request header ``key``, spelt as the client did; None if there is none.

        Under a parameter's name (``body``, a form field) lies ``{"content-type": ...}``.
        """
        return self._request_header.get(key)

    def get_request_properties(self) -> dict[str, Any]:
        return self._request_header

    def report_status(self, code: int, reason_phrase: str | None = None) -> None:
        """Answer with this HTTP status; the body is still what the handler returns for the row.

        Raises ValueError for a code outside 200 to 999 and for a phrase with a line break.
        """
        try:
            number = operator.index(code)
        except TypeError:
            number = 0
        if isinstance(code, bool) or not 200 <= number <= 999:
            raise ValueError(f"A response status is a whole number from 200 to 999, not {code!r}")
        phrase = None if reason_phrase is None else str(reason_phrase)
        if phrase is not None and _LINE_BREAKING.search(phrase):
            raise ValueError("A response status phrase must not contain a line break or NUL")
        self._status_code = number
        self._reason_phrase = phrase

    def get_response_status_code(self) -> int:
        return self._status_code

    def get_response_status_phrase(self) -> str | None:
        return self._reason_phrase

    def add_response_property(self, key: str, value: object) -> None:
        """Set a response header, one value for each name; what is not a str is turned into one.

        Raises ValueError, naming the header, for what cannot stand in an HTTP header.
        """
        name, text = str(key), str(value)
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be the name of a response header")
        if _LINE_BREAKING.search(text):
            raise ValueError(f"Response header {name!r} must not contain a line break or NUL")
        self._response_header[name] = text

    def get_response_headers(self) -> dict[str, str]:
        return self._response_header

    def get_response_header(self, key: str) -> str | None:
        return self._response_header.get(key)


class Context:
    """One for the life of the worker: the model's facts, and the batch that is being handled.

    Handlers may hang attributes of their own on it; they stay from batch to batch.
    """

    def __init__(
        self,
        model_name: str,
        model_dir: str,
        manifest: dict[str, Any] | None,
        batch_size: int,
        gpu: int | None,
        mms_version: str,
        limit_max_image_pixels: bool = True,
        metrics: Any = None,
        model_yaml_config: Any = None,
    ) -> None:
        self.model_name = model_name
        self.manifest = manifest
        self._system_properties: dict[str, Any] = {
            "model_dir": model_dir,
            "gpu_id": gpu,
            "batch_size": batch_size,
            "server_name": "MMS",
            "server_version": mms_version,
            "limit_max_image_pixels": limit_max_image_pixels,
        }
        self.request_ids: dict[int, str] | None = None
        self._request_processor: list[RequestProcessor] | None = None
        self._metrics = metrics
        self._limit_max_image_pixels = True
        self.model_yaml_config = model_yaml_config
        self.stopping_criteria: Any = None
        self.cl_socket: Any = None
        self.input_schema: str | None = None
        """JSON Schema of a request, where the handler declares one; ``output_schema`` likewise."""
        self.output_schema: str | None = None
        self._asks_for_cancelled: Callable[[int], bool] | None = None
        self.header_key_sequence_id = os.getenv("TS_REQUEST_SEQUENCE_ID", "ts_request_sequence_id")
        self.header_key_sequence_start = os.getenv(
            "TS_REQUEST_SEQUENCE_START", "ts_request_sequence_start"
        )
        self.header_key_sequence_end = os.getenv(
            "TS_REQUEST_SEQUENCE_END", "ts_request_sequence_end"
        )

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.__dict__ == self.__dict__

    def begin_batch(self, request_ids: Sequence[str], headers: Sequence[Mapping[str, Any]]) -> None:
        """Turn to the next batch: row ``i`` is request ``request_ids[i]`` with ``headers[i]``."""
        self.request_ids = dict(enumerate(request_ids))
        self._request_processor = [RequestProcessor(dict(header)) for header in headers]
        if self._metrics is not None:
            self._metrics.set_request_ids(self.request_ids)

    def of_rows(self, rows: Sequence[int]) -> Context:
        """The same context for some rows of the batch, numbered from 0: what is set on it counts
        for the row that it stands for.
        """
        if self.request_ids is None or self._request_processor is None:
            raise RuntimeError("There is no request: the model is still being loaded")
        part = copy.copy(self)
        part.request_ids = {place: self.request_ids[row] for place, row in enumerate(rows)}
        part._request_processor = [self._request_processor[row] for row in rows]
        part.ask_for_cancelled(lambda place: self.is_cancelled(rows[place]))
        return part

    def copy_for_batch(self) -> Context:
        """A context of its own for one of several batches in work.

        What handlers have hung on this one is there, the same objects; what they hang on the copy
        goes with it. Metrics are reported to the same place, for the copy's own requests.
        """
        twin = copy.copy(self)
        twin._metrics = copy.copy(self._metrics)
        return twin

    def ask_for_cancelled(self, ask: Callable[[int], bool]) -> None:
        """Have ``is_cancelled`` ask this."""
        self._asks_for_cancelled = ask

    def is_cancelled(self, idx: int = 0) -> bool:
        """Nobody waits for the answer to this row any more: its client left, or its time is over.

        A handler that works for long may ask now and then, and return whatever it likes for the
        row.
        """
        return self._asks_for_cancelled is not None and self._asks_for_cancelled(idx)

    def drain_samples(self) -> list[list[Any]]:
        """The metrics reported since the last call, as they cross the wire."""
        return [] if self._metrics is None else [list(sample) for sample in self._metrics.drain()]

    @property
    def system_properties(self) -> dict[str, Any]:
        return self._system_properties

    @property
    def request_processor(self) -> list[RequestProcessor] | None:
        """One for each row; None while the model is being loaded."""
        return self._request_processor

    @request_processor.setter
    def request_processor(self, request_processor: list[RequestProcessor] | None) -> None:
        self._request_processor = request_processor

    @property
    def metrics(self) -> Any:
        return self._metrics

    @metrics.setter
    def metrics(self, metrics: Any) -> None:
        self._metrics = metrics

    def get_request_id(self, idx: int = 0) -> str | None:
        return None if self.request_ids is None else self.request_ids.get(idx)

    def get_request_header(self, idx: int, key: str) -> Any:
        """The header as the client spelt it; None if there is none."""
        return self._row(idx).get_request_property(key)

    def get_all_request_header(self, idx: int) -> dict[str, Any]:
        return self._row(idx).get_request_properties()

    def get_sequence_id(self, idx: int) -> Any:
        return self._row(idx).get_request_property(self.header_key_sequence_id)

    def set_response_content_type(self, idx: int, value: object) -> None:
        if value is not None:
            self.set_response_header(idx, "content-type", value)

    def get_response_content_type(self, idx: int) -> str | None:
        return self.get_response_headers(idx).get("content-type")

    def set_response_header(self, idx: int, key: str, value: object) -> None:
        """See RequestProcessor.add_response_property."""
        self._row(idx).add_response_property(key, value)

    def get_response_headers(self, idx: int) -> dict[str, str]:
        return self._row(idx).get_response_headers()

    def set_response_status(self, code: int = 200, phrase: str | None = "", idx: int = 0) -> None:
        """Set the status of one row; without effect while the model is being loaded."""
        if self._request_processor is not None:
            self._row(idx).report_status(code, phrase)

    def set_all_response_status(self, code: int = 200, phrase: str | None = "") -> None:
        for row in self._request_processor or ():
            row.report_status(code, phrase)

    def get_response_status(self, idx: int) -> tuple[int, str | None]:
        """Status code and phrase of a row; the phrase is None until a handler has set one."""
        row = self._row(idx)
        return row.get_response_status_code(), row.get_response_status_phrase()

    def _row(self, idx: int) -> RequestProcessor:
        if self._request_processor is None:
            raise RuntimeError("There is no request: the model is still being loaded")
        return self._request_processor[idx]
