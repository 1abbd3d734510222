"""``flambeau.Handler``: predict, and nothing else that has to be written."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic
import pytest
from typing_extensions import TypedDict

import flambeau
from flambeau.worker.context import Context
from flambeau.worker.coroutines import event_loop, one_by_one
from flambeau.worker.messages import Chunk, Part, Request, Result, Work
from flambeau.worker.rows import Rows
from flambeau.worker.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclasses.dataclass
class Review:
    text: str
    stars: Annotated[int, pydantic.Field(ge=1, le=5)] = 3
    tags: list[str] = dataclasses.field(default_factory=list)


class Score(TypedDict):
    score: float
    label: Literal["good", "bad"]


class Reviews(flambeau.Handler):
    def predict(self, batch: list[Review]) -> list[Score]:
        return [{"score": each.stars / 5, "label": "good"} for each in batch]


def json_part(value: object) -> Part:
    return Part("body", "application/json", json.dumps(value).encode())


def run(handler: flambeau.Handler, *requests: list[Part], **headers: str) -> Result:
    chunks: list[Chunk] = []
    context = Context("m", "/models/m", None, 8, None, "0.12.0")
    handler.initialize(context)
    work = [Request(f"r{row}", headers, parts) for row, parts in enumerate(requests)]
    service = Service(handler.handle, context, Rows(), emit=chunks.append)
    result = service.run(Work(7, work))
    result.samples = [[chunk.index, bytes(chunk.piece.body)] for chunk in chunks]
    return result


def bodies(result: Result) -> list[bytes]:
    return [bytes(answer.body) for answer in result.answers]


def statuses(result: Result) -> list[int]:
    return [answer.status for answer in result.answers]


class Echo(flambeau.Handler):
    def predict(self, batch: list[Any]) -> list[Any]:
        return [repr(each) for each in batch]


@pytest.mark.parametrize(
    ("parts", "item"),
    [
        ([json_part({"a": [1]})], "{'a': [1]}"),
        ([Part("body", "text/plain", b"hi")], "'hi'"),
        ([Part("data", "", b"\x00")], "bytearray(b'\\x00')"),
        (
            [Part("a", "", b"1"), Part("b", "", b"2")],
            "{'a': bytearray(b'1'), 'b': bytearray(b'2')}",
        ),
        ([Part("a", "", b"1")], "{'a': bytearray(b'1')}"),
        ([], "{}"),
    ],
)
def test_an_item_is_what_the_client_sent(parts, item):
    assert bodies(run(Echo(), parts)) == [item.encode()]


def test_load_comes_first_and_knows_the_device():
    class Loads(flambeau.Handler):
        def load(self, context):
            self.words = (context.model_name, self.device)

        def predict(self, batch):
            return [self.words] * len(batch)

    assert json.loads(bodies(run(Loads(), []))[0]) == ["m", "cpu"]


def test_an_exception_as_an_answer_fails_one_request():
    class Picky(flambeau.Handler):
        def predict(self, batch):
            return [
                flambeau.PredictionException("no", 418) if each == 2 else each for each in batch
            ]

    result = run(Picky(), [json_part(1)], [json_part(2)], [json_part(3)])
    assert statuses(result) == [200, 418, 200]
    assert bodies(result) == [b"1", b"no", b"3"]


def test_a_generator_sends_the_pieces_of_all_answers():
    class Counts(flambeau.Handler):
        def predict(self, batch):
            for step in range(max(batch)):
                yield [f"{step}" if step < each else None for each in batch]

    result = run(Counts(), [json_part(1)], [json_part(3)])
    assert result.samples == [[0, b"0"], [1, b"0"], [1, b"1"], [1, b"2"]]
    assert bodies(result) == [b"", b""]


def test_pieces_of_too_few_answers_are_an_error():
    class Short(flambeau.Handler):
        def predict(self, batch):
            yield ["only one"]

    assert statuses(run(Short(), [], [])) == [503, 503]


def test_generators_as_answers_stream_each_its_own():
    class Each(flambeau.Handler):
        def predict(self, batch):
            return [self.letters(each) for each in batch]

        def letters(self, word) -> Iterator[str]:
            yield from word

    result = run(Each(), [json_part("ab")], [json_part("c")])
    assert sorted(map(tuple, result.samples)) == [(0, b"a"), (0, b"b"), (1, b"c")]


def test_predict_may_want_the_context():
    class Headers(flambeau.Handler):
        def predict(self, batch, context):
            for row in range(len(batch)):
                context.set_response_header(row, "x-row", row)
            return [context.get_request_header(row, "who") for row in range(len(batch))]

    result = run(Headers(), [], [], who="me")
    assert bodies(result) == [b"me", b"me"]
    assert [dict(answer.headers)["x-row"] for answer in result.answers] == ["0", "1"]


def test_describe_and_explain_are_there_to_be_overridden():
    assert bodies(run(Echo(), [], describe="True")) == [b"null"]
    assert statuses(run(Echo(), [json_part(1)], explain="True")) == [501]

    class Tells(Echo):
        def describe(self):
            return {"classes": 2}

        def explain(self, batch):
            return ["because"] * len(batch)

    assert json.loads(bodies(run(Tells(), [], describe="True"))[0]) == {"classes": 2}
    assert bodies(run(Tells(), [json_part(1)], explain="True")) == [b"because"]


def test_requests_arrive_as_the_type_that_is_asked_for():
    result = run(Reviews(), [json_part({"text": "x", "stars": 5})], [json_part({"text": "y"})])
    assert [json.loads(each) for each in bodies(result)] == [
        {"score": 1.0, "label": "good"},
        {"score": 0.6, "label": "good"},
    ]


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({"stars": 1}, "text: Field required"),
        ({"text": "x", "stars": "many"}, "stars: Input should be a valid integer"),
        ({"text": "x", "stars": 9}, "stars: Input should be less than or equal to 5"),
        ({"text": "x", "tags": ["a", 1]}, "tags[1]: Input should be a valid string"),
        ([], "Input should be an object"),
    ],
)
def test_what_does_not_fit_is_422_and_names_the_field(value, fault):
    result = run(Reviews(), [json_part(value)])
    assert statuses(result) == [422]
    assert bodies(result)[0].decode().startswith("The request does not fit the model's input: ")
    assert fault in bodies(result)[0].decode()


def test_one_that_does_not_fit_costs_one_client():
    class Rows(flambeau.Handler):
        def predict(self, batch: list[int], context: Any) -> list[int]:
            for row, each in enumerate(batch):
                context.set_response_header(row, "x-number", each)
            assert list(context.request_ids.values()) == ["r0", "r2"]
            return [each * 2 for each in batch]

    result = run(Rows(), [json_part(1)], [json_part("no")], [json_part(3)])
    assert statuses(result) == [200, 422, 200]
    assert (bodies(result)[0], bodies(result)[2]) == (b"2", b"6")
    assert dict(result.answers[2].headers)["x-number"] == "3"


def test_an_answer_for_each_request_is_not_enough_where_one_was_refused():
    class Long(flambeau.Handler):
        def predict(self, batch: list[int]) -> list[int]:
            return [0, 0]

    result = run(Long(), [json_part(1)], [json_part("no")])
    assert bodies(result) == [b"number of batch response mismatched"] * 2


def test_a_body_without_a_content_type_and_a_form_are_read_too():
    result = run(
        Reviews(),
        [Part("body", "", b'{"text": "x", "stars": 5}')],
        [Part("text", "", b"x"), Part("stars", "", b"5")],
    )
    assert statuses(result) == [200, 200]


@pytest.mark.parametrize(
    ("kind", "part", "item"),
    [
        (bytes, Part("body", "text/plain", b"hi"), "b'hi'"),
        (bytes, Part("body", "", b"\xff"), "b'\\xff'"),
        (str, Part("body", "", b"hi"), "'hi'"),
        (str, Part("body", "application/json", b'"hi"'), "'hi'"),
    ],
)
def test_text_and_bytes_take_the_body_as_it_is(kind, part, item):
    class Takes(flambeau.Handler):
        def predict(self, batch):
            return [repr(each) for each in batch]

    Takes.predict.__annotations__["batch"] = list[kind]
    assert bodies(run(Takes(), [part])) == [item.encode()]


def test_text_that_is_none_is_422():
    class Takes(flambeau.Handler):
        def predict(self, batch: list[str]) -> list[str]:
            return batch

    result = run(Takes(), [Part("body", "", b"\xff")], [json_part([1])])
    assert statuses(result) == [422, 422]


def test_an_answer_of_another_type_is_the_servers_fault():
    class Wrong(flambeau.Handler):
        def predict(self, batch: list[int]) -> list[float]:
            return ["no" if each else 1.5 for each in batch]  # type: ignore[misc]

    result = run(Wrong(), [json_part(0)], [json_part(1)])
    assert statuses(result) == [200, 500]


def test_the_schemas_are_what_the_annotations_say():
    context = Context("m", "/models/m", None, 8, None, "0.12.0")
    Reviews().initialize(context)
    takes, gives = json.loads(context.input_schema or ""), json.loads(context.output_schema or "")
    assert takes["required"] == ["text"]
    assert takes["properties"]["stars"] == {
        "default": 3, "maximum": 5, "minimum": 1, "title": "Stars", "type": "integer",
    }  # fmt: skip
    assert gives["properties"]["label"]["enum"] == ["good", "bad"]


def test_types_that_pydantic_does_not_know_are_not_checked(caplog):
    class Opaque:
        pass

    class Takes(Echo):
        def predict(self, batch):
            return [1 for _ in batch]

    Takes.predict.__annotations__["batch"] = list[Opaque]
    assert statuses(run(Takes(), [json_part(1)])) == [200]
    assert "Opaque" in caplog.text


def test_without_pydantic_the_remedy_is_named(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "pydantic", None)
    with pytest.raises(RuntimeError, match=r"pip install 'flambeau\[typed\]'"):
        Reviews().initialize(Context("m", "/models/m", None, 8, None, "0.12.0"))

    class Plain(flambeau.Handler):
        def predict(self, batch: list[dict[str, float | None]]) -> list[Any]:
            return batch

    assert statuses(run(Plain(), [json_part(1)])) == [200]
    assert "flambeau[typed]" in caplog.text


def run_async(handler: flambeau.Handler, *requests: list[Part]) -> Result:
    try:
        handler.handle = one_by_one(handler.handle)  # type: ignore[method-assign]
        return run(handler, *requests)
    finally:
        event_loop().close()


def test_predict_may_be_async():
    class Waits(flambeau.Handler):
        async def predict(self, batch: list[str]) -> list[int]:
            await asyncio.sleep(0)
            return [len(text) for text in batch]

    assert bodies(run_async(Waits(), [json_part("four")], [json_part("x")])) == [b"4", b"1"]


def test_an_async_predict_may_yield_and_its_answers_may_be_async_generators():
    class Steps(flambeau.Handler):
        async def predict(self, batch):
            for step in range(2):
                await asyncio.sleep(0)
                yield [f"{text}{step}" for text in batch]

    class Each(flambeau.Handler):
        async def predict(self, batch: list[str]) -> list[str]:
            return [self.letters(text) for text in batch]

        async def letters(self, text):
            for letter in text:
                yield letter

    assert run_async(Steps(), [json_part("a")]).samples == [[0, b"a0"], [0, b"a1"]]
    assert run_async(Each(), [json_part("ab")]).samples == [[0, b"a"], [0, b"b"]]


class Names(pydantic.BaseModel):
    text: str = pydantic.Field(validation_alias=pydantic.AliasChoices("text", "prompt"))


class Lower(pydantic.BaseModel):
    text: Annotated[str, pydantic.BeforeValidator(lambda value: str(value).lower())]


class ByName(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(populate_by_name=True)
    text: str = pydantic.Field(alias="t")


@pytest.mark.parametrize(
    ("kind", "value"),
    [(Names, {"prompt": "x"}), (Lower, {"text": 1}), (ByName, {"text": "x"})],
)
def test_what_a_schema_does_not_tell_is_left_to_the_worker(kind, value):
    class Takes(flambeau.Handler):
        def predict(self, batch):
            return [each.text for each in batch]

    Takes.predict.__annotations__["batch"] = list[kind]
    context = Context("m", "/models/m", None, 8, None, "0.12.0")
    Takes().initialize(context)
    assert json.loads(context.input_schema or "")["x-checked-by-worker"] is True
    assert statuses(run(Takes(), [json_part(value)])) == [200]


@pytest.mark.parametrize(
    ("kind", "value"), [(int, "12"), (bool, 1), (bool, "yes"), (float, "1.5"), (str, 1)]
)
def test_json_is_taken_as_its_schema_says_it(kind, value):
    class Takes(flambeau.Handler):
        def predict(self, batch):
            return [1 for _ in batch]

    Takes.predict.__annotations__["batch"] = list[dict[str, kind]]  # type: ignore[valid-type]
    assert statuses(run(Takes(), [json_part({"a": value})])) == [422]
