"""What a key of the configuration may hold: kinds of values, and how each is read from text.

A kind's ``parse`` raises ValueError when the text will not do, with the reason where the kind's
``allowed`` does not say it all.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from ..model_store.allowed_urls import AllowedUrls
from ..model_store.signatures import PublicKey
from .version_settings import parse_models, parse_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_INT = 2**31 - 1
MAX_SOCKET_PATH = 107
"""Bytes in the path of a Unix socket."""
LOAD_ALL = ((None, "all"),)
"""The value of ``load_models`` that stands for everything in the model store."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A sort of value: what is allowed, in words that complete "must be ...", and its reader."""

    allowed: str
    parse: Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of the configuration, as the table in ``config.Config`` describes it.

    ``default`` is in words. ``derive`` makes it from the environment where it depends on that.
    ``flag`` is the key's command line option, ``alias`` TorchServe's name for it where that
    differs, ``variable`` one more environment variable, ``file_only`` tells that only the file may
    set it, ``secret`` that its value is not shown.
    """

    key: str
    kind: Kind
    default: str
    meaning: str
    flag: str | None = None
    alias: str | None = None
    variable: str | None = None
    file_only: bool = False
    secret: bool = False
    derive: Callable[[Mapping[str, str]], Path] | None = None

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables that set it, the one that counts first."""
        if self.file_only:
            return ()
        names = (f"FLAMBEAU_{self.key.upper()}", f"TS_{self.key.upper()}", self.variable)
        return tuple(name for name in names if name is not None)


class Address(NamedTuple):
    """Where a listener is: host and port, or the ``path`` of a Unix socket.

    Port 0 lets the system choose. A Unix socket has no host and the port 0.
    """

    host: str
    port: int
    is_tls: bool = False
    path: str = ""

    @property
    def is_loopback(self) -> bool:
        """Only this machine can reach it."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def is_wildcard(self) -> bool:
        return self.host in ("0.0.0.0", "::")  # noqa: S104 - a comparison, nothing is bound

    def is_one_with(self, other: Address) -> bool:
        """The two are one listener, as TorchServe takes two equal addresses."""
        return self == other and bool(self.path or self.port)

    def overlaps(self, other: Address) -> bool:
        """The two could not both listen."""
        if self.path or other.path:
            return self.path == other.path
        if self.port != other.port or self.port == 0:
            return False
        same_host = self.host == other.host or (self.is_loopback and other.is_loopback)
        return same_host or self.is_wildcard or other.is_wildcard

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.is_tls else 'http'}://{host}:{self.port}"


_ADDRESS_FORM = "an address such as http://127.0.0.1:8080, https://host:8443 or unix:/path"


def integer(low: int, high: int = MAX_INT) -> Kind:
    """Whole numbers from ``low`` to ``high``."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,20}", text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    upper = "up" if high == MAX_INT else f"to {high}"
    return Kind(f"a whole number from {low} {upper}", parse)


