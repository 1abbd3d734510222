"""The properties parser reads what Java's Properties.load reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambeau.frontend.properties import (
    PropertiesError,
    Property,
    UnsetVariableError,
    parse,
    substitute,
)


def as_dict(text: str) -> dict[str, str]:
    return {entry.key: entry.value for entry in parse(text)}


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("a=b", "a", "b"),
        ("a:b", "a", "b"),
        ("a b", "a", "b"),
        ("a\tb", "a", "b"),
        ("a\fb", "a", "b"),
        ("  a  =  b", "a", "b"),
        ("a = = b", "a", "= b"),
        ("a : = b", "a", "= b"),
        ("a==b", "a", "=b"),
        ("a=b ", "a", "b "),
        ("a", "a", ""),
        ("a=", "a", ""),
        ("a =", "a", ""),
        ("=b", "", "b"),
        (r"a\=b=c", "a=b", "c"),
        (r"a\:b c", "a:b", "c"),
        (r"a\ b c", "a b", "c"),
        (r"a=\u0041\u00e9", "a", "Aé"),
        (r"a=\ud83d\ude00", "a", "😀"),
        (r"a=\ud83d", "a", "\ufffd"),
        (r"a=x\ty\nz\rw\fv", "a", "x\ty\nz\rw\fv"),
        (r"a=\q\\\"", "a", 'q\\"'),
        (r"a=C:\\models", "a", r"C:\models"),
        ("a=b # no comment", "a", "b # no comment"),
        ("a=http://127.0.0.1:8080", "a", "http://127.0.0.1:8080"),
    ],
)
def test_a_line_is_split_and_unescaped(line: str, key: str, value: str) -> None:
    assert parse(line) == [Property(key, value, 1)]


def test_comments_and_blank_lines_are_no_entries() -> None:
    text = "# one\n  ! two\n\n \t\f\na=b\n#c=d\\\ne=f\n"
    assert parse(text) == [Property("a", "b", 5), Property("e", "f", 7)]


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_a_backslash_at_the_end_continues_the_line(end: str) -> None:
    text = f"models={{\\{end}   'a':\\{end}\t1}}{end}b=2{end}"
    assert parse(text) == [Property("models", "{'a':1}", 1), Property("b", "2", 4)]


def test_an_even_number_of_backslashes_does_not_continue() -> None:
    assert parse("a=b\\\\\nc=d") == [Property("a", "b\\", 1), Property("c", "d", 2)]


def test_a_continued_line_may_look_like_a_comment() -> None:
    assert as_dict("a=b\\\n#c") == {"a": "b#c"}


def test_a_blank_line_ends_a_continued_one() -> None:
    assert as_dict("a=b\\\n\nc=d") == {"a": "b", "c": "d"}


def test_a_backslash_at_the_very_end_is_dropped() -> None:
    assert as_dict("a=b\\") == {"a": "b"}


def test_duplicates_are_all_reported_in_order() -> None:
    assert parse("a=1\nb=2\na=3") == [Property("a", "1", 1), Property("b", "2", 2), ("a", "3", 3)]


@pytest.mark.parametrize("bad", [r"\u12", r"\u12g4", r"\u", r"\u-123"])
def test_a_broken_unicode_escape_names_its_line(bad: str) -> None:
    with pytest.raises(PropertiesError, match="four hexadecimal digits") as caught:
        parse(f"a=1\nb={bad}")
    assert caught.value.line == 2


def test_variables_are_replaced_once() -> None:
    environ = {"STORE": "/models/$$OTHER$$", "OTHER": "x", "_n1": "1"}
    assert substitute("$$STORE$$/a$$_n1$$", environ) == "/models/$$OTHER$$/a1"


@pytest.mark.parametrize("text", ["$$", "$$$$", "$A$", "$$ A$$", "$$A", "100$$"])
def test_lone_dollar_signs_stay(text: str) -> None:
    assert substitute(text, {"A": "no"}) == text


def test_an_unset_variable_is_named() -> None:
    with pytest.raises(UnsetVariableError, match=r"^Invalid Environment Variable STORE$"):
        substitute("$$STORE$$", {})


@st.composite
def written(draw: st.DrawFn, text: str, special: str) -> str:
    """``text`` as one of the ways to write it, with continuation lines thrown in."""
    pieces = []
    for character in text:
        if draw(st.integers(0, 9)) == 0:
            pieces.append("\\" + draw(st.sampled_from(["\n", "\r\n", "\r"])) + draw(blanks))
        as_unicode = character in "\n\r\t\f" or draw(st.booleans())
        if character in special and not as_unicode:
            pieces.append("\\" + character)
        elif character in special or character in "\n\r" or ord(character) > 0xFFFF:
            units = character.encode("utf-16-be").hex()
            pieces += [f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4)]
        else:
            pieces.append(character)
    return "".join(pieces)


blanks = st.text(" \t\f", max_size=2)
characters = st.characters(exclude_categories=["Cs"]) | st.sampled_from(" \t\f=:#!\\\n\r")
texts = st.text(characters, max_size=12)


@given(entries=st.lists(st.tuples(texts.filter(bool), texts), max_size=5), data=st.data())
def test_whatever_is_written_is_read_again(
    entries: list[tuple[str, str]], data: st.DataObject
) -> None:
    lines = []
    for key, value in entries:
        separator = data.draw(
            st.builds("{}{}{}".format, blanks, st.sampled_from("=:"), blanks), label="separator"
        )
        key_text = data.draw(written(key, "=: \t\f#!\\"), label="key")
        value_text = data.draw(written(value, " \t\f\\"), label="value")
        lines.append(data.draw(blanks) + key_text + separator + value_text)
        lines += data.draw(st.lists(st.sampled_from(["", "# c", "!x=y", "  \t"]), max_size=2))
    text = data.draw(st.sampled_from(["\n", "\r\n", "\r"])).join(lines)
    assert [(entry.key, entry.value) for entry in parse(text)] == entries


@given(st.text(st.sampled_from("ab=: \t\\#!\n\r"), max_size=40))
def test_no_text_without_unicode_escapes_is_refused(text: str) -> None:
    lines = [entry.line for entry in parse(text)]
    assert lines == sorted(set(lines))
