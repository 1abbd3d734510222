"""Server-Timing on the answers of predictions, whatever they are."""

from __future__ import annotations

import re

import pytest

from flambeau.frontend.errors import DeadlineExceededError, InferenceError, QueueFullError
from flambeau.frontend.jobs import Outcome
from flambeau.frontend.streams import BodyStream

DURATION = r";dur=\d+\.\d{3}"
ALL = re.compile(", ".join(f"{name}{DURATION}" for name in ("queue", "batch", "handler", "total")))
TOTAL = re.compile(f"total{DURATION}")
QUEUE_AND_TOTAL = re.compile(f"queue{DURATION}, total{DURATION}")


def timing(house, target="/predictions/m", body=b"x", headers=None):
    return house.ask("POST", target, body, headers or {}).headers.get("server-timing")


@pytest.mark.parametrize("target", ["/predictions/m", "/v2/models/m/infer", "/models/m/invoke"])
def test_an_answer_says_where_its_time_went(house, target):
    assert ALL.fullmatch(timing(house, target))


def test_so_do_the_errors_of_handlers(house):
    error = InferenceError("no", 507)
    house.engine.answer = lambda job: Outcome(
        507, error=error, queued=0.1, batched=0.2, handled=0.1
    )
    assert ALL.fullmatch(timing(house))


def test_an_error_of_one_that_waited_says_for_how_long(house):
    error = DeadlineExceededError("late", "queue")
    house.engine.answer = lambda job: Outcome(504, error=error, queued=0.1)
    assert QUEUE_AND_TOTAL.fullmatch(timing(house))


def test_what_was_never_queued_has_a_total_alone(house):
    def refuse(job):
        raise QueueFullError("m", None)

    house.engine.answer = refuse
    assert TOTAL.fullmatch(timing(house))
    assert TOTAL.fullmatch(timing(house, "/predictions/unknown"))
    assert TOTAL.fullmatch(timing(house, "/invocations"))
    assert TOTAL.fullmatch(timing(house, headers={"X-Request-Timeout-Ms": "soon"}))
    assert TOTAL.fullmatch(timing(house, body=b"x" * 200_000))
    house.draining = True
    assert TOTAL.fullmatch(timing(house))


def test_a_stream_says_it_with_its_first_piece(house):
    def answer(job):
        stream = BodyStream()
        stream.put(b"piece")
        stream.finish(Outcome(body=b"last"))
        return Outcome(stream=stream, queued=0.1, batched=0.2)

    house.engine.answer = answer
    assert re.fullmatch(f"queue{DURATION}, batch{DURATION}, total{DURATION}", timing(house))


def test_what_a_handler_says_stays_there(house):
    house.engine.answer = lambda job: Outcome(headers=[("Server-Timing", "db;dur=5")], handled=0.1)
    lines = house.ask("POST", "/predictions/m", b"x").headers.get_all("server-timing")
    assert lines[0] == "db;dur=5"
    assert ALL.fullmatch(lines[1])


def test_other_answers_have_none(house):
    assert "server-timing" not in house.ask("GET", "/ping").headers
    assert "server-timing" not in house.ask("OPTIONS", "/").headers


def test_it_may_be_switched_off(make_house):
    house = make_house(server_timing=False)
    house.engine.answer = lambda job: Outcome(body=b"x", queued=0.1, batched=0.2, handled=0.1)
    assert timing(house) is None
    assert timing(house, "/predictions/unknown") is None
