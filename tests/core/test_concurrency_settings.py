"""How many batches a worker has in work, by what the archive says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from flambeau.frontend.config import Config
from flambeau.frontend.precedence import Registration, make_spec
from flambeau.model_store.model_config import ModelConfig


@pytest.mark.parametrize(
    ("archive", "concurrency", "asynchronous", "continuous"),
    [
        (ModelConfig(batch_size=8), 1, False, False),
        (ModelConfig(max_concurrency=7), 1, False, False),
        (ModelConfig(async_communication=True), 100, True, False),
        (ModelConfig(async_communication=True, max_concurrency=7), 7, True, False),
        (ModelConfig(continuous_batching=True, batch_size=8), 8, False, True),
        (ModelConfig(continuous_batching=True, async_communication=True), 1, False, True),
        (ModelConfig(continuous_batching=True, latency_target=50.0), 1, False, True),
    ],
)
def test_an_archive_says_how_many_batches_are_in_work(
    archive: ModelConfig, concurrency: int, asynchronous: bool, continuous: bool
) -> None:
    stored = SimpleNamespace(config=archive, model_dir=Path("dir"))
    spec = make_spec(("m", "1.0"), "h", Registration("m.mar"), stored, Config())  # type: ignore[arg-type]
    assert (spec.concurrency, spec.asynchronous, spec.continuous) == (
        concurrency,
        asynchronous,
        continuous,
    )


@pytest.mark.parametrize(
    ("archive", "size", "target"),
    [
        (ModelConfig(), 1, 0.0),
        (ModelConfig(latency_target=50.0), 64, 0.05),
        (ModelConfig(latency_target=50.0, batch_size=8), 8, 0.05),
    ],
)
def test_batches_are_large_with_a_target_unless_somebody_says_how_large(
    archive: ModelConfig, size: int, target: float
) -> None:
    stored = SimpleNamespace(config=archive, model_dir=Path("dir"))
    config = Config(batching="fixed")
    spec = make_spec(("m", "1.0"), "h", Registration("m.mar"), stored, config)  # type: ignore[arg-type]
    assert (spec.batch_size, spec.latency_target) == (size, target)
    assert spec.adaptive_batching == (target > 0), "which needs them to be adaptive"


def test_the_batch_size_of_the_call_is_that_of_continuous_batching() -> None:
    stored = SimpleNamespace(config=ModelConfig(continuous_batching=True), model_dir=Path("dir"))
    call = Registration("m.mar", batch_size=5)
    spec = make_spec(("m", "1.0"), "h", call, stored, Config())  # type: ignore[arg-type]
    assert (spec.concurrency, spec.batch_size) == (5, 5)
