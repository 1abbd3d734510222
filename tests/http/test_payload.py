"""How request bodies are split into the parts that a worker gets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flambeau.frontend.errors import BadRequestError
from flambeau.frontend.http.payload import (
    MAX_PART_HEADERS,
    MAX_PARTS,
    body_parts,
    clean_text,
    parse_query,
    query_parts,
)

FORM = "application/x-www-form-urlencoded"


def split(content_type: str, body: bytes) -> list[tuple[str, str, bytes]]:
    return [(p.name, p.content_type, bytes(p.body)) for p in body_parts(content_type, body)]


def multipart(*parts: tuple[str, bytes], boundary: str = "XX") -> bytes:
    """A multipart body of (header lines, content)."""
    body = b"".join(
        f"--{boundary}\r\n{head}\r\n\r\n".encode() + content + b"\r\n" for head, content in parts
    )
    return body + f"--{boundary}--\r\n".encode()


def named(name: str, more: str = "") -> str:
    return f'Content-Disposition: form-data; name="{name}"{more}'


@pytest.mark.parametrize(
    ("content_type", "kept"),
    [
        ("", ""),
        ("application/json", "application/json"),
        ("application/json; charset=utf-8", "application/json"),
        ("application/json ;charset=utf-8", "application/json "),
        ("APPLICATION/JSON", "APPLICATION/JSON"),
        ("image/png", "image/png"),
    ],
)
def test_a_raw_body_is_one_part_with_the_mime_type_as_written(content_type, kept):
    assert split(content_type, b"\x00{") == [("body", kept, b"\x00{")]


def test_an_empty_body_is_an_empty_part():
    assert split("", b"") == [("body", "", b"")]


def test_a_raw_body_is_not_copied():
    body = b"x" * 1000
    assert body_parts("", body)[0].body is body


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"a=1&b=hello%20w", [("a", b"1"), ("b", b"hello w")]),
        (b"a=1+2&b=%2B", [("a", b"1 2"), ("b", b"+")]),
        (b"a=1&a=2", [("a", b"1"), ("a", b"2")]),
        (b"a=%ff", [("a", b"\xff")]),
        (b"a%3Db=c=d", [("a=b", b"c=d")]),
        (b"hello", []),
        (b'{"a":1}', []),
        (b"a=1&b", [("a", b"1")]),
        (b"a&b=2", [("a", b""), ("b", b"2")]),
        (b"a=&b=2", [("a", b""), ("b", b"2")]),
        (b"a=1&&b=2&", [("a", b"1"), ("b", b"2")]),
        (b"a=1\r\n", [("a", b"1")]),
        (b"", []),
    ],
)
def test_an_url_encoded_form_has_one_part_per_field(body, fields):
    assert split(FORM + "; charset=UTF-8", body) == [(name, "", value) for name, value in fields]


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"a=1&=x", "Form field 2 has no name."),
        (b"a=%zz", "Form field 1 has a malformed percent escape."),
        (b"a=1&b=%4", "Form field 2 has a malformed percent escape."),
        (b"a=1&" * MAX_PARTS + b"b=1", "More than 1000 form fields."),
    ],
)
def test_a_broken_form_is_refused_with_the_field(body, complaint):
    with pytest.raises(BadRequestError) as caught:
        body_parts(FORM, body)
    assert caught.value.message == complaint


def test_multipart_files_keep_their_type_and_fields_have_none():
    body = multipart(
        (named("picture", '; filename="7.png"') + "\r\nContent-Type: image/png", b"\x89PNG\r\n"),
        (named("notes", "; filename=a.txt") + "\r\ncontent-type: text/plain; charset=utf-8", b"n"),
        (named("untyped", '; filename="x"'), b""),
        (named("plain") + "\r\nContent-Type: application/json", b"{}"),
    )
    assert split("multipart/form-data; boundary=XX", body) == [
        ("picture", "image/png", b"\x89PNG\r\n"),
        ("notes", "text/plain", b"n"),
        ("untyped", "application/octet-stream", b""),
        ("plain", "", b"{}"),
    ]


def test_multipart_may_have_a_preamble_padding_an_epilogue_and_a_quoted_boundary():
    body = b"hello\r\n--a b \t\r\n" + named("x").encode() + b"\r\n\r\nv\r\n--a b--\r\nbye --a b"
    assert split('Multipart/Form-Data; charset=x; boundary="a b"', body) == [("x", "", b"v")]


def test_multipart_content_may_hold_the_boundarys_characters():
    content = b"a--XX\r\n--XXY\r\nmore--XX--"
    assert split("multipart/form-data; boundary=XX", multipart((named("x"), content))) == [
        ("x", "", content)
    ]


def test_multipart_content_may_be_missing_altogether():
    body = b"--XX\r\n" + named("x").encode() + b"\r\n\r\n--XX--"
    assert split("multipart/form-data; boundary=XX", body) == [("x", "", b"")]


def test_multipart_names_may_be_escaped_and_beyond_ascii():
    body = multipart((named('a\\"b;é'), b"1"))
    assert split("multipart/form-data; boundary=XX", body) == [('a"b;é', "", b"1")]


def test_multipart_without_parts_or_body_is_no_input():
    assert split("multipart/form-data; boundary=XX", b"--XX--\r\n") == []
    assert split("multipart/form-data; boundary=XX", b"") == []


def test_multipart_without_a_boundary_is_a_raw_body():
    assert split("multipart/form-data", b"abc") == [("body", "multipart/form-data", b"abc")]


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"hello", "The multipart body does not contain its boundary."),
        (b"--XXY\r\n", "The multipart body does not contain its boundary."),
        (b"--XX\r\n" + named("x").encode(), "The headers of multipart part 1 do not end."),
        (
            b"--XX\r\n" + b"h: " + b"x" * MAX_PART_HEADERS + b"\r\n\r\nv\r\n--XX--",
            "The headers of multipart part 1 do not end.",
        ),
        (
            b"--XX\r\n" + named("x").encode() + b"\r\n\r\nabc",
            "Multipart part 1 does not end with the boundary.",
        ),
        (
            multipart((named("x"), b"1"), ("Content-Type: text/plain", b"2")),
            "Multipart part 2 lacks a Content-Disposition header "
            'of the form: form-data; name="..."',
        ),
        (
            multipart(("Content-Disposition: form-data; filename=x", b"2")),
            "Multipart part 1 lacks a Content-Disposition header "
            'of the form: form-data; name="..."',
        ),
        (b"--XX\r\n\r\nv\r\n--XX--", "Multipart part 1 lacks a Content-Disposition header "
            'of the form: form-data; name="..."'),
        (
            multipart(*[(named("x"), b"")] * (MAX_PARTS + 1)),
            "The multipart body has more than 1000 parts.",
        ),
    ],
)  # fmt: skip
def test_a_broken_multipart_body_is_refused_with_the_reason(body, complaint):
    with pytest.raises(BadRequestError) as caught:
        body_parts("multipart/form-data; boundary=XX", body)
    assert caught.value.message == complaint


def test_a_monstrous_boundary_is_refused():
    with pytest.raises(BadRequestError, match="boundary is longer than 256"):
        body_parts("multipart/form-data; boundary=" + "x" * 257, b"abc")


def test_query_parameters_are_parts_in_order():
    query = parse_query("a=1&b=x+y%20z&a=%C3%A9&bare")
    parts = [(p.name, p.content_type, p.body) for p in query_parts(query)]
    assert parts == [
        ("a", "", b"1"),
        ("b", "", b"x y z"),
        ("a", "", "é".encode()),
        ("bare", "", b""),
    ]
    assert parse_query("") == []


@pytest.mark.parametrize(
    ("text", "cleaned"), [("abc", "abc"), ("é", "é"), ("a\udcff\udcc3\udca9", "a\ufffdé")]
)
def test_bytes_that_are_no_text_become_replacement_characters(text, cleaned):
    assert clean_text(text) == cleaned


def test_too_many_query_parameters_are_refused():
    with pytest.raises(BadRequestError, match="More than 1000 query parameters"):
        parse_query("&".join(["a=1"] * (MAX_PARTS + 1)))


FIELDS = st.lists(
    st.tuples(st.text(st.characters(exclude_categories=["C"]), min_size=1), st.binary())
)


@settings(deadline=None)
@given(fields=FIELDS, boundary=st.from_regex(r"[0-9A-Za-z'_-]{1,60}", fullmatch=True))
def test_any_multipart_body_is_read_back_as_it_was_written(fields, boundary):
    sections = [
        (named(name.replace("\\", "\\\\").replace('"', '\\"')), content)
        for name, content in fields
        if f"\r\n--{boundary}".encode() not in b"\r\n" + content
    ]
    kept = [
        (name, "", content)
        for name, content in fields
        if f"\r\n--{boundary}".encode() not in b"\r\n" + content
    ]
    body = multipart(*sections, boundary=boundary)
    assert split(f'multipart/form-data; boundary="{boundary}"', body) == kept


@settings(deadline=None)
@given(
    content_type=st.sampled_from([FORM, "multipart/form-data; boundary=X"]),
    body=st.lists(
        st.sampled_from(
            [b"--X", b"\r\n", b"--", b"\r\n--X\r\n", b"\r\n--X--", named("a").encode(), b"\r\n\r\n",
             b"a", b"=", b"&", b"%", b"%41", b" ", b"\xff", b'"', b";", b":"]
        )
    ).map(b"".join),
)  # fmt: skip
def test_no_body_breaks_the_parsers(content_type, body):
    try:
        parts = body_parts(content_type, body)
    except BadRequestError as error:
        assert error.message  # noqa: PT017 - either outcome is right, each must be well formed
    else:
        assert all(part.name is not None and len(part.body) <= len(body) for part in parts)
