"""Streams, and what takes time."""

from __future__ import annotations

import json
from typing import Any

from contract.rows import Differs, Expect, Has, Like, Row, case, error
from contract.table_management import register, registered, unregister

KIND = "InternalServerException"
JSON = {"Content-Type": "application/json"}
CLOCKS = "what runs out of time is answered 504, and the answer names the clock"


def stream(expect: Expect, pieces: int, path: str = "predictions", **order: Any) -> Row:
    body = json.dumps({"pieces": pieces, **order}).encode()
    return Row("POST", f"/{path}/streaming", expect, body, JSON)


CASES = (
    case(
        "an answer in pieces",
        register(registered("streaming", 1), url="streaming.mar", initial_workers=1),
        stream(
            Expect(
                200,
                reason="",
                body=b"piece 0 piece 1 last",
                headers={
                    "transfer-encoding": "chunked",
                    "ts_stream_next": "true",
                    "connection": "keep-alive",
                    "content-type": None,
                    "content-length": None,
                    "pragma": "no-cache",
                },
            ),
            2,
        ),
        stream(Expect(200, body=b"last", headers={"transfer-encoding": None}), 0),
        stream(Expect(200, body=b"piece 0 last"), 1, "explanations"),
        stream(error(503, KIND, "Prediction failed"), 0, fail=True),
        unregister("streaming"),
    ),
    case(
        "a handler that takes too long",
        register(
            registered("m", 1),
            url="telling.mar",
            model_name="m",
            initial_workers=1,
            response_timeout=1,
        ),
        Row(
            "POST",
            "/predictions/m",
            Expect(504, json=Has({"message": Like(r"Worker died\. .*"), "clock": "response"})),
            b'{"do": "sleep", "seconds": 20}',
            JSON,
            torchserve=Differs(CLOCKS, error(500, KIND, "Worker died.")),
        ),
        unregister("m"),
    ),
    case(
        "a worker that ends",
        register(registered("m", 1), url="telling.mar", model_name="m", initial_workers=1),
        Row(
            "POST",
            "/predictions/m",
            error(500, KIND, "Worker died."),
            b'{"do": "exit", "code": 3}',
            JSON,
        ),
        unregister("m"),
    ),
    case(
        "a model whose requests do not wait",
        register(registered("m", 1), url="ticketed.mar", model_name="m", initial_workers=1),
        Row(
            "GET",
            "/models/m",
            Expect(200, json=[Has({"useJobTicket": True})]),
            port="management",
        ),
        Row("POST", "/predictions/m", Expect(200), b"x"),
        unregister("m"),
    ),
)
