"""``TextIteratorStreamerBatch``: the texts of a batch while a model of transformers writes them."""

from __future__ import annotations

from typing import Any

from transformers.generation.streamers import BaseStreamer, TextIteratorStreamer


class TextIteratorStreamerBatch(BaseStreamer):  # type: ignore[misc]
    """A ``streamer`` for ``generate`` that can be iterated over, for ``batch_size`` texts at once.

    Each step gives a list of ``{"text": piece}``, one for each text; the piece is empty for a text
    that has ended before the others. ``skip_prompt``, ``timeout`` and the rest are those of
    transformers' ``TextIteratorStreamer``.
    """

    def __init__(
        self,
        tokenizer: Any,
        batch_size: int,
        skip_prompt: bool = False,
        timeout: float | None = None,
        **decode_kwargs: Any,
    ) -> None:
        self.batch_size = batch_size
        self.streamers = [
            TextIteratorStreamer(tokenizer, skip_prompt, timeout, **decode_kwargs)
            for _ in range(batch_size)
        ]
        self._going = set(range(batch_size))

    def put(self, value: Any) -> None:
        """Take the next tokens: a row for each text. Raises ValueError for other numbers of rows"""
        if len(value) != self.batch_size:
            raise ValueError(
                f"TextIteratorStreamerBatch was made for {self.batch_size} texts, and was given "
                f"tokens of shape {tuple(value.shape)}"
            )
        for streamer, row in zip(self.streamers, value.split(1), strict=True):
            streamer.put(row)

    def end(self) -> None:
        for streamer in self.streamers:
            streamer.end()

    def __iter__(self) -> TextIteratorStreamerBatch:
        return self

    def __next__(self) -> list[dict[str, str]]:
        pieces = [{"text": ""} for _ in self.streamers]
        for index in sorted(self._going):
            try:
                pieces[index]["text"] = next(self.streamers[index])
            except StopIteration:
                # It must not be asked again: it would wait for ever.
                self._going.remove(index)
        if not self._going:
            raise StopIteration
        return pieces
