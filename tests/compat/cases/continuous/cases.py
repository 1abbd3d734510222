"""Sequences whose requests are answered in many pieces."""

from __future__ import annotations

from compat.case import Case
from compat.cases.stateful.cases import in_sequence

CASES = (
    Case(
        "continuous",
        handler="continuous/handler.py",
        config_file="continuous/config.yaml",
        extra_files=("stateful/lru.py",),
        rounds=(
            (in_sequence("one", 2, start=True),),
            (in_sequence("one", 4),),
            (in_sequence("one", 5),),
            (in_sequence("one", 0),),
        ),
        exact=True,
    ),
)
