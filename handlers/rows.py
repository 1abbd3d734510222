"""Rows of a batch that cannot be read: each is answered with an error of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..worker.errors import PredictionException

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class Batch(list[Any]):
    """Rows that are answered together, and why some of them have no answer, by index."""

    def __init__(self, rows: Any) -> None:
        super().__init__(rows)
        self.refused: Mapping[int, PredictionException] = {}

    @property
    def is_refused(self) -> bool:
        """No row can be read."""
        return len(self.refused) == len(self) > 0

    def completed(self, answers: Any) -> Any:
        """The answers with errors in the place of rows that were set aside.

        Whatever is no list of an answer for each row is left as it is.
        """
        if not self.refused or not isinstance(answers, list) or len(answers) != len(self):
            return answers
        return [self.refused.get(index, answer) for index, answer in enumerate(answers)]


def handle_readable(handle: Callable[[Any, Any], Any], data: Any, context: Any) -> Any:
    """What ``handle`` answers, with their errors in the place of rows that it has set aside."""
    if not isinstance(data, list):
        return handle(data, context)
    batch = Batch(data)
    try:
        answers = handle(batch, context)
    except PredictionException:
        if not batch.is_refused:
            raise
        answers = [None] * len(batch)
    return batch.completed(answers)


def set_aside(data: Sequence[Any], refused: Mapping[int, PredictionException]) -> None:
    """Note why rows of ``data`` cannot be read, by index.

    Raises PredictionException when no row can be read, and RuntimeError when some cannot and
    ``data`` is no ``Batch``: which requests its rows stand for is unknown then, and the error must
    not name one's fault to all.
    """
    if isinstance(data, Batch):
        data.refused = refused
    elif refused and len(refused) < len(data):
        index = min(refused)
        raise RuntimeError(f"Row {index} of {len(data)}: {refused[index]}") from refused[index]
    if refused and len(refused) == len(data):
        raise refused[min(refused)]
