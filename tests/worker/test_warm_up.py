"""A worker is ready once it has answered what it must be able to answer."""

from __future__ import annotations

import pytest

from flambeau.worker.context import Context
from flambeau.worker.errors import PredictionException, WarmUpError
from flambeau.worker.protocol import ProtocolError
from flambeau.worker.rows import Rows
from flambeau.worker.service import Service
from flambeau.worker.warm_up import warm_up


def order(text: str, times: int = 1, strict: bool = True) -> list[object]:
    return [f"the request {text!r}", {}, [["body", "text/plain", text.encode()]], times, strict]


def service(entry_point) -> Service:
    context = Context("m", "/", {}, 4, None, "0.12.0")
    return Service(entry_point, context, Rows())


def test_each_is_answered_alone_and_then_as_many_as_a_batch_has():
    seen = []

    def handle(data, context):
        seen.append([row["body"] for row in data])
        return ["ok"] * len(data)

    warm_up(service(handle), [order("a", 2), order("b")], 4)
    assert seen == [["a"], ["a"], ["b"], ["a", "b", "a", "b"]]


def refuse(data, context):
    raise PredictionException("no such animal", 500)


def test_one_that_must_be_answered_and_is_not_fails_the_start():
    with pytest.raises(WarmUpError, match="the request 'a' was answered 500: no such animal"):
        warm_up(service(refuse), [order("a")], 1)


def test_a_refusal_of_the_input_is_an_answer():
    def handle(data, context):
        context.set_response_status(422, "No", 0)
        return ["ok"]

    warm_up(service(handle), [order("a")], 1)


def test_a_recorded_one_that_fails_is_only_logged(caplog):
    warm_up(service(refuse), [order("a", strict=False)], 1)
    assert "the request 'a' was answered 500" in caplog.text


def test_nonsense_is_no_warm_up():
    with pytest.raises(ProtocolError):
        warm_up(service(refuse), [["name", {}]], 1)
