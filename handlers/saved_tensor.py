"""One plain tensor out of what ``torch.save`` made of it, for data that a client sends.

``torch.load`` is not for such data: even with ``weights_only`` a file of a few bytes can have it
take all memory. Here nothing is unpickled. The pickle's few operations are read one by one, only
those that a plain tensor has are understood, and nothing is made that is larger than the data.
"""

from __future__ import annotations

import io
import math
import pickletools
import struct
import sys
import zipfile
from typing import Any, NamedTuple

import torch

_LONGEST_PICKLE = 8192
"""Bytes; that of a plain tensor has some hundred."""
_DTYPES = {
    "torch BFloat16Storage": torch.bfloat16,
    "torch BoolStorage": torch.bool,
    "torch ByteStorage": torch.uint8,
    "torch CharStorage": torch.int8,
    "torch DoubleStorage": torch.float64,
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch IntStorage": torch.int32,
    "torch LongStorage": torch.int64,
    "torch ShortStorage": torch.int16,
}
_NAMES = frozenset(_DTYPES) | {"torch._utils _rebuild_tensor_v2", "collections OrderedDict"}
_VALUES = frozenset({"BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1"})
_CONSTANTS = {"NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MOST_DIMENSIONS = 64
_LONGEST_EMPTY = 1 << 20
"""Of a tensor without elements, the product of its other lengths: models make room by them."""
_MARK = object()


class _Name(NamedTuple):
    """A class or function that the pickle names."""

    name: str


class _Storage(NamedTuple):
    """A reference to one of the file's storages."""

    what: Any


class _Call(NamedTuple):
    function: Any
    arguments: Any


class _Layout(NamedTuple):
    """What a tensor is made of: elements of ``dtype`` in the storage ``key``."""

    dtype: torch.dtype
    key: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_tensor(saved: bytes | bytearray) -> torch.Tensor:
    """The tensor in ``saved``, on the CPU, without its gradient.

    Raises ValueError for anything but one dense tensor of a common type with elements of its own,
    in the format that ``torch.save`` has had since PyTorch 1.6.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(saved)) as archive:
            (name,) = (each for each in archive.namelist() if each.endswith("/data.pkl"))
            folder = name.removesuffix("data.pkl")
            layout = _layout(_operations(_member(archive, name, _LONGEST_PICKLE)))
            if f"{folder}byteorder" in archive.namelist():
                order = _member(archive, f"{folder}byteorder", 16).decode()
                if order != sys.byteorder:
                    raise ValueError(f"its byte order is {order}")
            elements = _member(archive, f"{folder}data/{layout.key}", len(saved))
    except (
        *(EOFError, IndexError, KeyError, NotImplementedError, OSError, RuntimeError),
        *(TypeError, struct.error, zipfile.BadZipFile),
    ) as error:
        raise ValueError("it is damaged or not in the format of torch.save") from error
    return _tensor(layout, bytearray(elements))


def _member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    member = archive.getinfo(name)
    # torch.save does not compress: no member can grow beyond the file.
    if member.compress_type != zipfile.ZIP_STORED or member.file_size > most:
        raise ValueError(f"{name.rpartition('/')[2]} is compressed or too long")
    return archive.read(member)


def _operations(pickled: bytes) -> Any:
    """What the pickle would make, as names, calls and plain values; nothing is called."""
    stack: list[Any] = []
    for operation, argument, _ in pickletools.genops(pickled):
        name = operation.name
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "GLOBAL" and argument in _NAMES:
            stack.append(_Name(argument))
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "TUPLE":
            mark = len(stack) - 1 - stack[::-1].index(_MARK)
            stack[mark:] = [tuple(stack[mark + 1 :])]
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
        elif name == "BINPERSID":
            stack.append(_Storage(stack.pop()))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack.append(_Call(stack.pop(), arguments))
        elif name not in ("PROTO", "BINPUT", "STOP"):
            raise ValueError("it is more than a plain tensor")
    (made,) = stack
    return made


def _layout(made: Any) -> _Layout:
    match made:
        case _Call(
            _Name("torch._utils _rebuild_tensor_v2"),
            (
                _Storage(("storage", _Name(kind), str(key), str(), int())),
                int(offset),
                tuple(size),
                tuple(stride),
                bool(),
                _Call(_Name("collections OrderedDict"), ()),
            ),
        ) if kind in _DTYPES and all(type(each) is int for each in (offset, *size, *stride)):
            return _Layout(_DTYPES[kind], key, offset, size, stride)
    raise ValueError("it is more than a plain tensor")


def _tensor(layout: _Layout, elements: bytearray) -> torch.Tensor:
    dtype, _, offset, size, stride = layout
    numbers = (offset, *size, *stride)
    fits = len(size) == len(stride) <= _MOST_DIMENSIONS
    if not fits or min(numbers) < 0 or max(numbers) >= 1 << 63:
        raise ValueError("its size makes no sense")
    count = math.prod(size)
    if not count:
        if math.prod(length or 1 for length in size) > _LONGEST_EMPTY:
            raise ValueError("its size makes no sense")
        return torch.empty(size, dtype=dtype)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    held = len(elements) // dtype.itemsize
    if last >= held or count > held:
        raise ValueError("it has fewer elements than its size says; save a contiguous() tensor")
    return torch.frombuffer(elements, dtype=dtype).as_strided(size, stride, offset).clone()
