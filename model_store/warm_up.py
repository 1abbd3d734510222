"""The requests of ``warmUp`` in model-config.yaml: a worker is tried with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import InvalidModelError
from .manifest import read_inside

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from .model_config import WarmUp

MAX_WARM_UP_BYTES = 16 << 20
"""All bodies together."""


@dataclass(frozen=True, slots=True)
class WarmUpBody:
    """One request: its body, of a media type, to be sent so many times."""

    body: bytes
    content_type: str
    times: int


def read_warm_up(model_dir: Path, entries: Iterable[WarmUp]) -> tuple[WarmUpBody, ...]:
    """The requests that the model's configuration lists; files come from the model's folder.

    Raises InvalidModelError for a file that is not there, leads out of the folder, or is too large.
    """
    found, room = [], MAX_WARM_UP_BYTES
    for entry in entries:
        if entry.file is not None:
            body = _read(model_dir, entry.file, room)
        elif entry.json is not None:
            body = entry.json.encode()
        else:
            body = (entry.data or "").encode()
        room -= len(body)
        if room < 0:
            raise InvalidModelError(f"warmUp: more than {MAX_WARM_UP_BYTES} bytes in all")
        found.append(WarmUpBody(body, entry.content_type, entry.times))
    return tuple(found)


def _read(model_dir: Path, name: str, room: int) -> bytes:
    content = read_inside(model_dir, name, room)
    if content is None:
        raise InvalidModelError(f"warmUp: the model has no file {name!r}; add it to the archive.")
    return content
