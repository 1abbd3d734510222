"""From a request to what the handler is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from contract.rows import ANY, Differs, Expect, Has, Row, case, error

if TYPE_CHECKING:
    from collections.abc import Mapping

TARGET = "/predictions/telling"
TOO_LARGE = "the answer says what the limit is and which key raises it"
NAMED = "a form that cannot be read is the client's mistake: 400"


def given(
    data: Mapping[str, object],
    body: bytes,
    content_type: str | None = None,
    method: str = "POST",
    **headers: str,
) -> Row:
    """A request, and the ``data`` that the handler must see."""
    sent = {**({} if content_type is None else {"Content-Type": content_type}), **headers}
    return Row(method, TARGET, Expect(200, json=Has({"data": dict(data)})), body, sent)


def raw(text: str) -> dict[str, object]:
    return {"body": {"bytearray": text}}


def multipart(*parts: str) -> bytes:
    sections = [f"--b\r\n{part}\r\n" for part in parts]
    return "".join([*sections, "--b--\r\n"]).encode()


def file_part(name: str, content: str, content_type: str | None = None) -> str:
    kind = "" if content_type is None else f"Content-Type: {content_type}\r\n"
    return f'Content-Disposition: form-data; name="{name}"; filename="f"\r\n{kind}\r\n{content}'


def field_part(name: str, content: str, content_type: str | None = None) -> str:
    kind = "" if content_type is None else f"Content-Type: {content_type}\r\n"
    return f'Content-Disposition: form-data; name="{name}"\r\n{kind}\r\n{content}'


FORM = "application/x-www-form-urlencoded"
MULTI = "multipart/form-data; boundary=b"
PLAIN = "text/plain"

CASES = (
    case(
        "a raw body is a bytearray",
        given(raw("hi"), b"hi"),
        given(raw("hi"), b"hi", "application/octet-stream"),
        given(raw("hi"), b"hi", "image/png"),
        given(raw(""), b""),
        given(raw("hi"), b"hi", "APPLICATION/JSON"),
        given(raw("\xff\x00"), b"\xff\x00"),
    ),
    case(
        "JSON is decoded",
        given(
            {"body": {"dict": {"a": [1, 2.5, None, True]}}},
            b'{"a": [1, 2.5, null, true]}',
            "application/json",
        ),
        given({"body": {"list": [1]}}, b"[1]", "application/json; charset=utf-8"),
        given({"body": {"int": 7}}, b"7", "application/json"),
        given({"body": {"str": "x"}}, b'"x"', "application/json"),
        given({"body": {"NoneType": None}}, b"null", "application/json"),
        given({"body": {"str": "\u00e9"}}, '"é"'.encode(), "application/json"),
    ),
    case(
        "JSON that is none stays as it is",
        given(raw("{nope"), b"{nope", "application/json"),
        given(raw(""), b"", "application/json"),
        given(raw("\xff"), b"\xff", "application/json"),
    ),
    case(
        "text is decoded",
        given({"body": {"str": "hi"}}, b"hi", PLAIN),
        given({"body": {"str": "hi"}}, b"hi", "text/csv"),
        given({"body": {"str": "\u00e9"}}, "é".encode(), "text/plain; charset=utf-8"),
        given(raw("\xff"), b"\xff", PLAIN),
    ),
    case(
        "an url-encoded form",
        given({"a": {"bytearray": "1"}, "b": {"bytearray": "2"}}, b"a=1&b=2", FORM),
        given({"a": {"bytearray": "1 2"}}, b"a=1+2", FORM),
        given({"a": {"bytearray": "&"}}, b"a=%26", f"{FORM}; charset=utf-8"),
        given({"a": {"bytearray": "2"}}, b"a=1&a=2", FORM),
        given({}, b"hello", FORM),
        given({"a": {"bytearray": ""}}, b"a=", FORM),
        given({"a": {"bytearray": "1"}}, b"a=1", FORM, "PUT"),
        Row(
            "POST",
            TARGET,
            error(400, "BadRequestException", "Form field 1 has no name."),
            b"=x",
            {"Content-Type": FORM},
            torchserve=Differs(NAMED, error(500, "ErrorDataDecoderException", ANY)),
        ),
    ),
    case(
        "a multipart form",
        given({"f": {"bytearray": "hi"}}, multipart(file_part("f", "hi")), MULTI),
        given({"f": {"str": "hi"}}, multipart(file_part("f", "hi", PLAIN)), MULTI),
        given(
            {"f": {"dict": {"a": 1}}},
            multipart(file_part("f", '{"a": 1}', "application/json")),
            MULTI,
        ),
        given(
            {"f": {"bytearray": "{}"}}, multipart(field_part("f", "{}", "application/json")), MULTI
        ),
        given(
            {"f": {"bytearray": "two"}},
            multipart(file_part("f", "one"), file_part("f", "two")),
            MULTI,
        ),
        given(
            {"f": {"bytearray": "1"}, "g": {"bytearray": "2"}},
            multipart(file_part("f", "1"), field_part("g", "2")),
            MULTI,
        ),
        given({"f": {"bytearray": "hi"}}, multipart(file_part("f", "hi")), MULTI, "PUT"),
        given(raw("hi"), b"hi", "multipart/form-data"),
    ),
    case(
        "the content type of each input is among the headers",
        Row(
            "POST",
            TARGET,
            Expect(
                200,
                json=Has({"headers": Has({"f": {"content-type": "application/octet-stream"}})}),
            ),
            multipart(file_part("f", "hi")),
            {"Content-Type": MULTI},
        ),
        Row(
            "POST",
            TARGET,
            Expect(200, json=Has({"headers": Has({"f": {"content-type": PLAIN}})})),
            multipart(file_part("f", "hi", PLAIN)),
            {"Content-Type": MULTI},
        ),
    ),
    case(
        "header names keep their spelling",
        Row(
            "POST",
            TARGET,
            Expect(200, json=Has({"headers": Has({"X-A": "1", "x-a": "2"})})),
            b"x",
            {"X-A": "1", "x-a": "2"},
        ),
        Row(
            "POST",
            TARGET,
            Expect(200, json=Has({"headers": Has({"Authorization": "Bearer abc"})})),
            b"x",
            {"Authorization": "Bearer abc"},
        ),
    ),
    case(
        "a body in chunks",
        Row(
            expect=Expect(200, json=Has({"data": raw("hello")})),
            raw=b"POST /predictions/telling HTTP/1.1\r\nHost: h\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        ),
    ),
    case(
        "expectations",
        Row(
            expect=Expect(200, json=Has({"data": raw("hi")})),
            raw=b"POST /predictions/telling HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n"
            b"Content-Length: 2\r\n\r\nhi",
        ),
        Row("POST", TARGET, Expect(417), b"hi", {"Expect": "foo"}),
    ),
    case(
        "the longest body",
        Row("POST", TARGET, Expect(200), b"x" * 100_000),
        Row(
            "POST",
            TARGET,
            error(413, "PayloadTooLargeException", ANY),
            b"x" * 100_001,
            torchserve=Differs(TOO_LARGE, Expect(413, body=b"", headers={"x-request-id": None})),
        ),
    ),
    case(
        "nothing is decoded where the configuration says so",
        given(raw('{"a": 1}'), b'{"a": 1}', "application/json"),
        given(raw("hi"), b"hi", PLAIN),
        profile="raw",
    ),
)
