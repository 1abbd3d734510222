"""The texts of a batch while a model writes them; transformers' own streamer is stood in for."""

from __future__ import annotations

import importlib
import queue
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


class Streamer:
    """As transformers' ``TextIteratorStreamer``: a queue of pieces, with a mark at the end."""

    def __init__(self, tokenizer: Any, skip_prompt: bool, timeout: float | None, **options: Any):
        self.made_with = (tokenizer, skip_prompt, timeout, options)
        self.pieces: queue.Queue[Any] = queue.Queue()

    def put(self, value: torch.Tensor) -> None:
        assert value.shape == (1, 1)
        self.pieces.put(f"<{value.item()}>")

    def end(self) -> None:
        self.pieces.put(None)

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        piece = self.pieces.get(timeout=10)
        if piece is None:
            raise StopIteration
        return piece


@pytest.fixture
def streamer_class(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    module: Any = ModuleType("transformers.generation.streamers")
    module.BaseStreamer, module.TextIteratorStreamer = object, Streamer
    for name in ("transformers", "transformers.generation"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    name = "flambeau.handlers.hf_batch_streamer"
    monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module(name).TextIteratorStreamerBatch
    sys.modules.pop(name, None)


def test_each_step_has_a_piece_of_each_text(streamer_class: Any) -> None:
    streamer = streamer_class("tokenizer", 2, skip_prompt=True, timeout=5, clean=True)
    assert streamer.streamers[0].made_with == ("tokenizer", True, 5, {"clean": True})
    streamer.put(torch.tensor([[1], [2]]))
    streamer.put(torch.tensor([[3], [4]]))
    streamer.end()
    assert list(streamer) == [
        [{"text": "<1>"}, {"text": "<2>"}],
        [{"text": "<3>"}, {"text": "<4>"}],
    ]


def test_a_text_that_ends_first_takes_nothing_from_the_others(streamer_class: Any) -> None:
    streamer = streamer_class("tokenizer", 2)
    streamer.put(torch.tensor([[1], [2]]))
    streamer.streamers[0].end()
    streamer.streamers[1].put(torch.tensor([[3]]))
    streamer.streamers[1].end()
    assert [[each["text"] for each in step] for step in streamer] == [["<1>", "<2>"], ["", "<3>"]]


def test_another_number_of_texts_is_refused(streamer_class: Any) -> None:
    with pytest.raises(ValueError, match="made for 2 texts"):
        streamer_class("tokenizer", 2).put(torch.zeros(3, 1))
