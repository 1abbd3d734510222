"""Which URLs models may come from. Pure: nothing is looked up, nothing is fetched.

A URL is taken apart and refused if it can be read in two ways, before anything is compared with
it. The list holds URLs, which admit everything below them, part by part; or, as in TorchServe's
files, regular expressions that must match the whole URL.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

SCHEMES = {"http": 80, "https": 443, "file": None, "s3": None}
LONGEST = 2048

_EXPRESSION = re.compile(r"[*+?^$|()\[\]{}\\]")
_PLAIN_PATH = re.compile(r"(?:/[A-Za-z0-9._~!$&'(),;=:@+-]+)+")
_PLAIN_HOST = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_LOOKS_LIKE_A_NUMBER = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)(?:\.(?:0x[0-9a-f]*|[0-9]+))*")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True, slots=True)
class Url:
    """A URL that can be read in one way only. ``query`` is kept for http, where it may be a key."""

    scheme: str
    host: str
    port: int | None
    path: str
    query: str = ""

    @property
    def name(self) -> str:
        """The last part of the path: what the archive is called in the model store."""
        return self.path.rpartition("/")[2]

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port in (None, SCHEMES[self.scheme]) else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"


def parse_url(text: str) -> Url:
    """The URL; raises ValueError with what is wrong with it, in words that a client may see."""
    if len(text) > LONGEST:
        raise ValueError(f"it is longer than {LONGEST} characters")
    if not text.isascii() or re.search(r"[\x00-\x20\x7f\\]", text):
        raise ValueError("it holds blanks, backslashes, or characters beyond ASCII")
    parts = urlsplit(text)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"its scheme is none of {', '.join(SCHEMES)}")
    if not text[len(parts.scheme) :].startswith("://"):
        raise ValueError("its scheme is not followed by ://")
    if "#" in text or "@" in parts.netloc or "%" in parts.netloc:
        raise ValueError("it holds a user, a fragment or an escaped host")
    if parts.query and parts.scheme not in ("http", "https"):
        raise ValueError("it holds a query")
    if not _PLAIN_PATH.fullmatch(parts.path) or {".", ".."} & set(parts.path.split("/")):
        raise ValueError("its path holds escapes, empty parts or dots alone")
    port = parts.port
    host = _host(parts.scheme, parts.hostname or "", parts.netloc)
    url = Url(parts.scheme, host, port or SCHEMES[parts.scheme], parts.path, parts.query)
    if not _FILE_NAME.fullmatch(url.name):
        raise ValueError("its last part is no plain file name")
    return url


def _host(scheme: str, host: str, netloc: str) -> str:
    if scheme == "file":
        if netloc:
            raise ValueError("it names a host")
        return ""
    if netloc.endswith(":"):
        raise ValueError("its port is empty")
    if scheme == "s3":
        if not _BUCKET.fullmatch(host) or host != netloc:
            raise ValueError("it names no bucket")
        return host
    if ":" in host:
        return str(ipaddress.IPv6Address(host))
    if _LOOKS_LIKE_A_NUMBER.fullmatch(host):
        # Anything but four decimal numbers is read differently by different programs.
        return str(ipaddress.IPv4Address(host))
    if not _PLAIN_HOST.fullmatch(host):
        raise ValueError("its host is no plain name")
    return host


class AllowedUrls:
    """What a server's ``allowed_urls`` admits; raises ValueError for entries that cannot be."""

    def __init__(self, text: str) -> None:
        self._below: list[Url] = []
        self._matching: list[re.Pattern[str]] = []
        for entry in filter(None, (item.strip() for item in text.split(","))):
            if _EXPRESSION.search(entry):
                self._matching.append(_compiled(entry))
            else:
                self._below.append(_prefix(entry))

    def __bool__(self) -> bool:
        return bool(self._below or self._matching)

    def admit(self, url: Url) -> bool:
        """``url`` is in the list, or below an entry of it."""
        return any(_is_below(url, each) for each in self._below) or any(
            pattern.fullmatch(str(url)) for pattern in self._matching
        )


def _compiled(entry: str) -> re.Pattern[str]:
    try:
        return re.compile(entry, re.IGNORECASE)
    except re.error as error:
        raise ValueError(f"{entry}: {error}") from None


def _prefix(entry: str) -> Url:
    """An entry without its last slash, read as strictly as a URL itself."""
    parts = urlsplit(entry)
    path = parts.path.rstrip("/")
    # An entry may end before the first part of a path: then a name stands in for it.
    probe = parse_url(f"{parts.scheme}://{parts.netloc}{path}/x")
    return Url(probe.scheme, probe.host, probe.port, path)


def _is_below(url: Url, entry: Url) -> bool:
    place = (url.scheme, url.host, url.port) == (entry.scheme, entry.host, entry.port)
    return place and (url.path == entry.path or url.path.startswith(f"{entry.path}/"))


def is_public(address: str) -> bool:
    """The IP address is one of the open internet, whatever it is wrapped in."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        for inner in (ip.ipv4_mapped, ip.sixtofour, _teredo(ip), _nat64(ip)):
            if inner is not None:
                return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


def _teredo(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    return None if ip.teredo is None else ip.teredo[1]


def _nat64(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if ip in ipaddress.IPv6Network("64:ff9b::/96"):
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return None
