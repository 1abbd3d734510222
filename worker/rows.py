"""Requests into the rows that handlers see, and what they return into answers.

The shapes and the failure table are TorchServe's (``ts/service.py``, ``otf_message_handler.py``):
raw bytes are ``bytearray``, JSON is decoded, text is ``str``; an exception fails the batch with 503
``Prediction failed``, running out of memory with 507. One thing goes beyond it: an answer that is
an exception, or that cannot be serialised, fails its own request and no other.
"""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING, Any

from .errors import PredictionException, words
from .memory import lacks_memory
from .messages import Answer, Body, Part, Request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .context import Context

logger = logging.getLogger("flambeau.worker")

_SCALARS = frozenset({str, int, float, bool, type(None)})
_PLAIN = _SCALARS | {dict, list}
_TEXT = frozenset({str})
_encode_flat = json.JSONEncoder(separators=(",\n  ", ": ")).encode


class Rows:
    """How this worker reads requests and writes answers.

    ``decode_input``: JSON and text are decoded. ``name_content_types``: an answer whose handler
    names no content type gets the one that fits.
    """

    def __init__(self, *, decode_input: bool = True, name_content_types: bool = False) -> None:
        self._decode_input = decode_input
        self._name_content_types = name_content_types

    def row(self, request: Request) -> dict[str, Any]:
        """A request as an element of the handler's ``data``."""
        if self._decode_input:
            return {part.name: decode_part(part) for part in request.parts}
        return {part.name: bytearray(part.body) for part in request.parts}

    def headers(self, request: Request) -> dict[str, object]:
        """What the context has as the headers of a request."""
        headers: dict[str, object] = {
            part.name: {"content-type": part.content_type} for part in request.parts
        }
        headers.update(request.headers)
        return headers

    def answers(self, context: Context, returned: object, ids: Sequence[str]) -> list[Answer]:
        """The answers to requests ``ids`` for which the handler returned this."""
        mismatch = mismatched(context, returned, ids)
        if mismatch is not None:
            return [mismatch] * len(ids)
        items: list[Any] = returned  # type: ignore[assignment]
        return [self.answer(context, index, item, ids[index]) for index, item in enumerate(items)]

    def answer(self, context: Context, index: int, item: object, request_id: str) -> Answer:
        """The answer that the handler's item for one row makes."""
        if isinstance(item, Exception):
            logger.warning("Prediction failed for request %s: %s", request_id, words(item))
            return failure(item)
        try:
            return self.piece(context, index, item)
        except Exception as error:
            # Whatever a handler's objects do while they are read concerns its client only.
            logger.exception("Unsupported model output for request %s", request_id)
            failed = failure(error)
            if failed.status == 507:
                return failed
            return refusal(503, "Unsupported model output data type.")

    def piece(self, context: Context, index: int, item: object) -> Answer:
        """``item`` with the row's status and headers; TypeError or ValueError without bytes."""
        body = serialise(item)
        status, phrase = context.get_response_status(index)
        headers = list(context.get_response_headers(index).items())
        if self._name_content_types and all(name.lower() != "content-type" for name, _ in headers):
            headers.append(("Content-Type", content_type(item)))
        # An empty phrase is TorchServe's: the status line ends after the code.
        return Answer(status, phrase or "", headers, body)


def mismatched(context: Context, returned: object, ids: Sequence[str]) -> Answer | None:
    """The answer to each of ``ids`` where ``returned`` is no list with an item for each."""
    name, size = context.model_name, len(ids)
    if not isinstance(returned, list):
        logger.error(
            "model: %s, the handler returned a %s instead of a list of %d (request %s)",
            name,
            type(returned).__name__,
            size,
            ", ".join(ids),
        )
        return refusal(503, "Invalid model predict output")
    if len(returned) != size:
        logger.error(
            "model: %s, number of batch response mismatched, expect: %d, got: %d (request %s)",
            name,
            size,
            len(returned),
            ", ".join(ids),
        )
        return refusal(503, "number of batch response mismatched")
    return None


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
    if type(item) not in _PLAIN and _is_tensor(item):
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


def _json(item: Any, levels: int = 8) -> str:
    """``json.dumps(item, indent=2)``, to the letter.

    With an indent the library leaves its C encoder for one in Python that takes three times as
    long. What holds no containers can have the same text from the C encoder, and what holds some
    is put together from theirs, down to so many levels.
    """
    if type(item) in _SCALARS:
        return _encode_flat(item)
    if item and type(item) is dict:
        kinds = set(map(type, item.values()))
        if kinds <= _SCALARS:
            return f"{{\n  {_encode_flat(item)[1:-1]}\n}}"
        if levels and kinds <= _PLAIN and _TEXT.issuperset(map(type, item)):
            fields = [f"{_encode_flat(key)}: {_json(item[key], levels - 1)}" for key in item]
            return f"{{\n  {_inside(fields)}\n}}"
    if item and type(item) is list:
        kinds = set(map(type, item))
        if kinds <= _SCALARS:
            return f"[\n  {_encode_flat(item)[1:-1]}\n]"
        if levels and kinds <= _PLAIN:
            return f"[\n  {_inside([_json(each, levels - 1) for each in item])}\n]"
    return json.dumps(item, indent=2)


def _inside(texts: list[str]) -> str:
    """What is in a container, one step further in; line breaks in strings are escaped."""
    return ",\n".join(texts).replace("\n", "\n  ")


def _is_tensor(item: object) -> bool:
    # By name, so that a model without torch does not pay for importing it.
    return any(
        cls.__module__.partition(".")[0] == "torch" and cls.__name__ == "Tensor"
        for cls in type(item).__mro__
    )


def refusal(status: int, message: str) -> Answer:
    """An error of that status, with the message that its client reads."""
    return Answer(status, None, [], message.encode(errors="replace"), True)


def failure(error: Exception) -> Answer:
    """TorchServe's answer to an exception of a handler, whatever nonsense that may carry."""
    if isinstance(error, PredictionException):
        code = error.error_code
        if code == 200:
            return Answer(200, "", [], b"error")
        if type(code) is int and 400 <= code <= 599:
            return refusal(507 if code == 413 else code, str(error.message))
        logger.error("a PredictionException carries the code %r instead of 400 to 599", code)
        return refusal(500, str(error.message))
    if lacks_memory(error) or "CUDA" in words(error):
        return refusal(507, "Out of resources")
    return refusal(503, "Prediction failed")
