"""One batch in, one Result out: the shapes that handlers see, and what becomes of their answers.

The shapes and the failure table are TorchServe's (``ts/service.py``, ``otf_message_handler.py``):
raw bytes are ``bytearray``, JSON is decoded, text is ``str``; an exception fails the batch with 503
``Prediction failed``, running out of memory with 507. One thing goes beyond it: an answer that is
an exception, or that cannot be serialised, fails its own request and no other.
"""

from __future__ import annotations

import io
import json
import logging
import time
from inspect import isgenerator
from typing import TYPE_CHECKING, Any

from .errors import PredictionException
from .log_lines import set_requests
from .protocol import Answer, Body, Chunk, Part, Request, Result, Work
from .streaming import set_emitter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .context import Context

    EntryPoint = Callable[[list[dict[str, Any]], Context], Any]

logger = logging.getLogger("flambeau.worker")

_SCALARS = frozenset({str, int, float, bool, type(None)})
_encode_flat = json.JSONEncoder(separators=(",\n  ", ": ")).encode


class Service:
    """A loaded model: answers batches through its handler's entry point."""

    def __init__(
        self,
        entry_point: EntryPoint,
        context: Context,
        *,
        decode_input: bool = True,
        name_content_types: bool = False,
        emit: Callable[[Chunk], None] | None = None,
    ) -> None:
        self._emit = emit
        self._entry_point = entry_point
        self._context = context
        self._decode_input = decode_input
        self._name_content_types = name_content_types
        self.is_spoilt = False
        """A CUDA error other than a lack of memory has left the GPU context unusable for good."""

    @property
    def schemas(self) -> tuple[str | None, str | None]:
        """What the handler says of its input and of its output: JSON Schema, as text."""
        return self._context.input_schema, self._context.output_schema

    def run(self, work: Work) -> Result:
        """The answers of one batch, in order. Handler errors become answers; nothing is raised,
        apart from SystemExit and KeyboardInterrupt, which end the worker.
        """
        requests: Sequence[Any] = work.requests
        ids = [request.id for request in requests]
        headers = [self._headers(request) for request in requests]
        data = [self._row(request) for request in requests]
        self._context.begin_batch(ids, headers)
        set_requests(ids)
        set_emitter(lambda row, item: self._give_away(work.batch_id, row, item))
        started = time.perf_counter()
        try:
            returned = self._entry_point(data, self._context)
            if type(returned) is list and any(map(isgenerator, returned)):
                returned = self._exhaust(work.batch_id, returned)
        except Exception as error:
            words = _words(error)
            self.is_spoilt = "CUDA error" in words and "out of memory" not in words
            answers = [_failure(error)] * len(requests)
            logger.exception("Prediction failed for request %s", ", ".join(ids))
        else:
            answers = self._answers(returned, ids)
        finally:
            set_emitter(None)
            set_requests(())
        handled = time.perf_counter() - started
        return Result(work.batch_id, handled, answers, self._samples())

    def _give_away(self, batch_id: int, row: int, item: object) -> None:
        """Send a piece of an answer; raises TypeError or ValueError for what has no bytes."""
        status, phrase = self._context.get_response_status(row)
        headers = self._response_headers(row, item)
        piece = Answer(status, phrase or "", headers, serialise(item))
        if self._emit is not None:
            self._emit(Chunk(batch_id, row, piece))

    def _exhaust(self, batch_id: int, returned: list[Any]) -> list[Any]:
        """Send what generators among the answers yield, turn by turn, until all have ended.

        One that raises ends its own answer; the others go on.
        """
        answers = [b"" if isgenerator(item) else item for item in returned]
        going = {row: item for row, item in enumerate(returned) if isgenerator(item)}
        while going:
            for row, generator in list(going.items()):
                try:
                    self._give_away(batch_id, row, next(generator))
                except StopIteration:
                    del going[row]
                except Exception as error:
                    del going[row]
                    answers[row] = error
        return answers

    def _answers(self, returned: object, ids: list[str]) -> list[Answer]:
        name, size = self._context.model_name, len(ids)
        if not isinstance(returned, list):
            logger.error(
                "model: %s, the handler returned a %s instead of a list of %d (request %s)",
                name,
                type(returned).__name__,
                size,
                ", ".join(ids),
            )
            return [_error(503, "Invalid model predict output")] * size
        if len(returned) != size:
            logger.error(
                "model: %s, number of batch response mismatched, expect: %d, got: %d (request %s)",
                name,
                size,
                len(returned),
                ", ".join(ids),
            )
            return [_error(503, "number of batch response mismatched")] * size
        return [self._answer(index, item, ids[index]) for index, item in enumerate(returned)]

    def _answer(self, index: int, item: object, request_id: str) -> Answer:
        if isinstance(item, Exception):
            logger.warning("Prediction failed for request %s: %s", request_id, _words(item))
            return _failure(item)
        try:
            body = serialise(item)
            status, phrase = self._context.get_response_status(index)
            headers = self._response_headers(index, item)
        except Exception as error:
            # Whatever a handler's objects do while they are read concerns its client only.
            logger.exception("Unsupported model output for request %s", request_id)
            failure = _failure(error)
            if failure.status == 507:
                return failure
            return _error(503, "Unsupported model output data type.")
        # An empty phrase is TorchServe's: the status line ends after the code.
        return Answer(status, phrase or "", headers, body)

    def _response_headers(self, row: int, item: object) -> list[tuple[str, str]]:
        """The handler's, and the content type of ``item`` where those that have none get one."""
        headers = list(self._context.get_response_headers(row).items())
        if self._name_content_types and all(name.lower() != "content-type" for name, _ in headers):
            headers.append(("Content-Type", content_type(item)))
        return headers

    def _row(self, request: Request) -> dict[str, Any]:
        if self._decode_input:
            return {part.name: decode_part(part) for part in request.parts}
        return {part.name: bytearray(part.body) for part in request.parts}

    def _headers(self, request: Request) -> dict[str, object]:
        headers: dict[str, object] = {
            part.name: {"content-type": part.content_type} for part in request.parts
        }
        headers.update(request.headers)
        return headers

    def _samples(self) -> list[list[Any]]:
        metrics = self._context.metrics
        return [] if metrics is None else [list(sample) for sample in metrics.drain()]


