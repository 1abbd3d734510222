"""Our image transforms give what torchvision's give, bit for bit."""

from __future__ import annotations

import random
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flambeau.handlers.image_classifier import ImageClassifier
from flambeau.handlers.transforms import CenterCrop, Compose, Normalize, Resize, ToRGB, ToTensor

torchvision = pytest.importorskip("torchvision.transforms")

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
MODES = ["RGB", "L", "RGBA", "1", "P", "LA", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16"]
SIZES = [(1, 1), (1, 9), (28, 28), (223, 224), (224, 225), (256, 256), (300, 255), (641, 427)]


def picture(mode: str, size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Noise of that mode; the same for the same arguments."""
    noise = random.Random(f"{mode}{size}{seed}")
    width, height = size
    if mode == "1":
        return Image.frombytes("L", size, noise.randbytes(width * height)).convert("1")
    if mode in {"I", "F"}:
        return Image.frombytes("L", size, noise.randbytes(width * height)).convert(mode)
    count = 2 if mode == "I;16" else len(Image.new(mode, (1, 1)).getbands())
    image = Image.frombytes(mode, size, noise.randbytes(count * width * height))
    if mode == "P":
        image.putpalette(noise.randbytes(768))
    return image


def assert_same(ours: object, theirs: object) -> None:
    assert isinstance(ours, torch.Tensor)
    assert isinstance(theirs, torch.Tensor)
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("size", SIZES)
def test_the_classifiers_input_is_torchvisions(size: tuple[int, int]) -> None:
    image = picture("RGB", size)
    theirs = torchvision.Compose(
        [
            torchvision.Resize(256),
            torchvision.CenterCrop(224),
            torchvision.ToTensor(),
            torchvision.Normalize(mean=MEAN, std=STD),
        ]
    )
    assert_same(ImageClassifier.image_processing(image), theirs(image))


@settings(deadline=None, max_examples=40)
@given(width=st.integers(1, 700), height=st.integers(1, 700), size=st.integers(1, 300))
def test_resized_and_cropped_sizes_are_torchvisions(width: int, height: int, size: int) -> None:
    image = picture("L", (width, height))
    ours = Compose([Resize(size), CenterCrop(224), ToTensor()])
    theirs = torchvision.Compose(
        [torchvision.Resize(size), torchvision.CenterCrop(224), torchvision.ToTensor()]
    )
    # Narrow pictures become very long ones; their shape is all that is asked of them.
    if max(width, height) * size / min(width, height) > 3000:
        image = image.crop((0, 0, min(width, 40), min(height, 40)))
    assert_same(ours(image), theirs(image))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(5, 7), (224, 224), (300, 201)])
def test_a_tensor_of_each_mode_is_torchvisions(mode: str, size: tuple[int, int]) -> None:
    image = picture(mode, size)
    assert_same(ToTensor()(image), torchvision.ToTensor()(image))


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode not in {"I;16", "HSV", "LAB"}])
@pytest.mark.parametrize("size", [(5, 7), (223, 301), (301, 222), (300, 301)])
def test_resize_and_crop_of_each_mode_are_torchvisions(mode: str, size: tuple[int, int]) -> None:
    image = picture(mode, size)
    ours, theirs = CenterCrop(224)(image), torchvision.CenterCrop(224)(image)
    assert_same(ToTensor()(ours), torchvision.ToTensor()(theirs))
    ours, theirs = Resize(64)(image), torchvision.Resize(64)(image)
    assert_same(ToTensor()(ours), torchvision.ToTensor()(theirs))


def test_an_image_of_the_right_size_is_not_touched() -> None:
    image = picture("RGB", (64, 100))
    assert Resize(64)(image) is image


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_normalize_refuses_other_channel_counts_as_torchvision_does(channels: int) -> None:
    tensor = torch.rand(channels, 3, 3)
    with pytest.raises(RuntimeError):
        torchvision.Normalize(MEAN, STD)(tensor)
    with pytest.raises(RuntimeError):
        Normalize(MEAN, STD)(tensor)


def test_normalize_leaves_its_input_alone_and_refuses_a_zero() -> None:
    tensor = torch.rand(3, 4, 4)
    before = tensor.clone()
    assert_same(Normalize(MEAN, STD)(tensor), torchvision.Normalize(MEAN, STD)(before))
    assert torch.equal(tensor, before)
    with pytest.raises(ValueError, match="zero"):
        Normalize(MEAN, [0.1, 0.0, 0.1])


@pytest.mark.parametrize("mode", [*MODES, "PA", "RGBX", "RGBa", "La", "I;16B"])
def test_every_mode_can_be_classified(mode: str) -> None:
    tensor = ImageClassifier.image_processing(Image.new(mode, (30, 20)))
    assert tensor.shape == (3, 224, 224)
    assert torch.isfinite(tensor).all()


def test_an_rgb_image_passes_to_rgb_unchanged() -> None:
    image = picture("RGB", (3, 3))
    assert ToRGB()(image) is image


def test_sixteen_bits_of_grey_are_scaled_and_not_clipped() -> None:
    image = Image.new("I;16", (3, 1))
    for x, value in enumerate((0, 0x8000, 0xFFFF)):
        image.putpixel((x, 0), value)
    converted = ToRGB()(image)
    assert [converted.getpixel((x, 0)) for x in range(3)] == [(v, v, v) for v in (0, 128, 255)]


def test_a_transparent_palette_makes_no_warning() -> None:
    image = picture("P", (4, 4))
    image.info["transparency"] = bytes(range(256))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ToRGB()(image).mode == "RGB"


def test_a_thread_of_an_image_is_refused_before_memory_runs_out() -> None:
    with pytest.raises(Image.DecompressionBombError, match="1x1000000"):
        Resize(256)(Image.new("L", (1, 1_000_000)))


def test_the_transforms_say_what_they_are() -> None:
    text = repr(Compose([Resize(256), CenterCrop(224), ToTensor(), Normalize([0.5], [0.5])]))
    assert text == (
        "Compose([Resize(256), CenterCrop(224), ToTensor(), Normalize(mean=[0.5], std=[0.5])])"
    )
