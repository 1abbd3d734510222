"""What in an archive is code: found by reading, never by loading."""

from __future__ import annotations

import collections
import io
import json
import os
import pickle
import warnings
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from flambeau.model_store.contents import Danger, inspect, refuse_code
from flambeau.model_store.errors import InvalidModelError
from flambeau.model_store.manifest import Manifest
from flambeau.model_store.pickles import HIDDEN, UNREADABLE, beyond_tensors, imported_names

if TYPE_CHECKING:
    from pathlib import Path

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def names_in(content: bytes) -> set[str]:
    return imported_names(io.BytesIO(content))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_a_pickle_calls_is_read_off_it(protocol: int) -> None:
    holder = {"weights": [1, ("torch._utils", "_rebuild_tensor_v2")], "x": Evil()}
    assert beyond_tensors(names_in(pickle.dumps(holder, protocol))) == {f"{os.name}.system"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values_call_nothing_else(protocol: int) -> None:
    plain = {"a": [1, 2.5, None, True], "b": {1, 2}, "c": collections.OrderedDict(d=b"e")}
    # Before protocol 3 bytes are made from text.
    assert beyond_tensors(names_in(pickle.dumps(plain, protocol))) == set()


@pytest.mark.parametrize(
    ("program", "names"),
    [
        # Harmless names are pushed and popped again: what is on top counts.
        (
            b"\x8c\x02os\x8c\x06system\x8c\x06torch.\x8c\x04Size00\x93\x8c\x01x\x85R.",
            {"os.system"},
        ),
        # From the memo, under a number that was given twice.
        (b"\x8c\x02osq\x07\x8c\x06system\x94\x8c\x05torchq\x08000h\x07h\x01\x93.", None),
        (b"\x8c\x02os2\x8c\x06system\x93.", {"os.system"}),
        (b"cos\nsystem\n(S'x'\ntR.", {"os.system"}),
        (b"(S'x'\nios\nsystem\n.", {"os.system"}),
        (b"(\x8c\x01xl\x8c\x06system\x93.", {HIDDEN}),
        (b"\x82\x01.", {HIDDEN}),
        # What pickletools would read as torch.Size, and Python does not.
        (b"c\\x74orch\nSize\n.", {"\\x74orch.Size"}),
        (b"cto rch\nSize\n.", {"to rch.Size"}),
        (b"\x93.", {UNREADABLE}),
        (b"(((1.", {UNREADABLE}),
        (b"", {UNREADABLE}),
        (b"\xff\xff", {UNREADABLE}),
        (b"\x8c\x02os", {UNREADABLE}),
    ],
)
def test_programs_that_hide_what_they_call(program: bytes, names: set[str] | None) -> None:
    found = names_in(b"\x80\x04" + program if program[:1] not in b"c(" else program)
    if names is None:
        assert beyond_tensors(found)
    else:
        assert found == names


@given(st.binary(max_size=200))
def test_any_bytes_are_read_to_an_end(content: bytes) -> None:
    names_in(content)


@given(
    st.recursive(
        st.none() | st.integers() | st.text() | st.binary(max_size=5) | st.booleans(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
        max_leaves=20,
    ),
    st.sampled_from(PROTOCOLS),
)
def test_every_honest_pickle_is_followed_to_its_end(value: Any, protocol: int) -> None:
    assert UNREADABLE not in names_in(pickle.dumps([value, value, Evil], protocol))


@pytest.fixture
def model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)).half()