def decode_part(part: Part) -> Any:
    """A part as handlers see it: decoded JSON, ``str`` for text, else a ``bytearray``."""
    body = bytearray(part.body)
    try:
        if part.content_type == "application/json":
            return json.loads(body)
        if part.content_type.startswith("text"):
            return body.decode()
    except (ValueError, RecursionError):
        # TorchServe forwards what does not decode; the handler decides.
        logger.warning("Failed %s decoding of input data. Forwarding bytes", part.content_type)
    return body


def serialise(item: object) -> Body:
    """An answer's bytes; TypeError or ValueError for what has none."""
    if isinstance(item, (bytes, bytearray)):
        return item
    if isinstance(item, str):
        return item.encode()
    if _is_tensor(item):
        import torch

        stream = io.BytesIO()
        torch.save(item, stream)
        return stream.getvalue()
    return _json(item).encode()


def content_type(item: object) -> str:
    """What ``serialise`` makes of an answer."""
    if isinstance(item, str):
        return "text/plain; charset=utf-8"
    if isinstance(item, (bytes, bytearray)) or _is_tensor(item):
        return "application/octet-stream"
    return "application/json"


def _json(item: object) -> str:
    """``json.dumps(item, indent=2)``, to the letter.

    With an indent the library leaves its C encoder for one in Python that takes three times as
    long. What holds no containers can have the same text from the C encoder.
    """
    if item and type(item) is dict and _SCALARS.issuperset(map(type, item.values())):
        return f"{{\n  {_encode_flat(item)[1:-1]}\n}}"
    if item and type(item) is list and _SCALARS.issuperset(map(type, item)):
        return f"[\n  {_encode_flat(item)[1:-1]}\n]"
    return json.dumps(item, indent=2)


def _is_tensor(item: object) -> bool:
    # By name, so that a model without torch does not pay for importing it.
    return any(
        cls.__module__.partition(".")[0] == "torch" and cls.__name__ == "Tensor"
        for cls in type(item).__mro__
    )


def _error(status: int, message: str) -> Answer:
    return Answer(status, None, [], message.encode(errors="replace"), True)


def _failure(error: Exception) -> Answer:
    """TorchServe's answer to an exception of a handler, whatever nonsense that may carry."""
    if isinstance(error, PredictionException):
        code = error.error_code
        if code == 200:
            return Answer(200, "", [], b"error")
        if type(code) is int and 400 <= code <= 599:
            return _error(507 if code == 413 else code, str(error.message))
        logger.error("a PredictionException carries the code %r instead of 400 to 599", code)
        return _error(500, str(error.message))
    if isinstance(error, MemoryError) or "CUDA" in _words(error):
        return _error(507, "Out of resources")
    return _error(503, "Prediction failed")


def _words(error: Exception) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__
