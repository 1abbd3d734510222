"""What TorchServe's worker writes to its frontend, for test rigs that look at it.

Big-endian lengths of 32 bits before every text; flambeau's own wire is ``worker/protocol.py``.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Any

from ..messages import Answer
from ..rows import serialise

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_END = struct.pack("!i", -1)


def create_predict_response(
    ret: Any,
    req_id_map: Mapping[int, str],
    message: str,
    code: int,
    context: Any = None,
    ts_stream_next: bool = False,
) -> bytearray | None:
    """The message with an answer for each row; None in the ranks of a model that do not answer.

    Without ``ret`` every row is answered ``error``. What cannot be serialised makes all of them
    503, as in TorchServe.
    """
    if os.getenv("LOCAL_RANK", "0") != "0":
        return None
    answers = []
    try:
        for row in req_id_map:
            body = b"error" if ret is None else serialise(ret[row])
            answers.append(Answer(code, "", [], body))
            if context is not None:
                answers[-1] = _with_context(context, row, body, ts_stream_next)
    except (TypeError, ValueError):
        unsupported = "Unsupported model output data type."
        return create_predict_response(None, req_id_map, unsupported, 503)
    return predict_message(code, message, zip(req_id_map.values(), answers, strict=True))


def predict_message(code: int, message: str, answers: Iterable[tuple[str, Answer]]) -> bytearray:
    """The message with these answers, each with its request's id."""
    told = bytearray(struct.pack("!i", code) + _text(message))
    for request_id, answer in answers:
        headers = dict(answer.headers)
        told += _text(request_id) + _text(headers.get("content-type", ""))
        told += struct.pack("!i", answer.status) + _text(answer.reason or "")
        told += encode_response_headers(headers)
        told += struct.pack("!i", len(answer.body)) + answer.body
    return told + _END


def create_load_model_response(code: int, message: str) -> bytearray:
    """The message that a model was loaded, or why not."""
    return predict_message(code, message, ())


def encode_response_headers(resp_hdr_map: Mapping[str, str]) -> bytearray:
    """Their number, then names and values."""
    told = bytearray(struct.pack("!i", len(resp_hdr_map)))
    for name, value in resp_hdr_map.items():
        told += _text(name) + _text(value)
    return told


def _with_context(context: Any, row: int, body: Any, ts_stream_next: bool) -> Answer:
    if ts_stream_next:
        context.set_response_header(row, "ts_stream_next", "true")
    elif context.get_response_headers(row).get("ts_stream_next") == "true":
        context.set_response_header(row, "ts_stream_next", "false")
    status, phrase = context.get_response_status(row)
    return Answer(status, phrase, list(context.get_response_headers(row).items()), body)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("!i", len(encoded)) + encoded