def test_every_kind_of_file_is_told(tmp_path: Path, model: torch.nn.Module) -> None:
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    torch.save(model.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save(model, tmp_path / "whole.pt")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*torch\.jit\.script.* is deprecated")
        torch.jit.script(model).save(str(tmp_path / "program.pt"))  # type: ignore[no-untyped-call]
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "evil.txt").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "handler.py").write_text("")
    (tmp_path / "lib.so.1").write_bytes(b"")
    (tmp_path / "tool").write_bytes(b"\x7fELF...")
    (tmp_path / "run").write_bytes(b"#!/bin/sh\n")
    (tmp_path / "data.bin").write_bytes(b"\x00\x01\x02")
    (tmp_path / "index_to_name.json").write_text("{}")
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04...")
    with zipfile.ZipFile(tmp_path / "egg.zip", "w") as egg:
        egg.writestr("a/__init__.py", "")
    (tmp_path / "requirements.txt").write_text("numpy")
    (tmp_path / "model-config.yaml").write_text(
        json.dumps({"handler": {"a": [{"trust_remote_code": True}], "weights_only": False}})
    )
    (tmp_path / "linked").symlink_to(tmp_path.parent)
    manifest = Manifest("m", requirements_file="requirements.txt", config_file="model-config.yaml")
    found = {(each.file, each.danger, each.what) for each in inspect(tmp_path, manifest)}
    code, hidden, tensors = Danger.CODE, Danger.HIDDEN, Danger.TENSORS
    whole = "torch.nn.modules.batchnorm.BatchNorm1d, torch.nn.modules.container.Sequential"
    assert found == {
        ("weights.pth", tensors, "pickled tensors"),
        ("old.pth", tensors, "pickled tensors"),
        ("whole.pt", hidden, f"a pickle that calls {whole}, torch.nn.modules.linear.Linear"),
        ("program.pt", code, "a TorchScript program"),
        ("evil.pkl", hidden, f"a pickle that calls {os.name}.system"),
        ("evil.txt", hidden, f"a pickle that calls {os.name}.system"),
        ("handler.py", code, "Python code"),
        ("lib.so.1", hidden, "machine code"),
        ("tool", hidden, "machine code"),
        ("run", code, "a script"),
        ("broken.zip", hidden, "a zip that cannot be read"),
        ("egg.zip", hidden, "code in a zip (a/__init__.py)"),
        ("data.bin", Danger.UNKNOWN, "binary data of a kind that is not known here"),
        ("requirements.txt", code, "Python packages that the model wants installed"),
        ("model-config.yaml", code, "trust_remote_code: true"),
        ("model-config.yaml", code, "weights_only: false"),
        ("linked", hidden, "a link, or no file at all"),
    }


def test_programs_that_are_not_torchscript_are_told(tmp_path: Path) -> None:
    members = {
        "exported.pt2": ("net/models/model.json", b"{}"),
        "older.pt2": ("serialized_exported_program.json", b"{}"),
        "compiled.pt2": ("net/data/aotinductor/model/a.wrapper.so", b""),
    }
    for name, member in members.items():
        (tmp_path / name).write_bytes(torch_zip(member))
    (tmp_path / "net.onnx").write_bytes(b"\x08\x08:\x00")
    found = {each.file: (each.danger, each.what) for each in inspect(tmp_path, None)}
    exported = (Danger.HIDDEN, "a program of torch.export, of which torch runs parts as Python")
    assert found == {
        "exported.pt2": exported,
        "older.pt2": exported,
        "compiled.pt2": (Danger.HIDDEN, f"machine code in a zip ({members['compiled.pt2'][0]})"),
        "net.onnx": (Danger.UNKNOWN, "an ONNX model, which may read files beside it"),
    }
    with pytest.raises(InvalidModelError, match=r"net\.onnx: it could be code"):
        refuse_code(tmp_path, None)


def test_options_for_the_compiler_are_code(tmp_path: Path) -> None:
    manifest = Manifest("m", handler="image_classifier", config_file="c.yaml")
    (tmp_path / "c.yaml").write_text("pt2: {compile: {enable: true, mode: max-autotune}}")
    refuse_code(tmp_path, manifest)
    (tmp_path / "c.yaml").write_text("pt2: {compile: {enable: true, options: {cpp.cxx: sh}}}")
    with pytest.raises(InvalidModelError, match="pt2 options, which may name programs"):
        refuse_code(tmp_path, manifest)


def test_settings_labels_and_safetensors_are_no_code(
    tmp_path: Path, model: torch.nn.Module
) -> None:
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "index_to_name.json").write_text("{}")
    (tmp_path / "model-config.yaml").write_text("handler: {architecture: resnet18}\n")
    manifest = Manifest(
        "m",
        handler="image_classifier",
        serialized_file="model.safetensors",
        config_file="model-config.yaml",
    )
    assert inspect(tmp_path, manifest) == []
    refuse_code(tmp_path, manifest)


