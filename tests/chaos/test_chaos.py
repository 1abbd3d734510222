"""The short form of ``make chaos``: the same faults, fewer requests."""

from __future__ import annotations

import os

import pytest
from chaos.ledger import Ledger, Reply
from chaos.models import right_answer
from chaos.run import run
from chaos.schedule import Order, Schedule

REQUESTS = 2500


@pytest.mark.parametrize("seed", [int(os.environ.get("CHAOS_SEED", "7"))])
def test_everybody_gets_one_right_answer_or_an_honest_error(seed):
    report = run(REQUESTS, seed, every=80, progress=False)
    assert not report.problems, report.text()
    assert sum(report.ledger.faults.values()) >= REQUESTS // 80 - 1


def test_the_same_seed_gives_the_same_order_of_things():
    one, other = Schedule(5), Schedule(5)
    assert [one.order(n) for n in range(500)] == [other.order(n) for n in range(500)]
    assert [one.fault()[0] for _ in range(50)] == [other.fault()[0] for _ in range(50)]


def order(model: str = "single", do: str | None = None) -> Order:
    return Order(1, model, "token", 0, do, fresh=False)


def error(status: int, reason: str | None = None, **headers: str) -> Reply:
    extra = "" if reason is None else f', "reason": "{reason}"'
    body = f'{{"code": {status}, "message": "no"{extra}}}'
    return Reply(
        status, {name.replace("_", "-"): text for name, text in headers.items()}, body.encode()
    )


RIGHT = Reply(200, {}, right_answer("token", 0).encode())


@pytest.mark.parametrize(
    ("asked", "reply", "is_right"),
    [
        (order(), RIGHT, True),
        (order(), Reply(200, {}, b"somebody else's"), False),
        (order(), Reply(500, {}, b"<html>"), False),
        (order(), error(500), False),
        (order(do="exit"), error(500), True),
        (order(do="exit"), RIGHT, False),
        (order(do="hang"), error(504), True),
        (order(), error(503, "queue_full", retry_after="1"), True),
        (order(), error(503, "queue_full"), False),
        (order(), error(503, "no_workers", retry_after="1"), False),
        (order("volatile"), error(503, "no_workers", retry_after="1"), True),
        (order("volatile"), error(404), True),
        (order(), error(404), False),
        (order(), Reply(0, {}, b"", broken=True), False),
    ],
)
def test_what_counts_as_honest(asked, reply, is_right):
    ledger = Ledger()
    ledger.enter(asked, reply, 100.0, 101.0)
    assert (not ledger.wrong) == is_right


def test_what_is_due_to_a_fault_is_due_for_a_while():
    for hurt_at, is_right in ((95.0, True), (50.0, False), (102.0, False)):
        ledger = Ledger()
        ledger.injured("single", hurt_at)
        ledger.enter(order(), error(507), 100.0, 101.0)
        assert (not ledger.wrong) == is_right
