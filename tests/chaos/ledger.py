"""What came of each request, and whether that was right. Pure.

A request must get exactly one answer, and that must be the right one, or an error that says what
is the matter: with a status that fits a fault which was really there.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chaos.models import right_answer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chaos.schedule import Order

GRACE = 12.0
"""Seconds for which a fault may still be felt: a worker that was stopped is given up by its
response timeout, twice, and its successor has to start.
"""
LETHAL = {"exit": 500, "leave": 500, "crash": 500, "hang": 504, "memory": 507, "raise": 503}
"""What a poisonous request is answered when it has shown what it is."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as the client got it; ``broken``: the connection ended before the answer did."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    broken: bool = False


@dataclass
class Ledger:
    """The books: outcomes by model, and what must not have been."""

    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    hurt: dict[str, list[float]] = field(default_factory=dict)
    """When workers of a model were hurt, by a fault or by a poisonous request."""

    def injured(self, model: str, at: float) -> None:
        """Something happened to a worker of ``model`` that may cost requests."""
        self.hurt.setdefault(model, []).append(at)

    def enter(self, order: Order, reply: Reply, began: float, ended: float) -> None:
        """Note what came of ``order``, sent at ``began`` and answered at ``ended``."""
        outcome = self._judge(order, reply, began, ended)
        self.outcomes.setdefault(order.model, Counter())[outcome] += 1

    def _judge(self, order: Order, reply: Reply, began: float, ended: float) -> str:
        if reply.broken:
            if order.model == "stream" and reply.status == 200:
                if self._was_hurt(order.model, began, ended):
                    return "stream ended early"
                self._blame(order, reply, "ended early although nothing happened to its worker")
                return "WRONG"
            self._blame(order, reply, "lost its connection")
            return "WRONG"
        if reply.status == 200:
            if reply.body.decode(errors="replace") != right_answer(order.token, order.pad):
                self._blame(order, reply, "got a wrong answer")
                return "WRONG"
            if order.do in LETHAL:
                self._blame(order, reply, "was answered although it cannot be")
                return "WRONG"
            return "right"
        return self._judge_error(order, reply, began, ended)

    def _judge_error(self, order: Order, reply: Reply, began: float, ended: float) -> str:
        try:
            envelope = json.loads(reply.body)
            is_honest = envelope["code"] == reply.status and bool(envelope["message"])
        except (ValueError, KeyError, TypeError):
            is_honest = False
        if not is_honest:
            self._blame(order, reply, "got an error without an envelope")
            return "WRONG"
        reason = envelope.get("reason")
        if not self._is_due(order, reply, reason, began, ended):
            self._blame(order, reply, "got an error that nothing explains")
            return "WRONG"
        return f"{reply.status} {reason or envelope['message'].partition('.')[0][:40]}"

    def _is_due(
        self, order: Order, reply: Reply, reason: object, began: float, ended: float
    ) -> bool:
        status = reply.status
        if order.do is not None and status == LETHAL.get(order.do):
            return True
        if status == 503 and reason is not None:
            # Not now: it has to say when to come again, and only a model that comes and goes, or
            # whose workers were hurt or changed, may have no workers.
            if "retry-after" not in reply.headers:
                return False
            return (
                reason in ("queue_full", "loading", "draining")
                or order.model == "volatile"
                or self._was_hurt(order.model, began, ended)
            )
        if status == 404:
            return order.model == "volatile"
        return status in (500, 504, 507) and self._was_hurt(order.model, began, ended)

    def _was_hurt(self, model: str, began: float, ended: float) -> bool:
        return any(began - GRACE <= at <= ended for at in self.hurt.get(model, ()))

    def _blame(self, order: Order, reply: Reply, what: str) -> None:
        if len(self.wrong) < 50:
            said = reply.body[:300].decode(errors="replace")
            self.wrong.append(f"{order} {what}: {reply.status} {said!r}")

    @property
    def total(self) -> int:
        """Requests that have an outcome."""
        return sum(sum(each.values()) for each in self.outcomes.values())