def test_a_refusal_names_what_is_code(tmp_path: Path) -> None:
    for number in range(7):
        (tmp_path / f"m{number}.py").write_text("")
    with pytest.raises(InvalidModelError) as refused:
        refuse_code(tmp_path, Manifest("m", model_file="m3.py"))
    message = refused.value.message
    assert "allow_archive_code=false" in message
    assert "m3.py: the model's definition; m0.py: it could be code" in message
    assert "and 2 more" in message


def torch_zip(*members: tuple[str, bytes], front: bytes = b"") -> bytes:
    made = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(made, "w") as file:
        # Two members of one name are what this is about.
        warnings.simplefilter("ignore")
        for name, content in members:
            file.writestr(name, content)
    return front + made.getvalue()


EVIL = pickle.dumps(Evil())
OLD_EVIL = pickle.dumps(Evil(), 0)
CLEAN = pickle.dumps({"a": 1})
MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
COMPRESSED = zlib.compress(EVIL)


def npy(dtype: str) -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': (1,), }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + EVIL


@pytest.mark.parametrize(
    ("name", "content"),
    [
        # torch.load takes the first of two, and does not tell DATA.PKL from data.pkl.
        ("two.pth", torch_zip(("a/data.pkl", EVIL), ("a/data.pkl", CLEAN))),
        ("case.pth", torch_zip(("a/DATA.PKL", EVIL), ("a/data/0", b"x"))),
        # It finds a zip from its end.
        ("front.pt", torch_zip(("a/constants.pkl", CLEAN), front=b"\xff" * 64)),
        ("member.bin", torch_zip(("a/weights", EVIL))),
        ("member.npz", torch_zip(("a.npy", npy("|O")))),
        ("array.npy", npy("|O")),
        ("fields.npy", npy("[('a', 'O')]")),
        ("old.pth", MAGIC + OLD_EVIL),
        # torch does not mind what else the first pickle does.
        ("marked.pth", MAGIC[:-1] + b"r\1\0\0\0." + b"\x80\x02" + b"N0" * 1_500_000 + EVIL[2:]),
        ("later.pth", MAGIC + CLEAN + CLEAN + EVIL),
        ("behind.pkl", CLEAN + EVIL),
        ("text.dat", OLD_EVIL),
        ("nameless", OLD_EVIL),
        ("a.joblib", COMPRESSED),
        ("a.tar.pth", b"A" * 257 + b"ustar" + b"x" * 250),
        ("wrong.safetensors", b"\x02\0\0\0\0\0\0\0[]"),
        ("huge.pkl", b"\x80\x04\x8e" + (1 << 40).to_bytes(8, "little") + b"x"),
        ("long.pkl", b"\x80\x04" + b"N0" * 1_500_000 + EVIL[2:]),
    ],
)
def test_code_in_disguise_is_found(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    (found,) = inspect(tmp_path, None)
    assert (found.file, found.danger) == (name, Danger.HIDDEN), found
    with pytest.raises(InvalidModelError, match="allow_archive_code=false"):
        refuse_code(tmp_path, None)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        # Its length begins like a pickle.
        ("a.safetensors", (0x80).to_bytes(8, "little") + b"{}".ljust(0x80)),
        ("a.txt", b"config: a\nother: b\n"),
        ("a.json", b'{"a": 1}'),
        ("notes", b"contact: me\nand: you\n"),
        ("a.npy", npy("<f4")),
        ("a.png", b"\x89PNG\r\n\x1a\n"),
    ],
)
def test_plain_data_is_left_in_peace(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert inspect(tmp_path, None) == []


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "weights.safetensors")
    (found,) = inspect(tmp_path, None)
    assert found.danger is Danger.HIDDEN
    with pytest.raises(InvalidModelError, match=r"weights\.safetensors: it could be code"):
        refuse_code(tmp_path, None)


def test_requirements_are_found_however_they_are_named(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("numpy")
    manifest = Manifest("m", requirements_file="./more.txt")
    assert [each.file for each in inspect(tmp_path, manifest)] == ["more.txt"]
    with pytest.raises(InvalidModelError, match=r"more\.txt: Python packages"):
        refuse_code(tmp_path, manifest)
