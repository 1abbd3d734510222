"""Each of the loops in which a worker waits for work says that it is there."""

from __future__ import annotations

import pytest
from fake_link import FakeLink, work

from flambeau.worker.asynchronous import AsyncBatches
from flambeau.worker.context import Context
from flambeau.worker.continuous import ContinuousBatches
from flambeau.worker.coroutines import event_loop
from flambeau.worker.link import Inbox
from flambeau.worker.main import _one_by_one
from flambeau.worker.messages import Bye, Ping, Pong, Result, Stop
from flambeau.worker.metrics import Metrics
from flambeau.worker.rows import Rows
from flambeau.worker.service import Service


def one_by_one(link, context):
    service = Service(lambda data, _: ["x"] * len(data), context, Rows())
    return _one_by_one(link, Inbox(link), service)


def asynchronous(link, context):
    async def handle(data, context):
        return ["x"] * len(data)

    try:
        return AsyncBatches(handle, context, Rows(), link, event_loop()).run()
    finally:
        event_loop().close()


def continuous(link, context):
    return ContinuousBatches(lambda data, _: ["x"] * len(data), context, Rows(), link).run()


@pytest.mark.parametrize("serve", [one_by_one, asynchronous, continuous])
def test_a_ping_is_answered_before_the_work_behind_it(serve):
    link = FakeLink(Ping(), work(1, b"x"), Ping(), Stop())
    context = Context("m", "/models/m", None, 1, None, "0.12.0", metrics=Metrics("m"))
    try:
        assert serve(link, context) == 0
    finally:
        link.close()
    said = [type(message) for message in link.said]
    assert said[0] is Pong
    assert sorted(said, key=str) == sorted([Pong, Result, Pong, Bye], key=str)
    assert said[-1] is Bye
