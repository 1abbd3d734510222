"""Rows of a batch that cannot be read: each is answered with an error of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..worker.errors import PredictionException

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class _Batch(list[Any]):
    """The rows of one batch, and why some of them have no answer, by index."""

    def __init__(self, rows: Any) -> None:
        super().__init__(rows)
        self.refused: Mapping[int, PredictionException] = {}


def handle_readable(handle: Callable[[Any, Any], Any], data: Any, context: Any) -> Any:
    """What ``handle`` answers, with their errors in the place of rows that it has set aside."""
    if not isinstance(data, list):
        return handle(data, context)
    batch = _Batch(data)
    try:
        answers = handle(batch, context)
    except PredictionException:
        if len(batch.refused) < len(batch):
            raise
        return [batch.refused[index] for index in range(len(batch))]
    if not batch.refused or not isinstance(answers, list) or len(answers) != len(batch):
        return answers
    return [batch.refused.get(index, answer) for index, answer in enumerate(answers)]


def set_aside(data: Sequence[Any], refused: Mapping[int, PredictionException]) -> None:
    """Note for ``handle_readable`` why rows of ``data`` cannot be read, by index.

    Raises PredictionException when no row can be read, and RuntimeError when some cannot and
    ``data`` is not the batch that ``handle_readable`` made: which requests its rows stand for is
    unknown then, and the error must not name one's fault to all.
    """
    if isinstance(data, _Batch):
        data.refused = refused
    elif refused and len(refused) < len(data):
        index = min(refused)
        raise RuntimeError(f"Row {index} of {len(data)}: {refused[index]}") from refused[index]
    if refused and len(refused) == len(data):
        raise refused[min(refused)]
