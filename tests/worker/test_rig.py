"""TorchServe's own ways to load and ask a handler, in tests of people's own."""

from __future__ import annotations

import json
import struct
import sys
from typing import TYPE_CHECKING, Any

import pytest

from flambeau.handlers.deepspeed import (
    BaseDeepSpeedHandler,
    create_checkpoints_json,
    get_ds_engine,
)
from flambeau.worker.compat.model_service import SingleNodeService
from flambeau.worker.compat.otf import create_load_model_response, create_predict_response
from flambeau.worker.compat.rig import MockContext, ModelLoaderFactory, Service
from flambeau.worker.context import Context
from flambeau.worker.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HANDLER = """
def handle(data, context):
    if data is None:
        return None
    context.metrics.add_counter("Asked", len(data))
    if data[0].get("body") == "no":
        raise RuntimeError("no")
    context.set_response_content_type(0, "text/plain")
    return [str(row["body"]) + context.get_request_header(0, "X-A") for row in data]
"""


@pytest.fixture(autouse=True)
def _python_as_before() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name == "mine":
            del sys.modules[name]


def parsed(message: bytes | bytearray | None) -> tuple[int, str, list[dict[str, Any]]]:
    """A message of TorchServe's worker, taken apart."""
    assert message is not None
    at = 0

    def number() -> int:
        nonlocal at
        at += 4
        return int(struct.unpack("!i", message[at - 4 : at])[0])

    def text(size: int | None = None) -> str:
        nonlocal at
        size = number() if size is None else size
        at += size
        return bytes(message[at - size : at]).decode()

    code, words, answers = number(), text(), []
    while (size := number()) != -1:
        answers.append(
            {
                "id": text(size),
                "type": text(),
                "status": number(),
                "phrase": text(),
                "headers": {text(): text() for _ in range(number())},
                "body": text(),
            }
        )
    assert at == len(message)
    return code, words, answers


def asked(*bodies: Any) -> list[dict[str, Any]]:
    return [
        {
            "requestId": f"r{index}".encode(),
            "headers": [{"name": b"X-A", "value": b"!"}],
            "parameters": [{"name": "body", "value": body, "contentType": "text/plain"}],
        }
        for index, body in enumerate(bodies)
    ]


