"""Requests that a worker answers before it says that it is ready."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from .errors import WarmUpError
from .messages import Part, Request, Work
from .protocol import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .messages import Answer
    from .service import Service

logger = logging.getLogger("flambeau.worker")

_WARM_UP_BATCH = 0
"""No batch of clients has this number."""


def warm_up(service: Service, orders: Sequence[Sequence[Any]], batch_size: int) -> None:
    """Have ``service`` answer the requests of ``Load.warm_up``: each alone, then as many as a
    batch may have together, since some kernels are made or chosen for a batch's size.

    Raises WarmUpError for one that must not fail and did; what else fails is logged.
    """
    requests = []
    for order in orders:
        request, times, strict = _read(order)
        requests.append(request)
        for _ in range(times):
            (answer,) = service.run(Work(_WARM_UP_BATCH, [request])).answers
            _judge(order[0], answer, strict)
    if requests and batch_size > 1:
        together = (requests * batch_size)[:batch_size]
        service.run(Work(_WARM_UP_BATCH, together))


def _read(order: Sequence[Any]) -> tuple[Request, int, bool]:
    try:
        name, headers, parts, times, strict = order
        inputs = [Part(part_name, kind, body) for part_name, kind, body in parts]
    except (TypeError, ValueError) as error:
        raise ProtocolError("a request of the warm-up is not as it should be") from error
    return Request(str(name), headers, inputs), int(times), bool(strict)


def _judge(name: str, answer: Answer, strict: bool) -> None:
    if not answer.is_error and answer.status < 500:
        return
    reason = bytes(answer.body).decode(errors="replace").strip() if answer.is_error else ""
    text = f"{name} was answered {answer.status}" + (f": {reason}" if reason else "")
    if strict:
        raise WarmUpError(f"Warm-up failed: {text}")
    logger.warning("warm-up: %s", text)
