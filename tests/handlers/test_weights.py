"""Weights: mapped where that is safe, and told apart from another model's."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from flambeau.handlers.weights import load_weights

CPU = torch.device("cpu")


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 64)
        self.frozen = torch.nn.Parameter(torch.zeros(64), requires_grad=False)
        self.register_buffer("scale", torch.zeros(64))
        self.tied = self.layer.weight


def write(path: Path, state: dict[str, Any], mode: int = 0o444) -> str:
    if path.suffix == ".safetensors":
        save_file({key: value.clone() for key, value in state.items()}, path)
    else:
        torch.save(state, path)
    path.chmod(mode)
    return str(path)


def is_mapped(tensor: torch.Tensor, path: str) -> bool:
    """Whether the tensor's memory is a mapping of the file."""
    place = tensor.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(each, 16) for each in line.split()[0].split("-"))
        if start <= place < end:
            assert line.split()[1][3] == "p", "the mapping must be private"
            return line.endswith(path)
    return False


@pytest.fixture
def state() -> dict[str, Any]:
    torch.manual_seed(1)
    net = Net()
    net.scale.uniform_()
    net.frozen.data.uniform_()
    return dict(net.state_dict())


linux = pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="reads /proc")


@linux
@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
def test_what_nobody_may_write_is_mapped(tmp_path: Path, state: dict[str, Any], name: str) -> None:
    path = write(tmp_path / name, state)
    content = Path(path).read_bytes()
    net = Net()
    weight = net.layer.weight
    load_weights(net, path, CPU, {})
    for key, value in state.items():
        assert torch.equal(net.state_dict()[key], value)
    assert is_mapped(net.layer.weight, path)
    assert is_mapped(net.scale, path)
    # The parameter is the same object, so that whatever is tied stays tied.
    assert net.layer.weight is net.tied is weight
    assert weight.requires_grad
    assert not net.frozen.requires_grad
    with torch.no_grad():
        net.layer.weight.add_(1)
    assert Path(path).read_bytes() == content


@linux
def test_what_somebody_may_overwrite_is_copied(tmp_path: Path, state: dict[str, Any]) -> None:
    path = write(tmp_path / "net.pt", state, 0o644)
    net = Net()
    load_weights(net, path, CPU, {})
    assert torch.equal(net.scale, state["scale"])
    assert not is_mapped(net.scale, path)


@linux
def test_the_models_own_types_stay(tmp_path: Path, state: dict[str, Any]) -> None:
    path = write(tmp_path / "net.pt", state)
    net = Net().half()
    load_weights(net, path, CPU, {})
    assert net.layer.weight.dtype is torch.float16
    assert torch.equal(net.scale, state["scale"].half())
    assert not is_mapped(net.scale, path)


@linux
def test_views_of_one_tensor_stay_so_and_others_do_not_become_so(tmp_path: Path) -> None:
    class Views(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("whole", torch.zeros(64))
            self.register_buffer("part", self.whole[:32])
            self.register_buffer("one", torch.zeros(64))
            self.register_buffer("other", torch.zeros(64))

    numbers = torch.arange(64.0)
    state = {"whole": numbers, "part": numbers[:32], "one": numbers, "other": numbers}
    path = write(tmp_path / "net.pt", state)
    net = Views()
    load_weights(net, path, CPU, {})
    net.whole[0] = 7
    net.one[0] = 8
    assert (net.part[0], net.other[0]) == (7, 0)


def test_old_and_compressed_files_are_read_as_ever(tmp_path: Path, state: dict[str, Any]) -> None:
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save(state, tmp_path / "new.pt")
    with (
        zipfile.ZipFile(tmp_path / "new.pt") as source,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    for name in ("old.pt", "packed.pt"):
        (tmp_path / name).chmod(0o444)
        net = Net()
        load_weights(net, str(tmp_path / name), CPU, {})
        assert torch.equal(net.scale, state["scale"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: state.pop("scale"), "net.pt does not fit Net: missing scale$"),
        (lambda state: state.update(x=torch.ones(1)), "unexpected x$"),
        (
            lambda state: state.update(scale=torch.ones(2)),
            r"shapes: scale is \[2\] in the file, \[64\] in the model$",
        ),
    ],
)
def test_another_models_weights_are_told(
    tmp_path: Path, state: dict[str, Any], change: Any, reason: str
) -> None:
    change(state)
    with pytest.raises(RuntimeError, match=reason):
        load_weights(Net(), write(tmp_path / "net.pt", state), CPU, {})


def test_the_reason_is_short_and_helps(tmp_path: Path, state: dict[str, Any]) -> None:
    many = {f"module.{index}": torch.ones(1) for index in range(900)}
    with pytest.raises(RuntimeError, match=r"and 897 more; save the state_dict.*\.module$") as told:
        load_weights(Net(), write(tmp_path / "many.pt", many), CPU, {})
    assert len(str(told.value)) < 400
    nested = {"epoch": 3, "state_dict": state}
    with pytest.raises(RuntimeError, match="save what is under 'state_dict' alone"):
        load_weights(Net(), write(tmp_path / "nested.pt", nested), CPU, {})
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(RuntimeError, match="no state dict but an object of type list"):
        load_weights(Net(), str(tmp_path / "list.pt"), CPU, {})