@pytest.fixture
def service(tmp_path: Path) -> Service:
    (tmp_path / "mine.py").write_text(HANDLER)
    (tmp_path / "MAR-INF").mkdir()
    manifest = {"model": {"modelName": "m", "configFile": "c.yaml"}}
    (tmp_path / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    (tmp_path / "c.yaml").write_text("a: 1")
    loader = ModelLoaderFactory.get_model_loader()
    return loader.load("m", str(tmp_path), "mine.py", None, 2, metrics_cache=Metrics("m"))


def test_a_loaded_service_answers_as_torchserves_worker_does(service: Service) -> None:
    assert service.context.model_yaml_config == {"a": 1}
    code, words, answers = parsed(service.predict(asked("a", "b")))
    assert (code, words) == (200, "Prediction success")
    assert [(each["id"], each["body"], each["type"]) for each in answers] == [
        ("r0", "a!", "text/plain"),
        ("r1", "b!", ""),
    ]


def test_a_handler_that_fails_fails_the_batch(service: Service) -> None:
    code, words, answers = parsed(service.predict(asked("no")))
    assert (code, words) == (503, "Prediction failed")
    assert answers[0]["status"] == 503


def test_the_rows_of_a_batch() -> None:
    headers, rows, ids = Service.retrieve_data_for_inference(asked(b"x"))
    assert headers[0].get_request_property("X-A") == "!"
    assert headers[0].get_request_property("body") == {"content-type": "text/plain"}
    assert (rows, ids) == ([{"body": b"x"}], {0: "r0"})
    with pytest.raises(ValueError, match="invalid inputs"):
        Service.retrieve_data_for_inference(None)


def test_messages_that_rigs_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    assert create_load_model_response(200, "ok") == b"\0\0\0\xc8\0\0\0\2ok\xff\xff\xff\xff"
    code, _, answers = parsed(create_predict_response([{"a": 1}], {0: "r0"}, "ok", 200))
    assert (code, answers[0]["body"]) == (200, '{\n  "a": 1\n}')
    code, words, answers = parsed(create_predict_response([object()], {0: "r0"}, "ok", 200))
    assert (code, words, answers[0]["body"]) == (
        503,
        "Unsupported model output data type.",
        "error",
    )
    context = Context("m", "/m", None, 1, None, "0.12.0")
    context.begin_batch(["r0"], [{}])
    for more in ("true", "false"):
        message = create_predict_response(["x"], {0: "r0"}, "ok", 200, context, more == "true")
        assert parsed(message)[2][0]["headers"] == {"ts_stream_next": more}
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert create_predict_response(["x"], {0: "r0"}, "ok", 200) is None


def test_the_mock_of_a_context(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("handler: {profile: true}")
    mock = MockContext(None, str(tmp_path), "net.py", model_yaml_config_file="c.yaml")
    assert mock.manifest == {"model": {"modelFile": "net.py"}}
    assert mock.system_properties["model_dir"] == str(tmp_path)
    assert mock.model_yaml_config == {"handler": {"profile": True}}
    mock.metrics.add_time("Wait", 2)
    assert mock.metrics.store[0].request_id
    mock.explain = True
    assert [mock.get_request_header(row, "explain") for row in (0, 1)] == [False, True]


def test_a_model_service_of_old_answers(tmp_path: Path) -> None:
    class Doubled(SingleNodeService):
        def _inference(self, data: Any) -> Any:
            return [2 * each for each in data[0]]

    signature = {"input_type": "application/json", "inputs": [{"data_name": "in"}]}
    (tmp_path / "s.json").write_text(json.dumps(signature))
    manifest = {"Model": {"Signature": "s.json"}}
    context = Context("m", str(tmp_path), manifest, 1, None, "0.12.0")
    service = Doubled("m", str(tmp_path), manifest)
    service.initialize(context)
    assert service.signature() == signature
    assert service.handle([{"in": bytearray(b"[1, 2]")}], context) == [2, 4]
    assert service.handle([{"body": [3]}], context) == [6]
    (tmp_path / "s.json").unlink()
    with pytest.raises(ValueError, match="Signature file is not found"):
        service.initialize(context)


def test_deepspeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = BaseDeepSpeedHandler()
    monkeypatch.setenv("LOCAL_RANK", "3")
    handler.initialize(None)
    assert handler.device == 3
    (tmp_path / "a.bin").touch()
    config: dict[str, Any] = {"handler": {"model_path": str(tmp_path)}}
    context = Context("m", str(tmp_path), None, 1, None, "0.12.0", model_yaml_config=config)
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(ImportError, match="pip install deepspeed"):
        get_ds_engine(object(), context)
    made = type("deepspeed", (), {"init_inference": staticmethod(lambda model, **how: how)})
    monkeypatch.setitem(sys.modules, "deepspeed", made)
    with pytest.raises(ValueError, match="has no deepspeed config in"):
        get_ds_engine(object(), context)
    config["deepspeed"] = {"config": "ds.json", "checkpoint": "list.json"}
    with pytest.raises(ValueError, match=r"no deepspeed config file ds\.json"):
        get_ds_engine(object(), context)
    (tmp_path / "ds.json").touch()
    assert get_ds_engine(object(), context)["checkpoint"] == str(tmp_path / "list.json")
    assert json.loads((tmp_path / "list.json").read_text())["checkpoints"] == [
        str(tmp_path / "a.bin")
    ]
    create_checkpoints_json(str(tmp_path / "nowhere"), str(tmp_path / "empty.json"))
    assert json.loads((tmp_path / "empty.json").read_text())["checkpoints"] == []
