"""The cases: the upstream examples that a server on a CPU can run, in our own words.

Each folder below ``cases`` has the files of archives, and ``cases.py`` that says what they are and
what is asked of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from compat.archives import FILES

if TYPE_CHECKING:
    from compat.case import Case

CASES: tuple[Case, ...] = tuple(
    case
    for path in sorted(FILES.glob("*/cases.py"))
    for case in importlib.import_module(f"compat.cases.{path.parent.name}.cases").CASES
)
