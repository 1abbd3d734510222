"""Why a model answers as it does: captum's attributions for images and texts."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

from flambeau.handlers.image_classifier import ImageClassifier
from flambeau.handlers.text_classifier import TextClassifier
from flambeau.worker.context import Context
from flambeau.worker.errors import PredictionException
from flambeau.worker.metrics import Metrics

if TYPE_CHECKING:
    from pathlib import Path

LINEAR = """
import torch
class Linear(torch.nn.Module):
    "Class k is k times the sum of the numbers, so that k is the gradient of each."
    def forward(self, x):
        return x.flatten(1).sum(1, keepdim=True) * torch.arange(4.0)
"""
BAG = """
import torch
class Bag(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.EmbeddingBag(9, 4)
    def forward(self, text, offsets):
        return self.embedding(text, offsets)
"""


def make_context(folder: Path, source: str) -> Context:
    (folder / "explained_net.py").write_text(source)
    torch.save({"rain": 1, "snow": 2, "rain snow": 3}, folder / "source_vocab.pt")
    manifest = {"model": {"modelFile": "explained_net.py"}}
    context = Context("m", str(folder), manifest, 1, None, "0.12.0", True, Metrics("m"), {})
    context.begin_batch(["id"], [{"explain": "True"}])
    return context


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("row", "gradient"),
    [({}, 0.0), ({"target": 2}, 2.0), ({"target": bytearray(b"3")}, 3.0), ({"target": "1"}, 1.0)],
)
def test_an_images_numbers_are_attributed_to_the_class_that_is_asked_for(
    tmp_path: Path, row: dict[str, Any], gradient: float
) -> None:
    context = make_context(tmp_path, LINEAR)
    handler = ImageClassifier()
    handler.initialize(context)
    numbers = [[[1.0, 2.0], [3.0, 4.0]]]
    (found,) = handler.handle([{"data": numbers, **row}], context)
    expected = torch.tensor(numbers) * gradient
    assert torch.allclose(torch.tensor(found), expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_texts_importances_come_with_its_words(tmp_path: Path) -> None:
    context = make_context(tmp_path, BAG)
    handler = TextClassifier()
    handler.initialize(context)
    (found,) = handler.handle([{"body": "Rain, snow!", "target": 1}], context)
    assert list(found) == ["importances", "words"]
    assert found["words"] == ["rain", "snow"]
    assert torch.tensor(found["importances"]).norm() > 0
    again, bad, other = handler.handle(
        [{"body": "Rain, snow!", "target": 1}, {"body": "hail"}, {"body": "snow"}], context
    )
    assert again == found
    assert bad.error_code == 400
    assert other["words"] == ["snow"]


def test_a_target_that_is_no_number_is_the_clients_error(tmp_path: Path) -> None:
    context = make_context(tmp_path, LINEAR)
    handler = ImageClassifier()
    handler.initialize(context)
    with pytest.raises(PredictionException, match="'target' must be") as caught:
        handler.handle([{"data": [[[1.0]]], "target": b"cat"}], context)
    assert caught.value.error_code == 400


@pytest.mark.parametrize("attribute", ["ig", "lig"])
def test_without_captum_its_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attribute: str
) -> None:
    for module in ("captum", "captum.attr"):
        monkeypatch.setitem(sys.modules, module, None)
    source, cls = {"ig": (LINEAR, ImageClassifier), "lig": (BAG, TextClassifier)}[attribute]
    handler: Any = cls()
    handler.initialize(make_context(tmp_path, source))
    with pytest.raises(PredictionException, match=r"pip install 'flambeau\[explain\]'") as caught:
        getattr(handler, attribute)
    assert caught.value.error_code == 501
    handler.lig = handler.ig = "own"
    assert getattr(handler, attribute) == "own"
