"""A server with allow_archive_code=false: built-in handlers and safetensors, and no code at all."""

from __future__ import annotations

import io
import json
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from safetensors.torch import save

if TYPE_CHECKING:
    from collections.abc import Callable

    from real_server import RealServer

CONFIG = {"handler": {"architecture": "squeezenet1_1", "architecture_options": {"num_classes": 2}}}


@pytest.fixture
def careful(new_server: Callable[..., RealServer]) -> RealServer:
    return new_server(allow_archive_code="false").start()


def write_model(server: RealServer, name: str, **more: bytes) -> None:
    models = pytest.importorskip("torchvision.models")
    weights = save(models.get_model("squeezenet1_1", num_classes=2).state_dict())
    manifest: dict[str, Any] = {
        "modelName": name,
        "modelVersion": "1.0",
        "handler": "image_classifier",
        "serializedFile": "model.safetensors",
        "configFile": "model-config.yaml",
    }
    files = {
        "MAR-INF/MANIFEST.json": json.dumps({"model": manifest}).encode(),
        "model.safetensors": weights,
        "model-config.yaml": json.dumps(CONFIG).encode(),
        "index_to_name.json": b'{"0": "cat", "1": "dog"}',
        **more,
    }
    with zipfile.ZipFile(server.store.root / f"{name}.mar", "w") as archive:
        for file, content in files.items():
            archive.writestr(file, content)


def test_a_model_without_code_is_served(careful: RealServer) -> None:
    write_model(careful, "plain")
    careful.serve("plain.mar")
    image = io.BytesIO()
    Image.new("RGB", (300, 300), "red").save(image, "PNG")
    answer = careful.request("POST", "/predictions/plain", image.getvalue())
    assert answer.status == 200
    assert set(answer.json) == {"cat", "dog"}


def test_code_is_refused_and_said(careful: RealServer) -> None:
    write_model(careful, "handy", **{"handler.py": b"raise SystemExit"})
    answer = careful.register("handy.mar")
    assert answer.status == 400
    assert "handler.py: it could be code" in answer.message
    assert careful.manage("GET", "/models").json["models"] == []


def test_no_handler_comes_from_elsewhere_either(careful: RealServer) -> None:
    write_model(careful, "plain")
    for handler in ("antigravity", "os:system", "../x.py", "/etc/x.py:handle"):
        answer = careful.register("plain.mar", handler=handler)
        assert answer.status == 500
        assert "is not one of flambeau's" in answer.message


def test_a_folder_could_be_another_tomorrow(careful: RealServer) -> None:
    careful.store.folder("folder")
    answer = careful.register("folder")
    assert answer.status == 400
    assert "Package it as an archive" in answer.message
