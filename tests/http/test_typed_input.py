"""Models whose handlers say what they take: checked before anybody works, and described."""

from __future__ import annotations

import json

import pytest
from openapi_spec_validator import validate

JSON = {"Content-Type": "application/json"}
TAKES = {
    "$defs": {"Stars": {"type": "integer", "minimum": 1}},
    "properties": {"text": {"type": "string"}, "stars": {"$ref": "#/$defs/Stars"}},
    "required": ["text"],
    "type": "object",
}
GIVES = {
    "$defs": {"Stars": {"type": "number"}},
    "type": "array",
    "items": {"anyOf": [{"$ref": "#/$defs/Stars"}, {"type": "null"}]},
}


@pytest.fixture
def typed(house):
    house.engine.schemas = house.registry.types = (json.dumps(TAKES), json.dumps(GIVES))
    return house


def test_what_does_not_fit_is_422_and_bothers_nobody(typed):
    reply = typed.ask("POST", "/predictions/m", b'{"text": "x", "stars": 0}', JSON)
    assert (reply.status, reply.json["type"]) == (422, "InvalidInputException")
    assert reply.json["message"] == (
        "The request does not fit the model's input: stars: 0 is less than the minimum of 1"
    )
    assert typed.engine.jobs == []


@pytest.mark.parametrize("filler", [1, 50_000], ids=["at once", "in a thread"])
def test_what_fits_is_passed_on_as_it_came(typed, filler):
    body = json.dumps({"text": "x" * filler}).encode()
    assert typed.ask("POST", "/predictions/m", body, JSON).body == body
    wrong = json.dumps({"texts": "x" * filler}).encode()
    assert typed.ask("POST", "/predictions/m", wrong, JSON).status == 422
    assert len(typed.engine.jobs) == 1


def test_forms_and_other_types_are_the_workers_to_check(typed):
    for kind in ("application/x-www-form-urlencoded", "text/plain"):
        reply = typed.ask("POST", "/predictions/m", b"stars=0", {"Content-Type": kind})
        assert reply.status == 200


def test_both_types_stand_in_the_models_description(typed):
    document = typed.ask("OPTIONS", "/predictions/m").json
    validate(document)
    post = document["paths"]["/predictions/m"]["post"]
    takes = post["requestBody"]["content"]["application/json"]["schema"]
    assert takes["properties"]["stars"] == {"$ref": "#/components/schemas/Input.Stars"}
    assert document["components"]["schemas"]["Input.Stars"] == {"type": "integer", "minimum": 1}
    gives = post["responses"]["200"]["content"]["application/json"]["schema"]
    assert gives["items"]["anyOf"][0] == {"$ref": "#/components/schemas/Output.Stars"}
    assert document["components"]["schemas"]["Output.Stars"] == {"type": "number"}
    assert "422" in post["responses"]


def test_the_types_of_one_model_stand_in_no_other_description(typed):
    assert "Input.Stars" in typed.ask("OPTIONS", "/predictions/m").json["components"]["schemas"]
    other = typed.ask("OPTIONS", "/").json
    assert "Input.Stars" not in json.dumps(other["components"])
