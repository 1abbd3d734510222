"""A compatibility case as data: an archive, what is asked of it, and how answers are compared."""

from __future__ import annotations

import base64
import json
import math
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contract.exchange import exchange
from contract.rows import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from contract.exchange import Reply

ANSWERS = Path(__file__).parent / "answers"
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
COMPARED_HEADERS = (
    "content-type",
    "transfer-encoding",
    "ts_stream_next",
    "ts_request_sequence_id",
    "ts_request_sequence_end",
)


@dataclass(frozen=True)
class Answer:
    """What of an answer is kept and compared; ``pieces`` are those of a chunked body."""

    status: int
    body: str
    headers: Mapping[str, str] = field(default_factory=dict)
    pieces: tuple[str, ...] = ()

    def fields(self) -> dict[str, Any]:
        """As JSON, without what is empty."""
        return {name: value for name, value in vars(self).items() if value not in ({}, ())}

    def faults(self, answer: Answer, exact: bool) -> list[str]:
        """How ``answer`` differs from this one, in words."""
        found = []
        if answer.status != self.status:
            found.append(f"status {answer.status}, expected {self.status}")
        if answer.headers != self.headers:
            found.append(f"headers {answer.headers}, expected {self.headers}")
        if len(answer.pieces) != len(self.pieces):
            found.append(f"pieces {answer.pieces}, expected {self.pieces}")
        agree = _same_error if self.status >= 400 else _same if exact else _close
        pairs = zip((self.body, *self.pieces), (answer.body, *answer.pieces), strict=False)
        found += [
            f"body {theirs[:300]!r}, expected {ours[:300]!r}"
            for ours, theirs in pairs
            if not agree(ours, theirs)
        ]
        return found


def _same(expected: str, body: str) -> bool:
    return body == expected


def _same_error(expected: str, body: str) -> bool:
    """The fields that TorchServe has; flambeau's errors have more."""
    try:
        wanted, fields = json.loads(expected), json.loads(body)
    except ValueError:
        return body == expected
    return bool(fields == {**fields, **wanted})


def _close(expected: str, body: str) -> bool:
    """The same text but for numbers, which may differ in the last digits of a float32."""
    if NUMBER.sub("0", body) != NUMBER.sub("0", expected):
        return False
    return all(
        math.isclose(float(one), float(other), rel_tol=1e-5, abs_tol=1e-6)
        for one, other in zip(NUMBER.findall(expected), NUMBER.findall(body), strict=True)
    )


def whole(reply: Reply) -> str:
    """The body as text; bytes that are none in base64."""
    return _text(reply.body)


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(body).decode()


@dataclass(frozen=True)
class Ask:
    """One request. ``{case}`` in its target is the model's name.

    ``view`` is the text of a reply that is compared. Where flambeau differs on purpose, ``ours``
    is the status that it answers with, and ``why`` the reason.
    """

    row: Row
    view: Callable[[Reply], str] = whole
    ours: int | None = None
    why: str = ""

    def send(self, addresses: Mapping[str, str], model: str) -> Answer:
        """Ask a server for ``model``; what it answers."""
        row = replace(self.row, target=self.row.target.replace("{case}", model))
        reply = exchange(addresses, row)
        kept = {name: reply.headers[name] for name in COMPARED_HEADERS if name in reply.headers}
        pieces = tuple(map(_text, reply.pieces))
        return Answer(reply.status, self.view(reply), kept, pieces)


@dataclass(frozen=True)
class Case:
    """One model, and rounds of requests; those of a round are sent at once, in order.

    Paths are below the folder ``cases``. ``generated`` are files that are made when the archive
    is: name to a function that writes it. ``exact`` answers are compared byte by byte, others to
    the precision of a float32.
    """

    id: str
    handler: str
    rounds: tuple[tuple[Ask, ...], ...]
    model_file: str | None = None
    serialized_file: str | None = None
    config_file: str | None = None
    extra_files: tuple[str, ...] = ()
    generated: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)
    profile: str = "plain"
    exact: bool = False

    def play(self, addresses: Mapping[str, str]) -> list[list[Answer]]:
        """Ask everything of the server at ``addresses``; its answers, round by round."""
        return [_at_once(addresses, self.id, asks) for asks in self.rounds]

    @property
    def answers_file(self) -> Path:
        return ANSWERS / f"{self.id}.json"

    def known_answers(self) -> list[list[Answer]]:
        """What the real TorchServe answers."""
        rounds = json.loads(self.answers_file.read_text())["rounds"]
        return [
            [Answer(**{**fields, "pieces": tuple(fields.get("pieces", ()))}) for fields in answers]
            for answers in rounds
        ]


def _at_once(addresses: Mapping[str, str], model: str, asks: tuple[Ask, ...]) -> list[Answer]:
    if len(asks) == 1:
        return [asks[0].send(addresses, model)]
    with ThreadPoolExecutor(len(asks)) as pool:
        return list(pool.map(lambda ask: ask.send(addresses, model), asks))


def predict(
    body: bytes | str | Any = b"",
    content_type: str | None = None,
    path: str = "/predictions/{case}",
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> Ask:
    """A prediction; a body that is neither bytes nor text is sent as JSON."""
    if not isinstance(body, (bytes, str)):
        body, content_type = json.dumps(body), content_type or "application/json"
    content = body.encode() if isinstance(body, str) else body
    kind = {} if content_type is None else {"Content-Type": content_type}
    return Ask(Row("POST", path, body=content, headers={**kind, **(headers or {})}), **more)


def one_by_one(*asks: Ask) -> tuple[tuple[Ask, ...], ...]:
    """Rounds of one request each."""
    return tuple((ask,) for ask in asks)


def form(fields: Mapping[str, bytes], path: str = "/predictions/{case}", **more: Any) -> Ask:
    """A multipart form whose fields are files of type octet-stream."""
    parts = [
        f'--edge\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n".encode()
        + value
        + b"\r\n"
        for name, value in fields.items()
    ]
    return predict(
        b"".join(parts) + b"--edge--\r\n", "multipart/form-data; boundary=edge", path, **more
    )
