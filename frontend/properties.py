"""Java's ``.properties`` format, in which TorchServe's ``config.properties`` is written."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_BLANK = " \t\f"
_LINE_END = re.compile(r"\r\n|\r|\n")
_BACKSLASHES_AT_END = re.compile(r"\\+\Z")
_ESCAPE = re.compile(r"\\(?:u(?P<hex>.{0,4})|(?P<char>.))", re.DOTALL)
_ESCAPES = str.maketrans(
    {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\f": "\\f"}
    | {char: f"\\{char}" for char in "=:#!"}
)
_NOT_PLAIN = re.compile(r"[^ -~]")
_CONTROL = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_VARIABLE = re.compile(r"\$\$([A-Za-z_][A-Za-z0-9_]*)\$\$")


class PropertiesError(ValueError):
    """The text cannot be read; ``line`` is where, counted from 1."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line


class UnsetVariableError(ValueError):
    """``$$NAME$$`` asks for an environment variable that is not set."""

    def __init__(self, name: str) -> None:
        super().__init__(f"Invalid Environment Variable {name}")
        self.name = name


class Property(NamedTuple):
    """One entry and the line that it starts on, counted from 1."""

    key: str
    value: str
    line: int


def parse(text: str) -> list[Property]:
    """Every entry in the order of the text, duplicates included; raises PropertiesError.

    As in Java, blanks after a value belong to it, and a value may be absent (then it is empty).
    """
    entries = []
    for number, line in _logical_lines(text):
        key, value = _split(line)
        try:
            entries.append(Property(_unescape(key), _unescape(value), number))
        except ValueError as error:
            raise PropertiesError(number, str(error)) from None
    return entries


def format_properties(entries: Mapping[str, str]) -> str:
    """``entries`` as a file that ``parse``, and Java, reads back; ASCII only."""
    return "".join(
        f"{_escape(key, of_key=True)}={_escape(value, of_key=False)}\n"
        for key, value in entries.items()
    )


def _escape(text: str, *, of_key: bool) -> str:
    escaped = text.translate(_ESCAPES)
    # Blanks end a key; in front of a value they would be skipped.
    if of_key:
        escaped = escaped.replace(" ", "\\ ")
    elif escaped.startswith(" "):
        escaped = "\\" + escaped
    return _NOT_PLAIN.sub(_as_units, escaped)


def _as_units(char: re.Match[str]) -> str:
    units = char[0].encode("utf-16-be", "surrogatepass")
    codes = [int.from_bytes(units[at : at + 2], "big") for at in range(0, len(units), 2)]
    return "".join(f"\\u{code:04x}" for code in codes)


def substitute(value: str, environ: Mapping[str, str]) -> str:
    """``value`` with each ``$$NAME$$`` replaced from ``environ``; raises UnsetVariableError.

    What is put in is not searched again.
    """

    def look_up(match: re.Match[str]) -> str:
        try:
            return environ[match[1]]
        except KeyError:
            raise UnsetVariableError(match[1]) from None

    return _VARIABLE.sub(look_up, value)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines that hold an entry, continuations joined, with the number of their first line."""
    start, joined = 0, ""
    for number, natural in enumerate(_LINE_END.split(text), start=1):
        line = natural.lstrip(_BLANK)
        # A line that continues another one is never a comment.
        if not start and (not line or line[0] in "#!"):
            continue
        start = start or number
        end = _BACKSLASHES_AT_END.search(line)
        if end is not None and len(end[0]) % 2:
            joined += line[:-1]
            continue
        if joined or line:
            yield start, joined + line
        start, joined = 0, ""
    if joined:
        yield start, joined


def _split(line: str) -> tuple[str, str]:
    """Key and value, still escaped: the key ends at the first bare ``=``, ``:`` or blank."""
    end = 0
    while end < len(line) and line[end] not in "=:" + _BLANK:
        end += 2 if line[end] == "\\" else 1
    rest = line[end:].lstrip(_BLANK)
    if rest[:1] in ("=", ":"):
        rest = rest[1:].lstrip(_BLANK)
    return line[:end], rest


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    plain = _ESCAPE.sub(_escaped_character, text)
    # Characters beyond U+FFFF are written as two \u escapes, which belong together.
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _escaped_character(match: re.Match[str]) -> str:
    digits = match["hex"]
    if digits is None:
        return _CONTROL.get(match["char"], match["char"])
    if not re.fullmatch(r"[0-9A-Fa-f]{4}", digits):
        raise ValueError(rf"\u{digits} is not a character: four hexadecimal digits must follow \u")
    return chr(int(digits, 16))
