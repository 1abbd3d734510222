"""image_segmenter and object_detector."""

from __future__ import annotations

import io
import json
import struct
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image

from flambeau.handlers.architectures import make_architecture
from flambeau.handlers.image_classifier import ImageClassifier
from flambeau.handlers.image_segmenter import ImageSegmenter
from flambeau.handlers.object_detector import ObjectDetector
from flambeau.worker.context import Context
from flambeau.worker.errors import PredictionException
from flambeau.worker.metrics import Metrics

if TYPE_CHECKING:
    from pathlib import Path

SEGMENTS = """
import torch
class Segments(torch.nn.Module):
    "Three classes: the channels of the image."
    def forward(self, x):
        return {"out": x * 10}
"""
BOXES = """
import torch
calls = []
class Boxes(torch.nn.Module):
    "Two boxes for each image; the redder it is, the surer is the first."
    def forward(self, x):
        calls.append(tuple(x.shape))
        return [
            {
                "boxes": torch.tensor([[0.0, 0.0, image.shape[2], image.shape[1]], [1.0] * 4]),
                "labels": torch.tensor([1, 2]),
                "scores": torch.stack([image[0].mean(), torch.tensor(0.25)]),
            }
            for image in x
        ]
"""
RED, BLUE = (255, 0, 0), (0, 0, 255)


def png(color: Any = RED, mode: str = "RGB", size: tuple[int, int] = (30, 20)) -> bytearray:
    stream = io.BytesIO()
    Image.new(mode, size, color).save(stream, "PNG")
    return bytearray(stream.getvalue())


def answers(folder: Path, handler: Any, source: str, *values: object) -> list[Any]:
    (folder / "picture_net.py").write_text(source)
    (folder / "index_to_name.json").write_text(json.dumps({"1": "red", "2": ["n2", "any"]}))
    manifest = {"model": {"modelFile": "picture_net.py"}}
    context = Context("m", str(folder), manifest, 8, None, "0.12.0", True, Metrics("m"), {})
    handler.initialize(context)
    context.begin_batch([str(index) for index in range(len(values))], [{} for _ in values])
    return handler.handle([{"body": value} for value in values], context)  # type: ignore[no-any-return]


def test_each_pixel_has_its_likeliest_class_and_probability(tmp_path: Path) -> None:
    red, bad, blue = answers(tmp_path, ImageSegmenter(), SEGMENTS, png(RED), b"bad", png(BLUE))
    assert torch.tensor(red).shape == (224, 224, 2)
    assert red[0][0] == [0.0, pytest.approx(1.0, abs=1e-6)]
    assert blue[223][100][0] == 2.0
    assert (bad.error_code, type(bad)) == (400, PredictionException)


def test_a_segmenter_takes_in_what_a_classifier_does() -> None:
    assert ImageSegmenter.image_processing is ImageClassifier.image_processing


def test_boxes_below_the_threshold_are_left_out(tmp_path: Path) -> None:
    assert answers(tmp_path, ObjectDetector(), BOXES, png(RED), png(BLUE)) == [
        [{"red": [0.0, 0.0, 30.0, 20.0], "score": 1.0}],
        [],
    ]
    lenient = ObjectDetector()
    lenient.threshold = 0.25
    (found,) = answers(tmp_path, lenient, BOXES, png(BLUE))
    assert found == [{"any": [1.0] * 4, "score": 0.25}]


def test_images_of_different_sizes_are_answered_in_order(tmp_path: Path) -> None:
    sizes = [(30, 20), (8, 9), (30, 20), (1, 1)]
    handler = ObjectDetector()
    found = answers(tmp_path, handler, BOXES, *(png(RED, size=size) for size in sizes), b"bad")
    assert [each[0]["red"][2:] for each in found[:4]] == [list(size) for size in sizes]
    assert found[4].error_code == 400
    import picture_net  # type: ignore[import-not-found]

    # One call for each size; what takes the place of the bad one goes with the first.
    assert picture_net.calls == [(3, 3, 20, 30), (1, 3, 9, 8), (1, 3, 1, 1)]


@pytest.mark.parametrize(("mode", "color"), [("L", 255), ("RGBA", (*RED, 3)), ("P", 1)])
def test_images_of_other_modes_have_boxes_too(tmp_path: Path, mode: str, color: Any) -> None:
    (found,) = answers(tmp_path, ObjectDetector(), BOXES, png(color, mode))
    assert isinstance(found, list)


@pytest.mark.parametrize("bad", [[1, 2], [[1]], [[[]]], [[[["x"]]]]])
def test_numbers_that_are_no_image_cost_only_their_client(tmp_path: Path, bad: Any) -> None:
    red, refused = answers(tmp_path, ObjectDetector(), BOXES, png(RED), bad)
    assert red[0]["score"] == 1.0
    assert refused.error_code == 400


@pytest.mark.parametrize("name", ["fcn_resnet50", "fasterrcnn_resnet50_fpn"])
def test_models_on_backbones_are_made_without_fetching_weights(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = pytest.importorskip("torchvision.models")
    made: dict[str, Any] = {}
    monkeypatch.setattr(models, "get_model", lambda name, **options: made.update({name: options}))
    make_architecture(name, {"num_classes": 3})
    assert made == {name: {"weights": None, "weights_backbone": None, "num_classes": 3}}


def wrapped_in_iptc(inner: bytes) -> bytes:
    """An IPTC file that says it is a compressed picture; Pillow opens what is in it by content."""

    def field(record: int, number: int, content: bytes) -> bytes:
        return bytes([0x1C, record, number]) + struct.pack(">H", len(content)) + content

    return b"".join(
        [
            field(3, 20, struct.pack(">H", 10)),
            field(3, 30, struct.pack(">H", 10)),
            field(3, 60, b"\x01\x00"),
            field(3, 120, b"\x05"),
            field(8, 10, inner),
            field(9, 10, b""),
        ]
    )


def test_a_program_wrapped_in_an_image_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import EpsImagePlugin

    run: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **_: run.append(args))
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
    wrapped = wrapped_in_iptc(program)
    with Image.open(io.BytesIO(wrapped)) as image, pytest.raises(Exception, match=r".*"):
        image.load()
    assert run, "Pillow no longer opens what is wrapped: this test shows nothing"
    run.clear()
    for hostile in (program, wrapped):
        (refused,) = answers(tmp_path, ObjectDetector(), BOXES, hostile)
        assert refused.error_code == 400
    assert run == []


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000"])
def test_a_header_that_announces_too_many_pixels_is_refused_before_they_are_made(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (400, 300)).save(stream, kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)
    (refused,) = answers(tmp_path, ObjectDetector(), BOXES, bytearray(stream.getvalue()))
    assert refused.error_code == 400
    assert "too large" in refused.message
