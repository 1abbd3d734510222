"""From what a handler returns, or does, to the answer."""

from __future__ import annotations

import json
from typing import Any

from contract.rows import Differs, Expect, Like, Row, case, error

KIND = "InternalServerException"
JSON = {"Content-Type": "application/json"}
ONE_ITEM = (
    "an answer that cannot be sent fails its own request, not the batch; the text is the same"
)


def do(expect: Expect, what: str, torchserve: Differs | None = None, **order: Any) -> Row:
    body = json.dumps({"do": what, **order}).encode()
    return Row("POST", "/predictions/telling", expect, body, JSON, torchserve=torchserve)


def returned(value: Any, body: bytes) -> Row:
    return do(
        Expect(200, body=body, reason="", headers={"content-type": None}), "return", value=value
    )


def shapeless(what: str, expect: Expect) -> Row:
    return Row(
        "POST", "/predictions/shapeless", expect, what.encode(), {"Content-Type": "text/plain"}
    )


CASES = (
    case(
        "values are JSON, text is text",
        returned("text", b"text"),
        returned("\u00e9", "é".encode()),
        returned("", b""),
        returned(7, b"7"),
        returned(1.5, b"1.5"),
        returned(True, b"true"),
        returned(None, b"null"),
        returned([1, 2], b"[\n  1,\n  2\n]"),
        returned([], b"[]"),
        returned({}, b"{}"),
        returned({"a": 1}, b'{\n  "a": 1\n}'),
        returned({"a": {"b": [1]}}, b'{\n  "a": {\n    "b": [\n      1\n    ]\n  }\n}'),
        returned({"\u00e9": "\u00e9"}, b'{\n  "\\u00e9": "\\u00e9"\n}'),
        do(Expect(200, body=b"\xff\x00"), "bytes", value="\xff\x00"),
        do(Expect(200, body=b"ab"), "bytearray", value="ab"),
    ),
    case(
        "what has no JSON",
        do(error(503, KIND, "Unsupported model output data type."), "set"),
    ),
    case(
        "exceptions",
        do(error(503, KIND, "Prediction failed"), "raise"),
        do(error(507, KIND, "Out of resources"), "memory"),
        do(error(507, KIND, "Out of resources"), "cuda"),
        do(error(404, KIND, "no such thing"), "refuse", message="no such thing", code=404),
        do(error(500, KIND, "mine"), "refuse", message="mine", code=500),
        do(error(400, KIND, "bad input"), "refuse", message="bad input", code=400),
        do(error(507, KIND, "too big"), "refuse", message="too big", code=413),
        do(error(599, KIND, "odd"), "refuse", message="odd", code=599),
    ),
    case(
        "a status of the handler's",
        do(
            Expect(418, reason="Im teapot", body=b"tea", headers={"content-type": None}),
            "status",
            code=418,
            phrase="Im teapot",
            value="tea",
        ),
        do(
            Expect(201, reason="Created", body=b"made"),
            "status",
            code=201,
            phrase="Created",
            value="made",
        ),
        do(
            Expect(204, body=b"", headers={"content-length": None}),
            "status",
            code=204,
            phrase="No Content",
        ),
    ),
    case(
        "headers of the handler's",
        do(Expect(200, body=b"done", headers={"content-type": "text/x"}), "type", value="text/x"),
        do(Expect(200, headers={"x-mine": "1"}), "header", name="X-Mine", value="1"),
        do(
            Expect(200, headers={"cache-control": Like("no-cache; .*")}),
            "header",
            name="Cache-Control",
            value="public",
        ),
        do(
            Expect(200, headers={"x-request-id": Like("[0-9a-f-]{36}")}),
            "header",
            name="x-request-id",
            value="mine",
        ),
        do(
            Expect(200, headers={"content-length": "4"}), "header", name="Content-Length", value="9"
        ),
        do(
            Expect(200, headers={"access-control-allow-origin": "x"}),
            "header",
            name="Access-Control-Allow-Origin",
            value="x",
        ),
    ),
    case(
        "results of the wrong shape",
        Row("POST", "/models?url=shapeless.mar&initial_workers=1", Expect(200), port="management"),
        shapeless("list", error(503, KIND, "number of batch response mismatched")),
        shapeless("empty", error(503, KIND, "number of batch response mismatched")),
        shapeless("text", error(503, KIND, "Invalid model predict output")),
        shapeless("nothing", error(503, KIND, "Invalid model predict output")),
        Row("DELETE", "/models/shapeless", Expect(200), port="management"),
    ),
)
