"""torchvision's build for CUDA beside a torch for the CPU."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

import pytest
import torch

from flambeau.worker import torchvision_ops

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _no_torchvision_yet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    finders = list(sys.meta_path)
    with monkeypatch.context() as patch:
        for name in [each for each in sys.modules if each.split(".")[0] == "torchvision"]:
            patch.delitem(sys.modules, name)
        yield
        sys.modules.pop("torchvision", None)
    sys.meta_path[:] = finders


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    # Not in earnest: the operators of this process are the real ones.
    declared: list[str] = []
    monkeypatch.setattr(torchvision_ops, "_declare", lambda: declared.append("once"))
    return declared


def make(folder: Path, library: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    package = folder / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "_C_stable.so").write_bytes(library)
    monkeypatch.syspath_prepend(folder)


def test_the_schemas_are_declared_before_the_import_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declared: list[str]
) -> None:
    make(tmp_path, b"...libc10_cuda.so...", monkeypatch)
    monkeypatch.setattr(torch.version, "cuda", None)
    torchvision_ops.install()
    torchvision_ops.install()
    importlib.import_module("torchvision")
    assert declared == ["once"]
    torchvision_ops.install()
    assert not any(isinstance(each, torchvision_ops._Watcher) for each in sys.meta_path)


@pytest.mark.parametrize(
    ("library", "cuda"), [(b"...libc10.so...", None), (b"...libc10_cuda.so...", "13.0")]
)
def test_a_pair_that_fits_is_left_alone(
    library: bytes,
    cuda: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    declared: list[str],
) -> None:
    make(tmp_path, library, monkeypatch)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    torchvision_ops.install()
    importlib.import_module("torchvision")
    assert declared == []
