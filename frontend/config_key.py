"""How a field of Config is declared to be a key of the configuration."""

from __future__ import annotations

import os
from dataclasses import field
from typing import TYPE_CHECKING, Any, TypeVar

from .settings import PATH, Kind, Setting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

T = TypeVar("T")


def key(kind: Kind, default: T, meaning: str, *, shown: str | None = None, **more: Any) -> T:
    """A field of Config that is a key of the configuration; ``shown`` words its default."""
    if shown is None:
        shown = str(default).lower() if isinstance(default, bool) else str(default)
    setting = Setting("", kind, shown, meaning, **more)
    made: Any = field(default_factory=lambda: default, metadata={"setting": setting})
    return made  # type: ignore[no-any-return]


def directory(derive: Callable[[Mapping[str, str]], Path], meaning: str, **more: Any) -> Path:
    """A key whose default depends on the environment."""
    setting = Setting("", PATH, meaning=meaning, derive=derive, **more)
    made: Any = field(
        default_factory=lambda: derive(os.environ).absolute(), metadata={"setting": setting}
    )
    return made  # type: ignore[no-any-return]
