"""The context of a worker, for handlers in the tests' own process."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from flambeau.worker.context import Context
from flambeau.worker.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _modules_as_before() -> Iterator[None]:
    known = set(sys.modules)
    yield
    for name in {"net", "layers"} & (set(sys.modules) - known):
        del sys.modules[name]


@pytest.fixture
def make_context(tmp_path: Path) -> Callable[..., Context]:
    def make_context(config: Any = None, gpu: int | None = None, **model: str) -> Context:
        manifest = {"model": {"modelName": "m", **model}}
        config = {} if config is None else config
        context = Context(
            "m", str(tmp_path), manifest, 1, gpu, "0.12.0", True, Metrics("m"), config
        )
        context.begin_batch(["id"], [{}])
        return context

    return make_context
