"""The digits example: what it trains is what a server would see, and its demo tells the truth."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image
from torchvision import transforms

from flambeau.archiver.packager import ArchiveSpec, build_archive

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"


def load(name: str) -> Any:
    module_spec = importlib.util.spec_from_file_location(f"digits_{name}", EXAMPLE / f"{name}.py")
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    command = [sys.executable, str(EXAMPLE / "train.py"), "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    assert "unseen digits are right" in done.stdout
    return folder


@pytest.fixture(scope="module")
def net(trained: Path) -> torch.nn.Module:
    model: torch.nn.Module = load("model").DigitsNet()
    model.load_state_dict(torch.load(trained / "digits.pt", weights_only=True))
    return model.eval()


def test_training_leaves_weights_names_and_a_picture_of_each_digit(trained: Path) -> None:
    assert json.loads((trained / "index_to_name.json").read_text())["7"] == "seven"
    assert {path.name for path in trained.iterdir()} == {
        *("digits.pt", "index_to_name.json", "images"),
    }
    for label in range(10):
        with Image.open(trained / "images" / f"{label}.png") as image:
            assert (image.size, image.mode) == ((64, 64), "RGB")


def test_the_cheap_way_of_training_equals_the_served_transform(
    trained: Path, net: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    monkeypatch.syspath_prepend(EXAMPLE)
    to_input = load("train").to_input
    right = 0
    for label in range(10):
        with Image.open(trained / "images" / f"{label}.png") as image:
            expected = served(image)
            torch.testing.assert_close(to_input(image), expected, rtol=0, atol=1e-6)
        with torch.inference_mode():
            right += int(net(expected[None]).argmax()) == label
    assert right >= 9


def test_the_archive_of_the_example_holds_what_the_handler_needs(
    trained: Path, tmp_path: Path
) -> None:
    archive = build_archive(
        ArchiveSpec(
            model_name="digits",
            version="1.0",
            handler="image_classifier",
            model_file=EXAMPLE / "model.py",
            serialized_file=trained / "digits.pt",
            extra_files=(str(trained / "index_to_name.json"),),
            export_path=tmp_path,
        )
    )
    with zipfile.ZipFile(archive) as mar:
        assert set(mar.namelist()) == {
            *("MAR-INF/MANIFEST.json", "model.py", "digits.pt", "index_to_name.json"),
        }


class StubServer(BaseHTTPRequestHandler):
    """Answers as the documented server does; ``broken`` paths are answered 503."""

    broken: tuple[str, ...] = ()
    answer = "seven"
    seen: list[str]

    def _reply(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        self.seen.append(f"{self.command} {self.path} {len(body)}")
        replies: dict[str, Any] = {
            "/ping": {"status": "Healthy"},
            "/models": {"status": 'Model "digits" Version: 1.0 registered with 1 initial workers'},
            "/models/digits": {"status": "Processing worker updates..."},
            "/predictions/digits": {self.answer: 0.9, "one": 0.1},
        }
        content = json.dumps(replies.get(path, {})).encode()
        if path == "/metrics":
            content = b'ts_inference_requests_total{model_name="digits"} 10\n'
        self.send_response(503 if path in self.broken else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = _reply

    def log_message(self, *_: object) -> None:
        """Nothing: the tests look at ``seen``."""


@pytest.fixture
def stub() -> type[StubServer]:
    return type("Stub", (StubServer,), {"seen": []})


@pytest.fixture
def server(stub: type[StubServer]) -> Iterator[Any]:
    listener = ThreadingHTTPServer(("127.0.0.1", 0), stub)
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
    thread.start()
    port = listener.server_port
    yield load("demo").Server(port, port, port)
    listener.shutdown()
    thread.join(10)
    listener.server_close()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "index_to_name.json").write_text('{"1": "one", "7": "seven"}')
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "7.png").write_bytes(b"png")
    return folder


def test_the_demo_asks_as_the_documentation_says(
    server: Any, stub: type[StubServer], images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo = load("demo")
    demo.register(server)
    demo.scale(server)
    demo.predict(server, images)
    demo.describe(server)
    demo.show_metrics(server)
    assert stub.seen == [
        "POST /models?url=digits.mar&initial_workers=1&synchronous=true 0",
        "PUT /models/digits?min_worker=2&synchronous=true 0",
        "POST /predictions/digits 3",
        "GET /models/digits 0",
        "GET /metrics 0",
    ]
    output = capsys.readouterr().out
    assert "7.png   seven   seven         0.9000" in output
    assert "1 of 1 are right" in output
    assert "ts_inference_requests_total" in output


def test_the_demo_fails_with_the_servers_reason(server: Any, stub: type[StubServer]) -> None:
    demo = load("demo")
    stub.broken = ("/models",)
    with pytest.raises(demo.DemoError, match=r"POST .*/models.* was answered 503: \{"):
        demo.register(server)


def test_the_demo_fails_when_the_answers_are_wrong(
    server: Any, stub: type[StubServer], images: Path
) -> None:
    demo = load("demo")
    stub.answer = "nine"
    with pytest.raises(demo.DemoError, match="not those of the network"):
        demo.predict(server, images)


def test_the_demo_says_why_the_server_did_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = load("demo")
    broken = tmp_path / "flambeau"
    broken.write_text("#!/bin/sh\necho no such thing\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(demo, "FLAMBEAU", broken)
    with (
        pytest.raises(demo.DemoError, match=r"ended with code 3:\nno such thing"),
        demo.serving(tmp_path),
    ):
        pytest.fail("there is no server")


def test_what_is_there_is_not_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = load("demo")
    monkeypatch.setattr(demo, "run", lambda *_, **__: pytest.fail("it was made again"))
    for name in ("model/digits.pt", "model/index_to_name.json", "model_store/digits.mar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    demo.train(tmp_path / "model")
    demo.package(tmp_path / "model", tmp_path / "model_store")
    assert capsys.readouterr().out.count("is already there.") == 2
