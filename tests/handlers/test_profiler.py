"""Batches under torch's profiler."""

from __future__ import annotations

import json
import logging
import stat
import tempfile
from typing import TYPE_CHECKING, Any

import pytest
import torch

from flambeau.handlers.base import BaseHandler
from flambeau.handlers.profiler import trace_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flambeau.worker.context import Context


class Doubler(BaseHandler):
    def __init__(self) -> None:
        self.model = torch.nn.Identity()
        self.device = torch.device("cpu")


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.setenv("ENABLE_TORCH_PROFILER", "1")
    return place


def test_each_batch_leaves_a_trace(
    temporary: Path, make_context: Callable[..., Context], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    context = make_context(modelName="mnist")
    handler = Doubler()
    assert handler.handle([[1.0]], context) == [[1.0]]
    (trace,) = (temporary / "pytorch_profiler" / "mnist").iterdir()
    events = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"preprocess", "inference", "postprocess"} <= events
    assert "Self CPU" in caplog.text
    assert handler.profiler_args["record_shapes"]
    assert [sample.name for sample in context.metrics.drain()] == ["HandlerTime"]


def test_a_handlers_own_arguments_are_kept(
    temporary: Path, make_context: Callable[..., Context]
) -> None:
    seen: list[Any] = []

    class Explained(Doubler):
        profiler_args = {  # noqa: RUF012
            "activities": [torch.profiler.ProfilerActivity.CPU],
            "on_trace_ready": seen.append,
        }

        def get_insights(self, tensor_data: Any, _: Any, target: Any = 0) -> Any:
            return ["because"]

    context = make_context()
    context.begin_batch(["id"], [{"explain": "True"}])
    assert Explained().handle([[1.0]], context) == ["because"]
    assert "explain" in {event.key for event in seen[0].key_averages()}
    assert list(temporary.iterdir()) == []
    context.begin_batch(["id"], [{"describe": "True"}])
    assert Explained().handle([{}], context) == [None]


def test_a_folder_of_others_is_not_used(temporary: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (temporary / "pytorch_profiler").symlink_to(theirs)
    folder = trace_folder("mnist")
    assert folder.parent == temporary
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list(theirs.iterdir()) == []
    (temporary / "pytorch_profiler").unlink()
    (temporary / "pytorch_profiler").mkdir(mode=0o777)
    (temporary / "pytorch_profiler").chmod(0o777)
    assert trace_folder("mnist").parent == temporary


@pytest.mark.parametrize("name", ["../../etc", "..", "", None, "a/b"])
def test_an_archive_cannot_lead_the_traces_elsewhere(temporary: Path, name: Any) -> None:
    assert trace_folder(name) == temporary / "pytorch_profiler"
