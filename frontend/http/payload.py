"""From a request on the wire to the named parts that travel to a worker.

Here bodies are only read and split. What a part means (JSON, text, bytes) is decided by the worker
from the part's content type, so the frontend never parses a model's input.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote_to_bytes

from aiohttp import hdrs, web

from ..errors import BadRequestError, PayloadTooLargeError
from ..jobs import Part

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from aiohttp import StreamReader

MAX_PARTS = 1000
"""Form fields, files or query parameters in one request."""
MAX_PART_HEADERS = 8192
"""Bytes of headers of one part of a multipart body."""
MAX_BOUNDARY = 256

LARGE_FORM = 1 << 18
"""Bytes from which on a form is taken apart in a thread: a body full of percent escapes would keep
the event loop for half a second."""

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"
DEFAULT_FILE_TYPE = "application/octet-stream"

# Both alternatives of the value start with different characters, so this runs in linear time.
_HEADER_PARAMETER = re.compile(r';\s*([^\s=;"]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s;"]*)')
_ESCAPED = re.compile(r"\\(.)")
_BAD_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")


async def read_body(request: web.BaseRequest, limit: int) -> bytes:
    """The request's body as it was sent, compressed if the client compressed it.

    Raises PayloadTooLargeError if it is longer than ``limit`` bytes: before reading where the
    client says so up front, else as soon as the limit is passed.
    """
    if not request.body_exists:
        return b""

    headers = request.headers
    declared = headers.get(hdrs.CONTENT_LENGTH)
    if declared is not None and int(declared) > limit:
        raise PayloadTooLargeError(limit)

    if hdrs.EXPECT in headers:
        await _confirm(request)

    try:
        # Request.read() would collect the chunks in a bytearray and then copy that: a small body
        # is one chunk, which is used as it is.
        body = await request.content.readany()
        if not request.content.at_eof():
            body = await _read_rest(request.content, body, limit)
    except web.RequestPayloadError:
        raise BadRequestError("Invalid HTTP message.") from None

    if len(body) > limit:
        raise PayloadTooLargeError(limit)

    return body


async def _read_rest(content: StreamReader, first: bytes, limit: int) -> bytes:
    chunks = [first]
    size = len(first)
    while size <= limit and (chunk := await content.readany()):
        chunks.append(chunk)
        size += len(chunk)

    if size > limit:
        raise PayloadTooLargeError(limit)

    return b"".join(chunks)


async def _confirm(request: web.BaseRequest) -> None:
    """Tell a client that waits for it to send the body (curl waits a second otherwise)."""
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    # aiohttp takes bytes on the wire for the beginning of the answer.
    request.writer.output_size = 0


def client_headers(raw_headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """What a handler sees of the headers: the client's own, in its spelling.

    Bytes beyond ASCII are read as Latin-1, which never fails.
    """
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in raw_headers}


def headers_of(request: web.BaseRequest) -> dict[str, str]:
    """The same, with the length of a body that has been read, where the client gave none.

    TorchServe adds it, too.
    """
    headers = client_headers(request.raw_headers)
    if hdrs.CONTENT_LENGTH not in request.headers:
        headers["content-length"] = str(request.content.total_bytes)
    return headers


def clean_text(text: str) -> str:
    """``text`` without the lone surrogates by which aiohttp stands for bytes that are not UTF-8.

    They could be encoded neither for a worker nor for the log.
    """
    return (
        text if text.isascii() else text.encode(errors="surrogateescape").decode(errors="replace")
    )


async def read_parts(request: web.BaseRequest, limit: int, *, with_query: bool) -> list[Part]:
    """The inputs that a request brings.

    ``with_query`` puts the query parameters before those of the body; without it they are inputs
    only where there is no body at all. Raises PayloadTooLargeError and BadRequestError.
    """
    body = await read_body(request, limit)
    if body and not with_query:
        return await _split_body(request, body)

    parts = query_parts(request_query(request))
    if with_query or not parts:
        parts += await _split_body(request, body)
    return parts


async def _split_body(request: web.BaseRequest, body: bytes) -> list[Part]:
    content_type = clean_text(request.headers.get(hdrs.CONTENT_TYPE, ""))
    if len(body) >= LARGE_FORM and form_type(content_type) in (FORM, MULTIPART):
        return await asyncio.to_thread(body_parts, content_type, body)

    return body_parts(content_type, body)


def body_parts(content_type: str, body: bytes) -> list[Part]:
    """The inputs that ``body`` holds, by TorchServe's rules.

    A form gives one part per field, in order (a worker lets the last of equal names win); any
    other body is one part named ``body``. The content type of that part is what stands before the
    first semicolon, neither trimmed nor lowered: TorchServe decodes ``application/json`` only
    where it is written exactly so. Raises BadRequestError for a broken form.
    """
    mime_type, _, parameters = content_type.partition(";")
    kind = form_type(content_type)
    if kind == FORM:
        return _form_parts(body)

    if kind == MULTIPART:
        boundary = _header_parameters(";" + parameters).get("boundary")
        if boundary:
            return _multipart_parts(boundary, body)

    return [Part("body", mime_type, body)]


def form_type(content_type: str) -> str:
    """The media type as it is compared with those of forms."""
    return content_type.partition(";")[0].strip().lower()


def query_parts(query: list[tuple[str, str]]) -> list[Part]:
    """One part per query parameter, in order."""
    return [Part(name, "", value.encode()) for name, value in query]


def request_query(request: web.BaseRequest) -> list[tuple[str, str]]:
    """Names and decoded values of the query parameters; raises BadRequestError if too many."""
    return parse_query(clean_text(request.raw_path.partition("?")[2]))


def parse_query(query: str) -> list[tuple[str, str]]:
    """Names and decoded values in a query string; raises BadRequestError if too many."""
    if not query:
        return []

    try:
        return parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_PARTS)
    except ValueError:
        raise BadRequestError(f"More than {MAX_PARTS} query parameters.") from None


def _form_parts(body: bytes) -> list[Part]:
    """Fields of an URL-encoded form.

    As in TorchServe a bare last name is no field (so a body without any ``=`` gives none), while
    a bare name before an ``&`` is an empty one.
    """
    fields = body.rstrip(b"\r\n").split(b"&", MAX_PARTS)
    if len(fields) > MAX_PARTS:
        raise BadRequestError(f"More than {MAX_PARTS} form fields.")

    if b"=" not in fields[-1]:
        fields.pop()
    parts = []
    for number, field in enumerate(fields, start=1):
        if not field:
            continue

        name, _, value = field.partition(b"=")
        if not name:
            raise BadRequestError(f"Form field {number} has no name.")

        if _BAD_PERCENT.search(field):
            raise BadRequestError(f"Form field {number} has a malformed percent escape.")

        parts.append(Part(_unquote(name).decode(errors="replace"), "", _unquote(value)))
    return parts


def _unquote(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" "))


def _multipart_parts(boundary: str, body: bytes) -> list[Part]:
    if not body:
        return []

    if len(boundary) > MAX_BOUNDARY:
        raise BadRequestError(f"The multipart boundary is longer than {MAX_BOUNDARY} characters.")

    parts = []
    for number, (head, content) in enumerate(_sections(boundary.encode(), body), start=1):
        if number > MAX_PARTS:
            raise BadRequestError(f"The multipart body has more than {MAX_PARTS} parts.")

        parts.append(_multipart_part(number, head, content))
    return parts


def _sections(boundary: bytes, body: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Header block and content of each part of a multipart body (RFC 2046, section 5.1)."""
    view = memoryview(body)
    line = b"--" + boundary
    delimiter = b"\r\n" + line
    if _is_delimiter(body, line, 0):
        # The first delimiter may open the body, without a line break before it.
        at = len(line)
    else:
        at = _find_delimiter(body, delimiter, 0) + len(delimiter)
        if at < len(delimiter):
            raise BadRequestError("The multipart body does not contain its boundary.")

    number = 0
    while body[at : at + 2] != b"--":
        number += 1
        # Padding may follow the boundary. The line break behind it is also the first half of the
        # empty line where a part has no headers at all.
        start = body.find(b"\r\n", at)
        end = body.find(b"\r\n\r\n", start, start + MAX_PART_HEADERS)
        if end < 0:
            raise BadRequestError(f"The headers of multipart part {number} do not end.")

        at = _find_delimiter(body, delimiter, end + 2)
        if at < 0:
            raise BadRequestError(f"Multipart part {number} does not end with the boundary.")

        yield body[start + 2 : end], view[min(end + 4, at) : at]
        at += len(delimiter)


