"""An answer in pieces."""

from __future__ import annotations

from compat.case import Case, predict

CASES = (
    Case(
        "streaming",
        handler="streaming/handler.py",
        rounds=((predict(b"42"),),),
        exact=True,
    ),
)