def number(low: float, high: float) -> Kind:
    """Numbers from ``low`` to ``high``, with a fraction or without."""

    def parse(text: str) -> float:
        if not re.fullmatch(r"[+-]?[0-9]{1,20}(\.[0-9]{0,20})?", text):
            raise ValueError
        value = float(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return Kind(f"a number from {low:g} to {high:g}", parse)


def choice(*values: str) -> Kind:
    """One of ``values``, in any case."""

    def parse(text: str) -> str:
        for value in values:
            if value.lower() == text.lower():
                return value
        raise ValueError

    return Kind(f"{', '.join(values[:-1])} or {values[-1]}", parse)


def address(http_port: int, https_port: int) -> Kind:
    """A listener's address; the ports are for one without a port."""

    def parse(text: str) -> str:
        return str(read_address(text, http_port, https_port))

    return Kind(_ADDRESS_FORM, parse)


def read_address(text: str, http_port: int = 80, https_port: int = 443) -> Address:
    """``http://host[:port]``, ``https://host[:port]`` or ``unix:/path``; raises ValueError."""
    if text.lower().startswith("unix:"):
        return Address("", 0, path=_socket_path(text[len("unix:") :]))
    form = f"must be {_ADDRESS_FORM}"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(form) from None
    if parts.scheme.lower() not in ("http", "https") or not host or parts.path not in ("", "/"):
        raise ValueError(form)
    if parts.query or parts.fragment or "@" in parts.netloc or re.search(r"\s", text):
        raise ValueError(form)
    is_tls = parts.scheme.lower() == "https"
    if port is None:
        port = https_port if is_tls else http_port
    return Address(host, port, is_tls)


def _socket_path(given: str) -> str:
    if not given.startswith("/") or not given.strip("/") or "\0" in given:
        raise ValueError("must be unix: and an absolute path, such as unix:/run/flambeau/http.sock")
    # unix:///path is in use, too.
    path = os.path.normpath("/" + given.lstrip("/"))
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise ValueError(f"must not be longer than {MAX_SOCKET_PATH} bytes: sockets allow no more")
    return path


def _parse_boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError
    return text.lower() == "true"


def _parse_header_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", text):
        raise ValueError
    return text


def _parse_ip_address(text: str) -> str:
    if text == "localhost":
        return text
    return str(ipaddress.ip_address(text.strip("[]")))


def _parse_open_inference(text: str) -> bool:
    """TorchServe's variable says oip for true, and anything else for false."""
    return text.lower() in ("true", "oip")


def _parse_levels(text: str) -> str:
    """``logger=LEVEL`` pairs, separated by commas."""
    for item in filter(None, text.split(",")):
        name, _, level = (part.strip() for part in item.partition("="))
        if not name or level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
            raise ValueError
    return text


def _parse_urls(text: str) -> str:
    AllowedUrls(text)
    return text


def _parse_signing_keys(text: str) -> str:
    try:
        for each in text.replace(",", " ").split():
            PublicKey.parse(each)
    except ValueError:
        raise ValueError from None
    return text


def _parse_module(text: str) -> str:
    if not all(part.isidentifier() for part in text.split(".")):
        raise ValueError
    return text


def _parse_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"must be a regular expression: {error}") from None
    return text


def _parse_file_mode(text: str) -> str:
    if not re.fullmatch("0?[0-7]{3}", text):
        raise ValueError
    return text[-3:]


def _parse_header_value(text: str) -> str:
    if not text.isascii() or not text.isprintable():
        raise ValueError
    return text


def _parse_path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError
    return Path(text)


def _parse_load_models(text: str) -> tuple[tuple[str | None, str], ...]:
    """``all``, ``none``, or a list of ``url`` and ``name=url`` separated by commas."""
    if text.lower() == "all":
        return LOAD_ALL
    if text.lower() in ("", "none"):
        return ()
    models: list[tuple[str | None, str]] = []
    for item in text.split(","):
        before, equals, after = (part.strip() for part in item.partition("="))
        name, url = (before, after) if equals else (None, before)
        if not url or name == "":
            raise ValueError(f"{item.strip()!r} in it is neither ARCHIVE nor NAME=ARCHIVE")
        models.append((name, url))
    return tuple(models)


HEADER_NAME = Kind("the name of a header, such as ts_request_sequence_id", _parse_header_name)
IP_ADDRESS = Kind("an IP address such as 127.0.0.1", _parse_ip_address)
ENVELOPE = Kind("body, json, kserve, kservev2 or the name of a module", _parse_module)
OPEN_INFERENCE = Kind("true or false", _parse_open_inference)
LEVELS = Kind("a list such as flambeau.engine=DEBUG", _parse_levels)
SIGNING_KEYS = Kind("public keys of minisign, such as RWQ...", _parse_signing_keys)
URLS = Kind("URLs such as https://models.example.com/team, with commas", _parse_urls)
BOOLEAN = Kind("true or false", _parse_boolean)
TEXT = Kind("text", str)
PATTERN = Kind("a regular expression", _parse_pattern)
HEADER_VALUE = Kind("printable ASCII characters", _parse_header_value)
FILE_MODE = Kind("a file mode such as 660", _parse_file_mode)
PATH = Kind("a path", _parse_path)
LOAD_MODELS = Kind("all, none, or a list such as a.mar,name=b.mar", _parse_load_models)
SNAPSHOT = Kind("the summary of a snapshot, as JSON", parse_snapshot)
MODELS = Kind('a JSON object: {"<model>": {"<version>": {"minWorkers": 1}}}', parse_models)
