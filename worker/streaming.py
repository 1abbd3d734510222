"""``send_intermediate_predict_response``: how handlers give away an answer piece by piece."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_emit: Callable[[int, object], None] | None = None
_emit_of_task: ContextVar[Callable[[int, object], None] | None] = ContextVar("emit", default=None)


def set_emitter(emit: Callable[[int, object], None] | None) -> None:
    """Have pieces given to ``emit(row, piece)``; None outside a batch."""
    global _emit
    _emit = emit


def set_task_emitter(emit: Callable[[int, object], None]) -> None:
    """The same for the task that runs now, and for what it starts."""
    _emit_of_task.set(emit)


def send_intermediate_predict_response(
    ret: Sequence[object],
    req_id_map: Mapping[int, str] | None,
    message: str,
    code: int,
    context: Any = None,
) -> None:
    """Send a piece of each answer now; what the handler returns in the end is the last one.

    ``ret`` has one item for each row of ``req_id_map``, of any kind that a handler may return.
    ``message``, ``code`` and ``context`` are accepted as TorchServe does: status and headers are
    those that have been set on the context. Raises RuntimeError outside a batch, and what
    serialising an item raises.
    """
    emit = _emit_of_task.get() or _emit
    if emit is None:
        raise RuntimeError("There is no request: pieces can be sent while a batch is handled only")
    for row in req_id_map if req_id_map is not None else range(len(ret)):
        emit(row, ret[row])
