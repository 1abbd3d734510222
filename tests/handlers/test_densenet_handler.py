"""Tensors in, tensors out; what a client sends is never unpickled."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flambeau.handlers.densenet_handler import DenseNetHandler
from flambeau.handlers.saved_tensor import read_tensor
from flambeau.worker.context import Context
from flambeau.worker.errors import PredictionException
from flambeau.worker.metrics import Metrics
from flambeau.worker.rows import serialise

if TYPE_CHECKING:
    from pathlib import Path

MODEL = """
import torch
calls = []
class Double(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(2.0))
    def forward(self, x):
        calls.append(tuple(x.shape))
        return x * self.factor
"""


def saved(value: object, **options: Any) -> bytearray:
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return bytearray(stream.getvalue())


@pytest.fixture
def context(tmp_path: Path) -> Context:
    (tmp_path / "double_net.py").write_text(MODEL)
    torch.save({"factor": torch.tensor(2.0)}, tmp_path / "w.pt")
    manifest = {"model": {"modelFile": "double_net.py", "serializedFile": "w.pt"}}
    return Context("m", str(tmp_path), manifest, 8, None, "0.12.0", True, Metrics("m"), {})


def answers(context: Context, *values: object) -> list[Any]:
    handler = DenseNetHandler()
    handler.initialize(context)
    context.begin_batch([str(index) for index in range(len(values))], [{} for _ in values])
    return handler.handle([{"body": value} for value in values], context)  # type: ignore[no-any-return]


def test_an_answer_is_the_output_for_a_batch_of_one(context: Context) -> None:
    (answer,) = answers(context, saved(torch.tensor([1.0, 2.0])))
    assert answer.tolist() == [[2.0, 4.0]]
    loaded = torch.load(io.BytesIO(serialise(answer)))
    assert torch.equal(loaded, torch.tensor([[2.0, 4.0]]))


def test_a_batch_is_one_call_for_each_shape_and_a_bad_row_costs_only_its_client(
    context: Context,
) -> None:
    tensors = [torch.ones(3), torch.ones(2, 2), torch.full((3,), 5.0)]
    first, bad, square, text, second = answers(
        context,
        saved(tensors[0]),
        bytearray(b"bad"),
        saved(tensors[1]),
        "text",
        saved(tensors[2]),
    )
    assert first.tolist() == [[2.0] * 3]
    assert square.tolist() == [[[2.0, 2.0], [2.0, 2.0]]]
    assert second.tolist() == [[10.0] * 3]
    # An answer holds its own numbers and nobody else's.
    assert second.untyped_storage().nbytes() == 12
    assert [bad.error_code, text.error_code] == [400, 400]
    import double_net  # type: ignore[import-not-found]

    assert double_net.calls == [(2, 3), (1, 2, 2)]


def test_weights_are_needed(context: Context) -> None:
    del context.manifest["model"]["serializedFile"]  # type: ignore[index]
    with pytest.raises(RuntimeError, match=r"Missing the model\.pt file"):
        DenseNetHandler().initialize(context)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(2, 3),
        torch.tensor(5),
        torch.randn(4, 5).t(),
        torch.randn(4, 5)[1:3, ::2],
        torch.empty(0, 3),
        torch.arange(3, dtype=torch.int16),
        torch.tensor([True, False]),
        torch.randn(2).to(torch.bfloat16),
        torch.randn(2, dtype=torch.float64, requires_grad=True),
        torch.zeros(300, 70_000, dtype=torch.uint8),
    ],
    ids=lambda tensor: f"{tensor.dtype} {list(tensor.shape)}",
)
def test_plain_tensors_are_read_as_torch_reads_them(tensor: torch.Tensor) -> None:
    found = read_tensor(saved(tensor))
    assert found.dtype == tensor.dtype
    assert torch.equal(found, tensor.detach())


class Evil:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('code of a client was run')",)


def with_pickle(data: bytes, compression: int = zipfile.ZIP_STORED) -> bytearray:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/data/0", bytes(16))
    return bytearray(stream.getvalue())


def described(
    *, offset: int = 0, size: Any = (4,), stride: Any = (1,), key: str = "0"
) -> bytearray:
    """A file of four floats whose pickle says what it is told to."""
    original = bytes(saved(torch.zeros(4)))
    with zipfile.ZipFile(io.BytesIO(original)) as archive:
        head = archive.read("archive/data.pkl")

    def number(value: int) -> bytes:
        encoded = pickle.encode_long(value)
        return b"\x8a" + bytes([len(encoded)]) + encoded

    def numbers(values: Any) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    before, after = head.index(b"Q"), head.index(b"\x89")
    start = head[:before].replace(
        b"X\x01\x00\x00\x000", b"X" + struct.pack("<I", len(key)) + key.encode()
    )
    return with_pickle(
        start + b"Q" + number(offset) + numbers(size) + numbers(stride) + head[after:]
    )


def test_the_forged_file_is_a_good_one_but_for_what_it_says() -> None:
    assert read_tensor(described()).tolist() == [0.0] * 4


HUGE = 10**15
HOSTILE = {
    "code": saved(Evil(), _use_new_zipfile_serialization=False),
    "code in a zip": with_pickle(pickle.dumps(Evil(), 2)),
    "bytearray of no end": with_pickle(
        b"\x80\x02c__builtin__\nbytearray\n\x8a\x08" + bytes(7) + b"\x10\x85R."
    ),
    "expanded": saved(torch.zeros(1).expand(10**12)),
    "size of no end": described(size=(HUGE, 0)),
    "more than there is": described(size=(5,)),
    "strides beyond": described(size=(2,), stride=(HUGE,)),
    "the same element again": described(size=(HUGE,), stride=(0,)),
    "before the start": described(offset=-1),
    "stride that no number holds": described(size=(1,), stride=(1 << 63,)),
    "backwards": described(offset=3, stride=(-1,)),
    "many dimensions": described(size=(1,) * 1000, stride=(1,) * 1000),
    "two sizes": described(size=(2, 2), stride=(1,)),
    "no such storage": described(key="7"),
    "storage elsewhere": described(key="../data.pkl"),
    "compressed": with_pickle(bytes(100_000), zipfile.ZIP_DEFLATED),
    "legacy": saved(torch.zeros(3), _use_new_zipfile_serialization=False),
    "a list": saved([torch.zeros(3)]),
    "a dict": saved({"x": torch.zeros(3)}),
    "a parameter": saved(torch.nn.Parameter(torch.zeros(3))),
    "sparse": saved(torch.eye(3).to_sparse()),
    "nothing": b"",
    "a zip of nothing": b"PK\x05\x06" + bytes(18),
    "no tensor": saved(7),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_plain_tensor_is_the_clients_error(name: str, context: Context) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_tensor(HOSTILE[name])
    (answer,) = answers(context, HOSTILE[name])
    assert isinstance(answer, PredictionException)
    assert answer.error_code == 400


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 1500), st.binary(min_size=1, max_size=6), st.booleans())
def test_damage_is_the_clients_error_or_harmless(place: int, content: bytes, cut: bool) -> None:
    damaged = saved(torch.arange(8.0))
    if cut:
        del damaged[place:]
    else:
        damaged[place : place + len(content)] = content
    try:
        found = read_tensor(damaged)
    except ValueError:
        return
    assert found.numel() <= 8 * 4


@given(st.binary(max_size=200))
def test_any_pickle_is_refused_or_harmless(pickled: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_tensor(with_pickle(pickled))
