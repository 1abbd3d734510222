"""What handlers are given, and clients get, where a server has an envelope for its models."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from flambeau.worker.compat import install
from flambeau.worker.context import Context
from flambeau.worker.envelopes import KServeEnvelope, wrap
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


OWN = """
from ts.torch_handler.request_envelope.base import BaseEnvelope

class Helper:
    pass

class Lines(BaseEnvelope):
    def parse_input(self, data):
        return [line for row in data for line in row["body"].decode().split()]

    def format_output(self, data):
        return [self.context.model_name + " " + " ".join(data)]
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """Writes a module that looks like an archive's, and takes it away again."""
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = set(sys.modules)
    install(tmp_path)

    def write(name: str, text: str):
        path = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return tmp_path

    yield write
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("ts", "lines", "mine"):
            del sys.modules[name]


@pytest.mark.parametrize("name", ["lines", "mine.lines"])
def test_an_envelope_of_ones_own(own_module, name):
    folder = own_module(name, OWN)
    wrapped = wrap(name, lambda data, _: [line.upper() for line in data], folder)
    assert wrapped([{"body": b"a b"}], context({})) == ["m A B"]
    assert wrapped([], context()) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "must have one subclass of BaseEnvelope .*, and has 0"),
        (OWN + OWN.replace("Lines", "More"), "and has 2"),
    ],
)
def test_a_module_without_an_envelope_is_refused(own_module, text, said):
    with pytest.raises(EnvelopeError, match=said):
        wrap("lines", print, own_module("lines", text))


def test_a_module_that_is_not_there_or_lacks_another_says_so(own_module, tmp_path):
    with pytest.raises(EnvelopeError, match="a module that is in the archive or"):
        wrap("lines", print, tmp_path)
    folder = own_module("lines", "import nowhere_to_be_found")
    with pytest.raises(ModuleNotFoundError, match="nowhere_to_be_found"):
        wrap("lines", print, folder)


def test_a_subclass_of_a_known_envelope_changes_what_it_overrides():
    class Doubled(KServeEnvelope):
        def parse_input(self, data):
            return [2 * each for each in super().parse_input(data)]

    rows = [{"body": {"instances": [1]}}, {"body": {"instances": [2]}}]
    answers = Doubled(lambda data, _: data).handle(rows, context({}, {"explain": "True"}))
    assert answers == [{"predictions": [2]}, {"explanations": [4]}]
