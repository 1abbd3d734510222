"""A request against what a handler says of its input."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flambeau.frontend import input_check
from flambeau.frontend.errors import InvalidInputError
from flambeau.frontend.input_check import checked_body, refuse_misfit
from flambeau.frontend.jobs import Part

REVIEW = {
    "type": "object",
    "properties": {"text": {"type": "string"}, "stars": {"$ref": "#/$defs/Stars"}},
    "required": ["text"],
    "$defs": {"Stars": {"type": "integer", "minimum": 1}},
}


def fault(schema: object, value: object) -> str:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    try:
        refuse_misfit(json.dumps(schema), Part("body", "application/json", body))
    except InvalidInputError as error:
        return error.message.removeprefix("The request does not fit the model's input: ")
    return ""


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"text": "x", "stars": 2}, ""),
        ({"text": "x", "stars": 0}, "stars: 0 is less than the minimum of 1"),
        ({"stars": 2}, "'text' is a required property"),
        ({"text": 1, "stars": "x"}, "text: 1 is not of type 'string'; stars: 'x' is not of type"),
        (b"{", "it is not JSON"),
        (b"\xff", "it is not JSON"),
        (b"[" * 100_000, "it is not JSON"),
        ({"text": "x", "stars": "y" * 1000}, "stars: 'yyyy"),
    ],
)
def test_the_field_is_named(value, words):
    assert fault(REVIEW, value).startswith(words)
    assert bool(fault(REVIEW, value)) == bool(words)
    assert len(fault(REVIEW, value)) < 300


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a", "type": "string"},
        {"$ref": "http://127.0.0.1:9/other.json", "type": "string"},
        {"$ref": "#/nowhere", "type": "string"},
        {"type": "string", "pattern": "(a+)+$"},
        {"type": "number", "patternProperties": {"^(a+)+$": {}}},
        {"type": "number", "uniqueItems": True},
        {"type": "number", "multipleOf": 0.5},
        {"type": "number", "x-checked-by-worker": True},
        {"$dynamicRef": "#", "type": "number"},
        {"properties": {"a": {"items": {"pattern": "a"}}}, "type": "number"},
        {"type": "nothing that there is"},
        ["not a schema"],
    ],
)
def test_what_could_run_away_or_is_no_schema_is_left_to_the_worker(schema: Any):
    assert fault(schema, "a" * 40 + "!") == ""


def test_definitions_that_double_each_other_are_left_to_the_worker():
    definitions: dict[str, Any] = {"d0": {"type": "string"}}
    for step in range(1, 40):
        both = {"$ref": f"#/$defs/d{step - 1}"}
        definitions[f"d{step}"] = {"allOf": [both, both]}
    assert fault({"$ref": "#/$defs/d39", "$defs": definitions}, 1) == ""


@pytest.mark.parametrize(
    ("parts", "is_checked"),
    [
        ([Part("body", "application/json", b"1")], True),
        ([Part("data", "", b"1")], True),
        ([Part("body", "text/plain", b"1")], False),
        ([Part("body", "image/png", b"1")], False),
        ([Part("stars", "", b"1")], False),
        ([Part("a", "", b"1"), Part("b", "", b"1")], False),
        ([], False),
    ],
)
def test_only_a_whole_body_that_may_be_json_is_looked_at(parts, is_checked):
    assert (checked_body(parts) is not None) == is_checked


@pytest.mark.parametrize(
    ("schema", "value", "words"),
    [
        ({"const": {"pattern": "x"}}, {"pattern": "x"}, ""),
        ({"const": {"pattern": "x"}}, {"pattern": "y"}, "{'pattern': 'x'} was expected"),
        ({"properties": {"pattern": {"type": "integer"}}}, {"pattern": "x"}, "pattern: 'x' is not"),
        (
            {"$defs": {"uniqueItems": {"type": "integer"}}, "$ref": "#/$defs/uniqueItems"},
            "x",
            "'x'",
        ),
    ],
)
def test_what_is_only_called_like_a_keyword_is_none(schema, value, words):
    assert fault(schema, value).startswith(words)
    assert bool(fault(schema, value)) == bool(words)


@pytest.mark.parametrize("trouble", [RecursionError, OverflowError, ValueError])
def test_what_cannot_be_judged_here_is_left_to_the_worker(monkeypatch, trouble):
    def deep(value):
        raise trouble

    monkeypatch.setattr(input_check, "_checker", lambda schema: deep)
    assert fault({"type": "string"}, 1) == ""
