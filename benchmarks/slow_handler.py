"""The handler of the model that streams: as many pieces as the JSON body asks for, one by one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


def handle(data: list[dict[str, Any]] | None, context: object) -> list[Any] | None:
    """Called once without data, when the model is loaded."""
    return None if data is None else [_pieces(row["body"]["pieces"]) for row in data]


def _pieces(count: int) -> Iterator[str]:
    for number in range(count):
        time.sleep(0.1)
        yield f"{number} "