def _find_delimiter(body: bytes, delimiter: bytes, start: int) -> int:
    """Where the next delimiter begins, -1 if nowhere."""
    at = body.find(delimiter, start)
    while at >= 0 and not _is_delimiter(body, delimiter, at):
        at = body.find(delimiter, at + 1)
    return at


def _is_delimiter(body: bytes, delimiter: bytes, at: int) -> bool:
    """Content may hold the boundary's characters with more behind them: that is no delimiter."""
    if not body.startswith(delimiter, at):
        return False

    end = at + len(delimiter)
    if body.startswith(b"--", end):
        return True

    while body[end : end + 1] in (b" ", b"\t"):
        end += 1
    return body.startswith(b"\r\n", end)


def _multipart_part(number: int, head: bytes, content: memoryview) -> Part:
    headers = {}
    for line in head.decode(errors="replace").split("\r\n"):
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()

    disposition, _, rest = headers.get("content-disposition", "").partition(";")
    parameters = _header_parameters(";" + rest)
    if disposition.strip().lower() != "form-data" or "name" not in parameters:
        raise BadRequestError(
            f"Multipart part {number} lacks a Content-Disposition header "
            'of the form: form-data; name="..."'
        )

    if "filename" not in parameters and "filename*" not in parameters:
        # TorchServe hands plain fields over as bytes, whatever content type they claim.
        return Part(parameters["name"], "", content)

    file_type = headers.get("content-type", "").partition(";")[0].strip()
    return Part(parameters["name"], file_type or DEFAULT_FILE_TYPE, content)


def _header_parameters(text: str) -> dict[str, str]:
    """Parameters of a header's value, given from the first semicolon on; names in lower case."""
    parameters = {}
    for name, value in _HEADER_PARAMETER.findall(text):
        if value.startswith('"'):
            value = _ESCAPED.sub(r"\1", value[1:-1])
        parameters[name.lower()] = value
    return parameters
