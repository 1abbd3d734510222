"""Bodies in other protocols' JSON, where ``service_envelope`` names one."""

from __future__ import annotations

import json
from typing import Any

from contract.rows import UUID4, Expect, Like, Row, case, error

KIND = "InternalServerException"
JSON = {"Content-Type": "application/json"}


def asked(target: str, body: Any, expect: Expect, typed: bool = True) -> Row:
    return Row("POST", target, expect, json.dumps(body).encode(), JSON if typed else {})


def tensor(**more: Any) -> dict[str, Any]:
    return {"name": "x", "shape": [2, 2], "datatype": "INT64", "data": [1, 2, 3, 4], **more}


def infer(expect: Expect, **fields: Any) -> Row:
    return asked("/v2/models/telling/infer", {"inputs": [tensor()], **fields}, expect)


def inferred(identity: Any) -> Expect:
    output = {"name": "x", "datatype": "INT64", "data": [1, 2, 3, 4], "shape": [4]}
    return Expect(
        200,
        json={
            "id": identity,
            "model_name": "telling",
            "model_version": "1.0",
            "outputs": [output],
        },
    )


CASES = (
    case(
        "instances as JSON",
        asked(
            "/predictions/telling",
            {"instances": [[1, 2], [3]]},
            Expect(200, body=b'{"predictions": [2, 1]}'),
        ),
        asked(
            "/predictions/telling",
            {"instances": [{"b64": "YWJj"}]},
            Expect(200, body=b'{"predictions": [3]}'),
        ),
        asked("/predictions/telling", {"nope": 1}, error(503, KIND, "Prediction failed")),
        profile="json",
    ),
    case(
        "KServe's first protocol",
        asked(
            "/v1/models/telling:predict",
            {"instances": [[1, 2], [3]]},
            Expect(200, json={"predictions": [2, 1]}),
        ),
        asked(
            "/v1/models/telling:explain",
            {"instances": [[1, 2], [3]]},
            Expect(200, json={"explanations": [2, 1]}),
        ),
        asked(
            "/v1/models/telling:predict",
            {"instances": [[1]]},
            Expect(200, json={"predictions": [1]}),
            typed=False,
        ),
        asked("/v1/models/telling:predict", [1], error(503, KIND, "Prediction failed")),
        profile="kserve",
    ),
    case(
        "KServe's second protocol",
        infer(inferred("abc"), id="abc"),
        infer(inferred(Like(UUID4))),
        asked(
            "/v2/models/telling/infer",
            {"inputs": [tensor(shape=[3, 3])]},
            error(503, KIND, "Prediction failed"),
        ),
        profile="kservev2",
    ),
)
