"""The contract as data: what is asked, and what must be seen.

A ``Case`` is a few requests in a row to one server; a ``Row`` is one of them with its expected
answer. Where flambeau differs from TorchServe on purpose, ``torchserve`` holds what that answers,
and why it differs here.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from contract.exchange import Reply

UUID4 = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


@dataclass(frozen=True)
class Like:
    """Text that matches a pattern wholly: how volatile fields are named."""

    pattern: str

    def matches(self, value: object) -> bool:
        return re.fullmatch(self.pattern, str(value), re.DOTALL) is not None


@dataclass(frozen=True)
class Has:
    """A JSON object with at least these fields."""

    fields: Mapping[str, Any]

    def matches(self, value: object) -> bool:
        return isinstance(value, dict) and all(
            name in value and agrees(wanted, value[name]) for name, wanted in self.fields.items()
        )


ANY = Like(r".*")


def agrees(wanted: Any, value: Any) -> bool:
    """``value`` is what is wanted; objects and lists are compared item by item."""
    if isinstance(wanted, (Like, Has)):
        return wanted.matches(value)
    if isinstance(wanted, dict):
        return (
            isinstance(value, dict)
            and wanted.keys() == value.keys()
            and all(agrees(wanted[key], value[key]) for key in wanted)
        )
    if isinstance(wanted, list):
        return (
            isinstance(value, list)
            and len(wanted) == len(value)
            and all(agrees(one, other) for one, other in zip(wanted, value, strict=True))
        )
    return type(wanted) is type(value) and bool(wanted == value)


@dataclass(frozen=True)
class Expect:
    """An answer. What is ``None`` does not matter; a header of ``None`` must be absent.

    ``json`` is compared as a value, ``body`` byte by byte (or by a pattern of its text).
    """

    status: int | None = 200
    json: Any = None
    body: bytes | Like | None = None
    reason: str | None = None
    headers: Mapping[str, str | Like | None] = field(default_factory=dict)

    def faults(self, reply: Reply) -> list[str]:
        """How ``reply`` differs, in words."""
        found = []
        if self.status is not None and reply.status != self.status:
            found.append(f"status {reply.status}, expected {self.status}")
        if self.reason is not None and reply.reason != self.reason:
            found.append(f"reason {reply.reason!r}, expected {self.reason!r}")
        for name, wanted in self.headers.items():
            value = reply.headers.get(name.lower())
            if value is None or wanted is None:
                if value is not wanted:
                    found.append(f"header {name}: {value!r}, expected {wanted!r}")
            elif not agrees(wanted, value):
                found.append(f"header {name}: {value!r}, expected {wanted!r}")
        if isinstance(self.body, Like):
            if not self.body.matches(reply.body.decode("latin-1")):
                found.append(f"body {reply.body[:300]!r}, expected {self.body.pattern!r}")
        elif self.body is not None and reply.body != self.body:
            found.append(f"body {reply.body[:300]!r}, expected {self.body[:300]!r}")
        if self.json is not None and not agrees(self.json, _parsed(reply.body)):
            found.append(f"body {reply.body[:600]!r}, expected JSON {self.json!r}")
        return found


def _parsed(body: bytes) -> object:
    try:
        return json.loads(body)
    except ValueError:
        return None


@dataclass(frozen=True)
class Differs:
    """What TorchServe answers where flambeau does not, on purpose."""

    why: str
    expect: Expect


@dataclass(frozen=True)
class Row:
    """One request and its answer. ``raw`` replaces everything that is sent, byte for byte."""

    method: str = "GET"
    target: str = "/"
    expect: Expect = field(default_factory=Expect)
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    port: str = "inference"
    raw: bytes | None = None
    torchserve: Differs | None = None

    def __str__(self) -> str:
        return f"{self.port} {self.raw[:60]!r}" if self.raw else f"{self.method} {self.target}"


@dataclass(frozen=True)
class Case:
    """Requests in a row to a server of one ``profile``."""

    id: str
    rows: tuple[Row, ...]
    profile: str = "open"


def case(identity: str, *rows: Row, profile: str = "open") -> Case:
    return Case(identity, rows, profile)


def error(status: int, kind: str, message: str | Like, **more: Any) -> Expect:
    """An error in TorchServe's envelope; flambeau's has the request's id besides."""
    fields = {"code": status, "type": kind, "message": message}
    headers = {"content-type": "application/json", **more.pop("headers", {})}
    return Expect(status, json=Has(fields), headers=headers, **more)


def status(text: str | Like, code: int = 200) -> Expect:
    """A message in the field ``status``."""
    return Expect(code, json={"status": text}, headers={"content-type": "application/json"})
