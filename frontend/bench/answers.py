"""Answers out of the bytes of a connection: strict HTTP/1.1, no more of it than a load needs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

KEPT = 4096
"""So much of a body is kept, to say what an error was."""
MOST_HEAD = 65536

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_HEAD = re.compile(
    rb"HTTP/1\.([01]) ([1-5]\d\d)(?: [^\r\n\0]*)?\r\n(?:" + _TOKEN + rb":[^\r\n\0]*\r\n)*"
)
_FRAMING = re.compile(rb"\r\n(content-length|transfer-encoding|connection):[ \t]*([^\r]*)")
_SIZE = rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n"
_FIRST_SIZE = re.compile(_SIZE)
# The line break that ends a chunk is read along with what follows it.
_NEXT_SIZE = re.compile(rb"\r\n" + _SIZE)
_TRAILER = re.compile(rb"(?:" + _TOKEN + rb":[^\r\n\0]*\r\n)*\r\n")
_LONGEST_SIZE = 1024
_NO_BODY = frozenset({204, 304})


class NotHttpError(ValueError):
    """What came is no answer; the message says why."""


class Answer(NamedTuple):
    """An answer that came whole. ``size`` are its bytes on the wire; ``body`` its first KEPT."""

    status: int
    head: bytes
    body: bytes
    size: int
    keeps_alive: bool
    is_chunked: bool


class AnswerParser:
    """Takes the bytes of a connection, one answer after the other.

    ``has_body`` is False where the requests are HEAD. ``in_body`` says that a part of a body is
    there and the end of it is not.
    """

    def __init__(self, has_body: bool = True) -> None:
        self.in_body = False
        self._has_body = has_body
        self._begin()

    def _begin(self) -> None:
        self._buffer = b""
        self._head: bytes | None = None
        self._status = 0
        self._size = 0
        self._kept = b""
        self._left: int | None = 0
        """Bytes of the body to come; None: until the connection ends."""
        self._chunks: ChunkedBody | None = None
        self._keeps_alive = False
        self.in_body = False

    @property
    def is_idle(self) -> bool:
        """Nothing of an answer is there."""
        return self._head is None and not self._buffer

    def feed(self, data: bytes) -> Answer | None:
        """The answer, once it is whole; raises NotHttpError."""
        if self._head is None:
            is_first = not (self._buffer or self._size)
            if is_first and (answer := self._at_once(data)) is not None:
                return answer
            self._size += len(data)
            rest = self._take_head(self._buffer + data if self._buffer else data)
            if rest is None:
                return None
            data = rest
        else:
            self._size += len(data)
        if self._chunks is not None:
            return self._take_chunks(self._chunks, data)
        if self._left is None:
            self._keep(data)
            return None
        if len(data) > self._left:
            raise NotHttpError("More came than its length says.")
        self._left -= len(data)
        self._keep(data)
        return None if self._left else self._whole()

    def _at_once(self, data: bytes) -> Answer | None:
        """The answer, if it is of the most usual kind; all else is left to the rest of the code.

        A load is mostly such answers, and what they cost is missing to the load.
        """
        end = data.find(b"\r\n\r\n")
        head = data[: end + 2]
        match = _HEAD.fullmatch(head) if end > 0 and self._has_body else None
        if match is None:
            return None
        version, code = match.groups()
        fields = _FRAMING.findall(head.lower())
        if version == b"0" or code < b"200" or code in (b"204", b"304") or len(fields) != 1:
            return None
        name, value = fields[0]
        body = data[end + 4 :]
        if name != b"content-length" or value != b"%d" % len(body):
            return None
        return Answer(int(code), head, body[:KEPT], len(data), True, False)

    def end(self) -> Answer | None:
        """The connection ended; the answer, if that is how it ends."""
        if self._head is None or self._chunks is not None or self._left is not None:
            return None
        return self._whole()

    def _take_head(self, data: bytes) -> bytes | None:
        """What follows the head; None while it is not whole."""
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                if len(data) > MOST_HEAD or not _may_begin(data):
                    raise NotHttpError(f"It begins with {data[:40]!r}.")
                self._buffer = data
                return None
            head, data = data[: end + 2], data[end + 4 :]
            match = _HEAD.fullmatch(head)
            if match is None:
                raise NotHttpError(f"It begins with {head[:40]!r}.")
            status = int(match[2])
            if status == 101:
                raise NotHttpError("It changes to another protocol.")
            if status >= 200:
                break
        self._buffer, self._head, self._status = b"", head, status
        self._frame(head, is_new=match[1] == b"1")
        return data

    def _frame(self, head: bytes, *, is_new: bool) -> None:
        """How long the body is, and whether another answer may follow."""
        lengths, codings = set(), []
        self._keeps_alive = is_new
        for name, value in _FRAMING.findall(head.lower()):
            if name == b"content-length":
                lengths.add(value.rstrip(b" \t"))
            elif name == b"transfer-encoding":
                codings.append(value.rstrip(b" \t"))
            elif b"close" in value:
                self._keeps_alive = False
            elif b"keep-alive" in value:
                self._keeps_alive = True
        if len(lengths) > 1 or (lengths and codings) or codings not in ([], [b"chunked"]):
            raise NotHttpError("How long it is can be read in more than one way.")
        length = lengths.pop() if lengths else None
        if length is not None and not (length.isdigit() and len(length) < 19):
            raise NotHttpError(f"Its length is {length[:40]!r}.")
        if not self._has_body or self._status in _NO_BODY:
            self._left = 0
        elif codings:
            self._chunks = ChunkedBody()
        elif length is not None:
            self._left = int(length)
        else:
            self._left, self._keeps_alive = None, False

    def _take_chunks(self, chunks: ChunkedBody, data: bytes) -> Answer | None:
        for piece in chunks.feed(data):
            self._keep(piece)
        return self._whole() if chunks.is_over else None

    def _keep(self, data: bytes) -> None:
        if len(self._kept) < KEPT:
            self._kept = (self._kept + data[:KEPT])[:KEPT]
        if data:
            self.in_body = True

    def _whole(self) -> Answer:
        answer = Answer(
            self._status,
            self._head or b"",
            self._kept,
            self._size,
            self._keeps_alive,
            self._chunks is not None,
        )
        self._begin()
        return answer


class ChunkedBody:
    """A body in chunks; ``is_over`` once its end has come."""

    def __init__(self) -> None:
        self.is_over = False
        self._left = 0
        self._line = _FIRST_SIZE
        """What is to come when no more of a chunk is."""
        self._buffer = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The pieces of the body in ``data``; raises NotHttpError."""
        data, place = self._buffer + data, 0
        while not self.is_over:
            if self._left:
                piece = data[place : place + self._left]
                place, self._left = place + len(piece), self._left - len(piece)
                yield piece
            match = None if self._left else self._line.match(data, place)
            if match is None:
                break
            place = match.end()
            if self._line is _TRAILER:
                self.is_over = True
            else:
                self._left = int(match[1], 16)
                self._line = _NEXT_SIZE if self._left else _TRAILER
        self._buffer = data[place:]
        if self.is_over and self._buffer:
            raise NotHttpError("More came than its last chunk.")
        if not self._left and not self._may_go_on(self._buffer):
            raise NotHttpError(f"Where a chunk should begin, it says {self._buffer[:40]!r}.")

    def _may_go_on(self, start: bytes) -> bool:
        """More bytes can make of it what is to come."""
        if self._line is _TRAILER:
            return len(start) < MOST_HEAD and b"\r\n\r\n" not in start
        return len(start) < _LONGEST_SIZE and b"\n" not in start[2:]


def _may_begin(data: bytes) -> bool:
    """An answer may begin so."""
    return data[:7] == b"HTTP/1."[: len(data)]
