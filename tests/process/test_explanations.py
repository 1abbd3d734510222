"""Explanations over HTTP: beside predictions of the same model, and each for its own client."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import torch
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable

    from real_server import RealServer

TEXTS = """
import torch
class Texts(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.EmbeddingBag(20, 4)
    def forward(self, text, offsets):
        return self.embedding(text, offsets)
"""
IMAGES = """
import torch
class Images(torch.nn.Module):
    def forward(self, x):
        return x.mean((2, 3))
"""
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def torch_file(value: object) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def test_each_client_gets_what_it_asked_for(server: RealServer, model: Callable[..., str]) -> None:
    vocabulary = {"<unk>": 0, "rain": 1, "snow": 2, "hail": 3}
    files = {"texts.py": TEXTS, "source_vocab.pt": torch_file(vocabulary)}
    url = server.store.folder("texts", files, handler="text_classifier", modelFile="texts.py")
    name = model(url, batch_size=8, max_batch_delay=100)

    def client(number: int) -> tuple[int, Any]:
        word = ("rain", "snow", "hail")[number % 3]
        call = "explanations" if number % 2 else "predictions"
        form = urlencode({"data": f"{word} {number}", "target": number % 4})
        answer = server.request("POST", f"/{call}/{name}", form, FORM, timeout=60)
        assert answer.status == 200, answer
        return number, answer.json

    with ThreadPoolExecutor(12) as pool:
        for number, answer in pool.map(client, range(24)):
            if number % 2:
                word = ("rain", "snow", "hail")[number % 3]
                assert answer["words"] == [word, str(number)]
                assert len(answer["importances"][0]) == 4
            else:
                assert set(answer) == {"0", "1", "2", "3"}


def test_an_images_explanation_has_its_shape(server: RealServer, model: Callable[..., str]) -> None:
    url = server.store.folder(
        "images", {"images.py": IMAGES}, handler="image_classifier", modelFile="images.py"
    )
    name = model(url, batch_size=4)
    image = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(image, "PNG")
    answer = server.request("POST", f"/explanations/{name}", image.getvalue(), timeout=60)
    assert answer.status == 200, answer
    assert torch.tensor(answer.json).shape == (3, 224, 224)
    refused = server.request("POST", f"/explanations/{name}", b"no image")
    assert refused.status == 400
    assert "cannot be read as an image" in refused.message
