"""The three headers that let pages of other origins in."""

from __future__ import annotations

import pytest

from flambeau.frontend.jobs import Outcome
from flambeau.frontend.streams import BodyStream

CORS = {
    "cors_allowed_origin": "https://app.example",
    "cors_allowed_methods": "GET, POST",
    "cors_allowed_headers": "X-Custom",
}
SENT = {
    "Access-Control-Allow-Origin": "https://app.example",
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "X-Custom",
}


def allowed(reply) -> dict[str, str]:
    return {name: value for name, value in reply.headers.items() if name.startswith("Access-")}


@pytest.mark.parametrize("listener", ["inference", "management", "metrics"])
def test_every_answer_has_the_configured_headers(make_house, listener):
    house = make_house(**CORS)
    for method, target in (("OPTIONS", "/"), ("GET", "/nope"), ("GET", "/predictions/%zz")):
        assert allowed(house.ask(method, target, listener=listener)) == SENT
    raw = house.raw(b"\x16\x03 nonsense\r\n\r\n", listener=listener)
    assert b"Access-Control-Allow-Origin: https://app.example\r\n" in raw


def test_predictions_and_their_preflight_have_them(make_house):
    house = make_house(**CORS)
    preflight = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    assert house.ask("OPTIONS", "/predictions/m", None, preflight).status == 200
    assert allowed(house.ask("OPTIONS", "/predictions/m", None, preflight)) == SENT
    assert allowed(house.ask("POST", "/predictions/m", b"x")) == SENT
    too_large = b"x" * (house.config.max_request_size + 1)
    reply = house.ask("POST", "/predictions/m", too_large)
    assert (reply.status, allowed(reply)) == (413, SENT)


def test_a_streamed_answer_has_them(make_house):
    house = make_house(**CORS)

    def answer(job):
        stream = BodyStream()
        stream.put(b"one")
        stream.finish(Outcome(body=b"last"))
        return Outcome(stream=stream)

    house.engine.answer = answer
    reply = house.ask("POST", "/predictions/m", b"x")
    assert (reply.body, allowed(reply)) == (b"onelast", SENT)


def test_what_the_handler_sets_is_kept(make_house):
    house = make_house(**CORS)
    own = (("access-control-allow-origin", "https://other.example"),)
    house.engine.answer = lambda job: Outcome(headers=own)
    reply = house.ask("POST", "/predictions/m", b"x")
    assert reply.headers.get_all("Access-Control-Allow-Origin") == ["https://other.example"]
    assert reply.headers["Access-Control-Allow-Methods"] == "GET, POST"


def test_only_what_is_configured_is_sent(house, make_house):
    assert allowed(house.ask("GET", "/ping")) == {}
    reply = make_house(cors_allowed_origin="*").ask("GET", "/ping")
    assert allowed(reply) == {"Access-Control-Allow-Origin": "*"}
