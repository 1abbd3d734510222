"""Models that are whole programs: ONNX, torch.export, AOTInductor."""

from __future__ import annotations

import logging
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import torch

from flambeau.handlers.base import BaseHandler
from flambeau.handlers.onnx import run_session, setup_ort_session
from flambeau.handlers.programs import load_exported

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flambeau.worker.context import Context


def loaded(context: Context) -> BaseHandler:
    handler = BaseHandler()
    handler.initialize(context)
    return handler


def write_onnx(path: Path, w: list[float] | None = None) -> None:
    """``y, z = x + w, x`` for a batch of pairs; without a ``w`` it is the second input."""
    import onnx

    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    values = [helper.make_tensor_value_info(name, number, ["n", 2]) for name in "xwyz"]
    nodes = [
        helper.make_node("Add", ["x", "w"], ["y"]),
        helper.make_node("Identity", ["x"], ["z"]),
    ]
    weights = [] if w is None else [helper.make_tensor("w", number, [1, 2], w)]
    inputs = values[:2] if w is None else values[:1]
    graph = helper.make_graph(nodes, "g", inputs, values[2:], weights)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)


def test_an_onnx_model_runs_in_the_base_handler(
    tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    import onnxruntime

    write_onnx(tmp_path / "net.onnx", [1.0, 10.0])
    context = make_context(serializedFile="net.onnx")
    handler = loaded(context)
    assert isinstance(handler.model, onnxruntime.InferenceSession)
    assert handler.model.get_session_options().intra_op_num_threads == torch.get_num_threads()
    # With explicit inputs, as handlers that were written for TorchServe do.
    x = torch.ones(1, 2)
    assert handler.model.run(["z"], {"x": x.numpy()})[0].tolist() == [[1.0, 1.0]]
    assert handler.handle([[1.0, 2.0], [3.0, 4.0]], context) == [[2.0, 12.0], [4.0, 14.0]]


def test_an_onnx_model_may_have_several_inputs(tmp_path: Path) -> None:
    write_onnx(tmp_path / "net.onnx")
    session = setup_ort_session(str(tmp_path / "net.onnx"), "cpu")
    x, cpu = torch.ones(1, 2), torch.device("cpu")
    twice = {"x": x, "w": x}
    for data in (twice, list(twice.values())):
        assert torch.equal(run_session(session, data, cpu), 2 * x)
    with pytest.raises(ValueError, match="has 2 inputs, not 3"):
        run_session(session, [x, x, x], cpu)


def test_onnx_without_its_runtime_says_what_to_install(
    tmp_path: Path, make_context: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.onnx").touch()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeError, match=r"pip install 'flambeau\[onnx\]'"):
        loaded(make_context(serializedFile="net.onnx"))


def test_on_a_gpu_onnx_takes_the_one_that_was_assigned(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Runtime:
        available = ("CUDAExecutionProvider", "CPUExecutionProvider")

        class SessionOptions:
            pass

        def get_available_providers(self) -> tuple[str, ...]:
            return self.available

        def InferenceSession(self, path: str, **settings: Any) -> Any:
            return settings["providers"]

    runtime = Runtime()
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    cuda = ("CUDAExecutionProvider", {"device_id": 3})
    assert setup_ort_session("net.onnx", "cuda", 3) == [cuda, "CPUExecutionProvider"]
    runtime.available = ("CPUExecutionProvider",)  # type: ignore[assignment]
    assert setup_ort_session("net.onnx", "cuda", 3) == ["CPUExecutionProvider"]
    assert "onnxruntime-gpu" in caplog.text


class Scale(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor([2.0, 3.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


def test_an_exported_program_runs(tmp_path: Path, make_context: Callable[..., Context]) -> None:
    shapes = {"x": {0: torch.export.Dim("batch")}}
    program = torch.export.export(Scale(), (torch.ones(2, 2),), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "net.pt2")
    context = make_context(serializedFile="net.pt2")
    handler = loaded(context)
    assert handler.handle([[1.0, 1.0]], context) == [[2.0, 3.0]]
    assert handler.handle([[1.0, 1.0]] * 3, context) == [[2.0, 3.0]] * 3


@pytest.mark.parametrize(("device", "index"), [("cpu", -1), ("cuda:1", 1)])
def test_a_compiled_package_is_told_by_what_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, index: int
) -> None:
    path = tmp_path / "net.pt2"
    with zipfile.ZipFile(path, "w") as package:
        package.writestr("net/models/model.json", "{}")
        package.writestr("net/data/aotinductor/model/x.wrapper.so", "")
    calls: list[Any] = []
    monkeypatch.setattr(
        torch._inductor, "aoti_load_package", lambda path, device_index: calls.append(device_index)
    )
    load_exported(str(path), torch.device(device))
    assert calls == [index]


def test_machine_code_is_loaded_where_the_archive_says_so(
    tmp_path: Path, make_context: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.so").touch()
    monkeypatch.setattr(torch._export, "aot_load", lambda path, device: lambda x: (path, device))
    config = {"pt2": {"export": {"aot_compile": True}}}
    handler = loaded(make_context(config, serializedFile="net.so"))
    assert handler.inference(torch.ones(1)) == (str(tmp_path / "net.so"), "cpu")
    with pytest.raises(RuntimeError, match="is machine code"):
        loaded(make_context({"pt2": {"export": {}}}, serializedFile="net.so"))


def test_where_intels_extension_is_there_it_may_improve_the_model(
    tmp_path: Path, make_context: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Extension:
        def optimize(self, model: torch.nn.Module) -> torch.nn.Module:
            return torch.nn.Sequential(model, torch.nn.ReLU())

    monkeypatch.setitem(sys.modules, "intel_extension_for_pytorch", Extension())
    monkeypatch.setattr("flambeau.handlers.base.IPEX_AVAILABLE", True)
    (tmp_path / "net.py").write_text(
        "import torch\nclass Same(torch.nn.Module):\n    def forward(self, x): return x\n"
    )
    context = make_context(modelFile="net.py")
    assert loaded(context).handle([[-1.0]], context) == [[0.0]]


def test_torch_xlas_device_is_taken_where_it_can_be(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from flambeau.handlers import devices

    monkeypatch.setattr(devices, "XLA_AVAILABLE", True)
    caplog.set_level(logging.WARNING)
    assert devices.choose_device(None) == ("cpu", torch.device("cpu"))
    assert "torch_xla is installed, but cannot be used" in caplog.text


@pytest.mark.parametrize(
    ("cuda", "xpu", "mps", "asked", "device"),
    [
        (False, True, False, "true", "xpu:1"),
        (False, True, False, "false", "cpu"),
        (False, True, True, "false", "mps"),
    ],
)
def test_other_kinds_of_gpus_come_in_torchserves_order(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, xpu: bool, mps: bool, asked: str, device: str
) -> None:
    from flambeau.handlers.devices import choose_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: xpu)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setenv("TS_IPEX_GPU_ENABLE", asked)
    assert choose_device(1) == (device.partition(":")[0], torch.device(device))
