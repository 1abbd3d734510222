"""Images in, labels out; a bad image costs only its own client."""

from __future__ import annotations

import base64
import io
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image

from flambeau.handlers.image_classifier import ImageClassifier
from flambeau.handlers.transforms import Compose, ToTensor
from flambeau.worker.context import Context
from flambeau.worker.errors import PredictionException
from flambeau.worker.metrics import Metrics

if TYPE_CHECKING:
    from pathlib import Path

MODEL = """
import torch
class Means(torch.nn.Module):
    "As many logits as asked for, from the means of the channels."
    classes = {classes}
    def forward(self, x):
        means = x.flatten(2).mean(2).repeat(1, 3)[:, :self.classes]
        return means / torch.arange(1, self.classes + 1)
"""
RED, BLUE = (250, 10, 10), (10, 10, 250)


def png(color: Any = RED, mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> bytearray:
    stream = io.BytesIO()
    Image.new(mode, size, color).save(stream, "PNG")
    return bytearray(stream.getvalue())


@pytest.fixture(autouse=True)
def _pixel_limit_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return make_context(tmp_path)


def make_context(folder: Path, classes: int = 7, limit: bool = True) -> Context:
    (folder / "means.py").write_text(MODEL.format(classes=classes))
    names = {str(index): f"class {index}" for index in range(9)}
    (folder / "index_to_name.json").write_text(json.dumps(names))
    manifest = {"model": {"modelFile": "means.py"}}
    return Context("m", str(folder), manifest, 8, None, "0.12.0", limit, Metrics("m"), {})


def answers(context: Context, *values: object, cls: Any = ImageClassifier) -> list[Any]:
    handler = cls()
    handler.initialize(context)
    context.begin_batch([str(index) for index in range(len(values))], [{} for _ in values])
    return handler.handle([{"body": value} for value in values], context)  # type: ignore[no-any-return]


def test_the_likeliest_five_classes_come_first(context: Context) -> None:
    (answer,) = answers(context, png(RED))
    assert next(iter(answer)) == "class 0"
    assert len(answer) == 5
    assert list(answer.values()) == sorted(answer.values(), reverse=True)


def test_answers_are_those_of_the_model_on_torchvisions_input(context: Context) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    theirs = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
    pictures = [png(RED), png(BLUE), png((1, 2, 3), size=(300, 500))]
    batch = torch.stack([theirs(Image.open(io.BytesIO(encoded))) for encoded in pictures])
    means = batch.flatten(2).mean(2).repeat(1, 3)[:, :7]
    probabilities = torch.softmax(means / torch.arange(1, 8), 1)
    best, classes = torch.topk(probabilities, 5, dim=1)
    expected = [
        {f"class {number}": value for number, value in zip(*row, strict=True)}
        for row in zip(classes.tolist(), best.tolist(), strict=True)
    ]
    assert answers(context, *pictures) == expected


def test_a_model_with_fewer_classes_gives_them_all(tmp_path: Path) -> None:
    (answer,) = answers(make_context(tmp_path, classes=2), png())
    assert len(answer) == 2


def test_the_number_of_classes_can_be_set() -> None:
    handler = ImageClassifier()
    handler.set_max_result_classes(2)
    assert handler.get_max_result_classes() == 2
    assert handler.postprocess(torch.tensor([[0.0, 2.0, 1.0]])) == [
        {"1": pytest.approx(0.665, abs=1e-3), "2": pytest.approx(0.245, abs=1e-3)}
    ]
    assert ImageClassifier.topk == 5


def test_bytes_and_base64_and_numbers_are_understood(context: Context) -> None:
    encoded = png()
    tensor = ImageClassifier.image_processing(Image.open(io.BytesIO(encoded)))
    text = base64.b64encode(encoded).decode()
    found = answers(context, encoded, bytes(encoded), text, tensor.tolist(), tensor)
    assert found == [found[0]] * 5
    assert isinstance(found[0], dict)


def test_data_goes_before_body_unless_it_is_empty(context: Context) -> None:
    handler = ImageClassifier()
    handler.initialize(context)
    both = handler.preprocess([{"data": png(RED), "body": png(BLUE)}])
    assert torch.equal(both, handler.preprocess([{"body": png(RED)}]))
    empty = handler.preprocess([{"data": bytearray(), "body": png(BLUE)}])
    assert torch.equal(empty, handler.preprocess([{"body": png(BLUE)}]))


@pytest.mark.parametrize(
    ("mode", "color"),
    [("L", 7), ("RGBA", (*RED, 9)), ("1", 1), ("P", 3), ("LA", (7, 9)), ("I;16", 700)],
)
def test_images_of_other_modes_are_answered(context: Context, mode: str, color: Any) -> None:
    (answer,) = answers(context, png(color, mode))
    assert isinstance(answer, dict)


BAD = [
    b"",
    b"not an image",
    bytes(png()[:60]),
    bytes(png(size=(400, 400))[:-40]),
    "not base64!",
    "ä",
    "bm90IGFuIGltYWdl",
    {"b64": "x"},
    7,
    None,
    True,
    [["a"]],
    [[1, 2], [3]],
    [10**400],
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n",
]


@pytest.mark.parametrize("bad", BAD, ids=lambda value: repr(value)[:20])
def test_what_is_no_image_is_the_clients_error(context: Context, bad: object) -> None:
    (answer,) = answers(context, bad)
    assert isinstance(answer, PredictionException)
    assert answer.error_code == 400
    assert "cannot be read as an image" in answer.message


def test_bad_images_in_a_batch_cost_only_their_own_clients(context: Context) -> None:
    alone = [*answers(context, png(RED)), *answers(context, png(BLUE))]
    found = answers(context, b"bad", png(RED), "bad!", png(BLUE), {})
    assert [found[1], found[3]] == alone
    assert [found[index].error_code for index in (0, 2, 4)] == [400, 400, 400]


def test_a_batch_of_bad_images_only_never_reaches_the_model(context: Context) -> None:
    class NoModel(ImageClassifier):
        def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError("the model must not run")

    found = answers(context, b"bad", {}, cls=NoModel)
    assert [answer.error_code for answer in found] == [400, 400]
    assert found[0].message != found[1].message


def test_row_numbers_keep_their_meaning_beside_a_bad_image(context: Context) -> None:
    class Marking(ImageClassifier):
        def postprocess(self, data: Any) -> Any:
            rows = super().postprocess(data)
            for index, row in enumerate(rows):
                self.context.set_response_header(index, "best", next(iter(row)))
            return rows

    found = answers(context, b"bad", png(BLUE), cls=Marking)
    assert len(found) == 2
    assert context.get_response_headers(1) == {"best": next(iter(found[1]))}


def test_a_subclass_that_hands_on_other_rows_fails_as_a_whole(context: Context) -> None:
    class Halves(ImageClassifier):
        def preprocess(self, data: Any) -> Any:
            return super().preprocess([row for row in data for _ in range(2)])

    with pytest.raises(RuntimeError, match="Row 0 of 4"):
        answers(context, b"bad", png(), cls=Halves)


def test_preprocess_alone_raises_for_a_bad_image(context: Context) -> None:
    handler = ImageClassifier()
    handler.initialize(context)
    with pytest.raises(PredictionException, match="cannot be read as an image"):
        handler.preprocess([{"body": b"bad"}])


def test_an_image_beyond_pillows_limit_is_refused_beside_others(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    small, large = answers(context, png(size=(20, 20)), png(size=(50, 50)))
    assert isinstance(large, PredictionException)
    assert large.error_code == 400
    assert "too large" in large.message
    # The limit holds for the resized picture too.
    assert isinstance(small, PredictionException)


def test_the_pixel_limit_can_be_lifted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    (answer,) = answers(make_context(tmp_path, limit=False), png(size=(50, 50)))
    assert isinstance(answer, dict)


def test_a_fault_of_the_processing_code_is_no_fault_of_the_client(
    context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    class Picky(ImageClassifier):
        def image_processing(self, image: Image.Image) -> Any:  # type: ignore[override]
            if image.mode == "L":
                raise ValueError("no grey")
            return ImageClassifier.image_processing(image)

    with caplog.at_level(logging.ERROR):
        grey, red = answers(context, png(7, "L"), png(RED), cls=Picky)
    assert (grey.message, grey.error_code) == ("Prediction failed", 503)
    assert isinstance(red, dict)
    assert "no grey" in caplog.text


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory")])
def test_running_out_of_memory_is_no_matter_of_one_image(
    context: Context, error: Exception
) -> None:
    class Greedy(ImageClassifier):
        def image_processing(self, image: Image.Image) -> Any:  # type: ignore[override]
            raise error

    with pytest.raises(type(error)):
        answers(context, png(), cls=Greedy)


def test_processing_code_may_refuse_an_image_itself(context: Context) -> None:
    class Strict(ImageClassifier):
        def image_processing(self, image: Image.Image) -> Any:  # type: ignore[override]
            raise PredictionException("only squares", 422)

    (answer,) = answers(context, png(), cls=Strict)
    assert (answer.message, answer.error_code) == ("only squares", 422)


def test_images_of_other_shapes_than_most_are_told_so(context: Context) -> None:
    class AnySize(ImageClassifier):
        image_processing = Compose([ToTensor()])

    small, large, small_too = answers(
        context, png(RED), png(RED, size=(9, 9)), png(BLUE), cls=AnySize
    )
    assert isinstance(small, dict)
    assert isinstance(small_too, dict)
    assert large.error_code == 503
    assert "shape [3, 9, 9]" in large.message


def test_an_answer_list_of_the_wrong_length_is_left_for_the_worker_to_judge(
    context: Context,
) -> None:
    class Short(ImageClassifier):
        def postprocess(self, data: Any) -> Any:
            return ["one"]

    assert answers(context, b"bad", png(), cls=Short) == ["one"]


def test_explaining_without_captum_names_it(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    for module in ("captum", "captum.attr"):
        monkeypatch.setitem(sys.modules, module, None)
    handler = ImageClassifier()
    handler.initialize(context)
    context.begin_batch(["id"], [{"explain": "True"}])
    with pytest.raises(PredictionException, match="captum") as caught:
        handler.handle([{"body": png()}], context)
    assert caught.value.error_code == 501
