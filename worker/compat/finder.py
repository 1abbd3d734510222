"""Finds the modules of ``ts`` where nobody has installed any.

Each is made when it is imported, from the table in ``names.py``: a thin face over flambeau's own
objects. An archive that brings a ``ts`` of its own gets that; a TorchServe that is installed beside
flambeau is not used. The log tells of both.
"""

from __future__ import annotations

import importlib
import logging
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from typing import TYPE_CHECKING

from ..modules import has_module
from .names import MODULES, REFUSED, Constant

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import ModuleType

logger = logging.getLogger(__name__)

_ROOT = __name__.partition(".")[0]


class TorchServeFinder(MetaPathFinder, Loader):
    """Finds and makes the modules of ``names.MODULES``."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in REFUSED:
            raise ImportError(f"flambeau has no {fullname}: {REFUSED[fullname]}", name=fullname)
        if fullname not in MODULES:
            return None
        is_package = any(name.startswith(f"{fullname}.") for name in (*MODULES, *REFUSED))
        return ModuleSpec(fullname, self, is_package=is_package)

    def exec_module(self, module: ModuleType) -> None:
        for name, place in MODULES[module.__name__].items():
            setattr(module, name, _resolve(place))
        if module.__spec__ is not None and module.__spec__.submodule_search_locations is not None:
            # TorchServe's worker has imported most of its modules before it runs a handler.
            module.__getattr__ = lambda name: _submodule(module.__name__, name)  # type: ignore[method-assign]


def install(model_dir: Path | None = None) -> None:
    """Let handlers, those of the archive ``model_dir`` or any, import from ``ts``. Idempotent."""
    if any(isinstance(finder, TorchServeFinder) for finder in sys.meta_path):
        return
    if model_dir is not None and has_module("ts", model_dir):
        logger.info("The archive brings a module ts of its own, which is used.")
        return
    if PathFinder.find_spec("ts") is not None:
        logger.warning(
            "A package ts is installed here; handlers get flambeau's own in its place. "
            "Uninstall torchserve to be rid of this line."
        )
    sys.meta_path.insert(0, TorchServeFinder())


def _submodule(package: str, name: str) -> ModuleType:
    """For ``import ts`` and then ``ts.context.Context``."""
    fullname = f"{package}.{name}"
    if fullname not in MODULES and fullname not in REFUSED:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return importlib.import_module(fullname)


def _resolve(place: str | Constant) -> object:
    if isinstance(place, Constant):
        return place.value
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(f"{_ROOT}.{module}"), name)
