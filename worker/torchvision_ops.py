"""Lets torchvision's build for CUDA, which is PyPI's, be imported beside a torch for the CPU.

Its compiled part cannot be loaded then, and the import fails for two operators that are described
but not there. Once their schemas are known, all works that needs no compiled part: transforms, and
models that classify or segment. What needs more (NMS, ROI operators) says so when it is called.
"""

from __future__ import annotations

import logging
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

logger = logging.getLogger(__name__)

_SCHEMAS = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[Any] = []
"""Schemas live as long as the library that they were declared with."""


class _Watcher(MetaPathFinder):
    """Finds nothing; looks at torchvision once, when it is imported for the first time."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            spec = PathFinder.find_spec(fullname)
            if spec is not None and spec.origin and is_unfit(Path(spec.origin).parent):
                _declare()
        return None


def install() -> None:
    """Look at torchvision when a handler imports it, if one ever does."""
    known = any(isinstance(finder, _Watcher) for finder in sys.meta_path)
    if not known and "torchvision" not in sys.modules:
        sys.meta_path.insert(0, _Watcher())


def is_unfit(torchvision: Path) -> bool:
    """Whether the package in that folder was built for CUDA, and the torch that is here was not."""
    import torch

    if torch.version.cuda is not None or torch.version.hip is not None:
        return False
    return any(b"libc10_cuda" in path.read_bytes() for path in torchvision.glob("_C*.so"))


def _declare() -> None:
    import torch

    logger.warning(
        "The torchvision that is installed was built for CUDA, and torch was not: detection models "
        "will not work. Install both from one place: PyTorch's index of builds for the CPU."
    )
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in _SCHEMAS:
        library.define(f"{name}{_SIGNATURE}")  # type: ignore[no-untyped-call]
    _declared.append(library)
