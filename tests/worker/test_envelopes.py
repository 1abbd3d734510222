"""What handlers are given, and clients get, where a server has an envelope for its models."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flambeau.worker.context import Context
from flambeau.worker.envelopes import wrap
from flambeau.worker.errors import EnvelopeError


def context(*headers: dict[str, str]) -> Context:
    manifest = {"model": {"modelName": "m", "modelVersion": "2.0"}}
    made = Context("m", "/models/m", manifest, 8, None, "0.12.0")
    made.begin_batch([f"r{index}" for index in range(len(headers))], headers)
    return made


def ask(envelope: str, *bodies: Any, returned: Any = None, headers: dict[str, str] | None = None):
    """What the handler saw, call by call, and what came of it."""
    seen = []

    def handle(data, context):
        seen.append(data)
        return list(data) if returned is None else returned

    rows = [{"body": body} for body in bodies]
    answers = wrap(envelope, handle)(rows, context(*[headers or {}] * len(rows)))
    return seen, answers


def test_without_an_envelope_the_handler_is_as_it_was():
    def handle(data, context):
        return data

    assert wrap(None, handle) is handle
    assert wrap("", handle) is handle


def test_a_name_that_is_none_is_refused():
    with pytest.raises(EnvelopeError, match="Set one of body, json, kserve, kservev2"):
        wrap("nope", lambda data, context: data)


def test_body_gives_the_bare_values():
    assert ask("body", b"x", {"a": 1}) == ([[b"x", {"a": 1}]], [b"x", {"a": 1}])


def test_json_joins_the_instances_of_all_requests_and_parts_the_results():
    seen, answers = ask("json", {"instances": [1, 2]}, {"instances": [3]})
    assert seen == [[1, 2, 3]]
    assert answers == ['{"predictions": [1, 2]}', '{"predictions": [3]}']


def test_json_decodes_base64():
    instances = [{"b64": "YWJj"}, {"image": {"b64": "eA=="}, "k": 1}]
    seen, _ = ask("json", {"instances": instances}, returned=["ok", "ok"])
    assert seen == [[b"abc", {"image": b"x", "k": 1}]]


@pytest.mark.parametrize("explain", ["True", "False"])
def test_kserve_wraps_predictions_or_explanations(explain):
    body = bytearray(json.dumps({"instances": [1, 2]}).encode())
    seen, answers = ask("kserve", body, headers={"explain": explain})
    assert seen == [[1, 2]]
    assert answers == [{"explanations" if explain == "True" else "predictions": [1, 2]}]


def test_kserve_serves_a_batch_request_by_request():
    seen, answers = ask("kserve", {"instances": [1]}, {"instances": [2, 3]})
    assert seen == [[1], [2, 3]]
    assert answers == [{"predictions": [1]}, {"predictions": [2, 3]}]


def tensor(datatype: str, shape: list[int], data: list[Any], name: str = "x") -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        (tensor("INT64", [2, 2], [1, 2, 3, 4]), [[1, 2], [3, 4]]),
        (tensor("INT64", [4], [[1, 2], [3, 4]]), [1, 2, 3, 4]),
        (tensor("FP32", [2, 1, 2], [1, 2, 3, 4]), [[[1, 2]], [[3, 4]]]),
        (tensor("BYTES", [1], ["text"]), "text"),
        (tensor("FP32", [], [7.5]), 7.5),
    ],
)
def test_kservev2_shapes_the_inputs(given, seen):
    calls, _ = ask("kservev2", {"inputs": [given]}, returned=[0])
    assert calls[0][0]["data"] == seen
    assert calls[0][0]["name"] == "x"


def test_kservev2_refuses_data_that_do_not_fill_the_shape():
    with pytest.raises(ValueError, match="4 values do not fill"):
        ask("kservev2", {"inputs": [tensor("INT64", [3], [1, 2, 3, 4])]})


class Array:
    """Stands for a tensor or an array."""

    def __init__(self, dtype: str, values: list[Any]) -> None:
        self.dtype = dtype
        self._values = values

    def tolist(self) -> list[Any]:
        return self._values


@pytest.mark.parametrize(
    ("result", "datatype", "data"),
    [
        ([1, 2], "INT64", [1, 2]),
        ([[1.5], [2]], "FP64", [1.5, 2]),
        (True, "BOOL", [True]),
        ("yes", "BYTES", ["yes"]),
        (Array("torch.float32", [[1.0], [2.0]]), "FP32", [1.0, 2.0]),
        (Array("uint8", [1]), "UINT8", [1]),
    ],
)
def test_kservev2_describes_the_outputs(result, datatype, data):
    body = {"id": "abc", "inputs": [tensor("INT64", [1], [1])]}
    _, (answer,) = ask("kservev2", body, returned=[result])
    output = {"name": "x", "datatype": datatype, "data": data, "shape": [len(data)]}
    wanted = {"id": "abc", "model_name": "m", "model_version": "2.0", "outputs": [output]}
    assert answer == wanted


def test_kservev2_uses_the_requests_id_where_the_client_gives_none():
    _, (answer,) = ask("kservev2", {"inputs": [tensor("INT64", [1], [1])]}, returned=[1])
    assert answer["id"] == "r0"
