"""The wire between frontend and workers: ``encode`` and ``decode`` for its messages.

A message is ``[header][body 0] ... [body n]`` (the ROUTER adds the routing id in front). The header
is one msgpack array whose first item is the message's tag and whose other items are its fields in
order. A field that is missing takes its default and one that is unknown is ignored, so new fields
go last and have defaults. A body up to ``INLINE_LIMIT`` bytes rides inside the header; a longer one
is a frame of its own, and the header holds its index. Durations, never timestamps, cross the wire.

Whatever cannot be decoded raises ProtocolError: the receiver gives up on its peer.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, cast

import msgpack

from .. import FlambeauError
from .messages import (
    Answer,
    Bye,
    Cancel,
    Chunk,
    Hello,
    Load,
    Loaded,
    LoadFailed,
    Part,
    Ping,
    Pong,
    Request,
    Result,
    Stop,
    Work,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .messages import Body, Message

PROTOCOL_VERSION = (1, 3)
"""(major, minor). Another major version is refused; a minor one only adds fields and messages."""
CANCEL_SINCE = 2
"""The minor version from which on workers know Cancel."""
PING_SINCE = 3
"""The minor version from which on workers know Ping."""

INLINE_LIMIT = 16 * 1024
"""Bodies up to this many bytes travel inside the header: one frame costs more than the copy."""

EXIT_CUDA_ERROR = 86
"""Exit code of a worker that cannot go on because of its GPU."""
REQUESTS_MARK = "\x1f"
"""In a worker's log line the ids of the requests that it is about come after this."""

Frame = bytes | bytearray | memoryview


class ProtocolError(FlambeauError):
    """The peer sent something that is no message of this protocol."""


_TAGS: dict[type, int] = {
    Hello: 1,
    Loaded: 2,
    LoadFailed: 3,
    Result: 4,
    Bye: 5,
    Chunk: 6,
    Pong: 7,
    Load: 16,
    Work: 17,
    Stop: 18,
    Cancel: 19,
    Ping: 20,
}
_TYPES = {tag: cls for cls, tag in _TAGS.items()}

# Header values may hold bytes that are not UTF-8; surrogates carry them unharmed through str.
_pack = msgpack.Packer(use_bin_type=True, unicode_errors="surrogateescape").pack


def encode(message: Message) -> list[Frame]:
    """The frames of ``message``, header first."""
    frames: list[Frame] = [b""]
    cls = type(message)
    if cls is Work:
        fields = _encode_work(cast("Work", message), frames)
    elif cls is Result:
        fields = _encode_result(cast("Result", message), frames)
    elif cls is Chunk:
        chunk = cast("Chunk", message)
        fields = [chunk.batch_id, chunk.index, _encode_answer(chunk.piece, frames)]
    else:
        fields = [getattr(message, f.name) for f in dataclasses.fields(message)]
    frames[0] = cast("bytes", _pack([_TAGS[cls], *fields]))
    return frames


def decode(frames: Sequence[Frame]) -> Message:
    """The message in ``frames``; raises ProtocolError for anything else."""
    try:
        header = msgpack.unpackb(frames[0], raw=False, unicode_errors="surrogateescape")
        tag, *fields = header
        cls = _TYPES[tag]
        if cls is Work:
            return _decode_work(fields, frames)
        if cls is Result:
            return _decode_result(fields, frames)
        if cls is Chunk:
            batch_id, index, piece, *_ = fields
            return Chunk(_typed(batch_id, int), _typed(index, int), _decode_answer(piece, frames))
        known = dataclasses.fields(cls)
        message = cls(*fields[: len(known)])
        _check_types(message)
    except ProtocolError:
        raise
    except Exception as error:
        # msgpack and the unpacking above raise half a dozen unrelated types for junk.
        raise ProtocolError(f"undecodable message: {type(error).__name__}") from error
    return cast("Message", message)


def _attach(body: Body, frames: list[Frame]) -> Body | int:
    if len(body) <= INLINE_LIMIT:
        return body
    frames.append(body)
    return len(frames) - 1


def _body(value: object, frames: Sequence[Frame]) -> Body:
    if isinstance(value, bytes):
        return value
    if type(value) is int and 0 < value < len(frames):
        return frames[value]
    raise ProtocolError("a body is neither bytes nor the index of a frame")


def _encode_work(work: Work, frames: list[Frame]) -> list[Any]:
    requests = [
        (
            request.id,
            request.headers,
            [(part.name, part.content_type, _attach(part.body, frames)) for part in request.parts],
        )
        for request in work.requests
    ]
    return [work.batch_id, requests]


def _decode_work(fields: list[Any], frames: Sequence[Frame]) -> Work:
    batch_id, requests, *_ = fields
    return Work(
        _typed(batch_id, int),
        [
            Request(
                _typed(request_id, str),
                _typed(headers, dict),
                [
                    Part(_typed(name, str), _typed(kind, str), _body(body, frames))
                    for name, kind, body in parts
                ],
            )
            for request_id, headers, parts in requests
        ],
    )


def _encode_result(result: Result, frames: list[Frame]) -> list[Any]:
    answers = [_encode_answer(answer, frames) for answer in result.answers]
    fields = [result.batch_id, result.handler_seconds, answers, result.samples]
    if result.safe_batch or result.shortages or result.is_spoilt:
        fields += [result.safe_batch, result.shortages, result.is_spoilt]
    return fields


def _encode_answer(answer: Answer, frames: list[Frame]) -> tuple[Any, ...]:
    body = _attach(answer.body, frames)
    return answer.status, answer.reason, answer.headers, body, answer.is_error


def _decode_answer(fields: Any, frames: Sequence[Frame]) -> Answer:
    status, reason, headers, body, is_error = fields
    return Answer(
        _typed(status, int),
        reason if reason is None else _typed(reason, str),
        [(_typed(name, str), _typed(value, str)) for name, value in headers],
        _body(body, frames),
        _typed(is_error, bool),
    )


def _decode_result(fields: list[Any], frames: Sequence[Frame]) -> Result:
    batch_id, seconds, answers, *rest = fields
    return Result(
        _typed(batch_id, int),
        _typed(seconds, float),
        [_decode_answer(answer, frames) for answer in answers],
        _typed(rest[0], list) if rest else [],
        *(_typed(value, cls) for value, cls in zip(rest[1:], (int, int, bool), strict=False)),
    )


def _typed(value: Any, cls: type) -> Any:
    if type(value) is not cls:
        raise ProtocolError(f"expected {cls.__name__}, got {type(value).__name__}")
    return value


_FIELD_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "int | None": (int, type(None)),
    "str | None": (str, type(None)),
    "list[list[Any]]": (list,),
}


def _check_types(message: Any) -> None:
    # Annotations of messages are strings (PEP 563): one small table covers every control message.
    for f in dataclasses.fields(message):
        if type(getattr(message, f.name)) not in _FIELD_TYPES[str(f.type)]:
            raise ProtocolError(f"{type(message).__name__}.{f.name} has the wrong type")
