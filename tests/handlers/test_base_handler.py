"""BaseHandler: loading a model and leading a batch through its stages."""

from __future__ import annotations

import collections
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from flambeau.handlers.base import BaseHandler

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flambeau.worker.context import Context

DOUBLE = """
import torch
from safetensors.torch import save_file
class Scale(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(2.0))
    def forward(self, x):
        return x * self.factor
"""


class Scale(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(3.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


def script(model: torch.nn.Module, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*torch\.jit\.script.* is deprecated")
        torch.jit.script(model).save(str(path))  # type: ignore[no-untyped-call]


def loaded(context: Context) -> BaseHandler:
    handler = BaseHandler()
    handler.initialize(context)
    return handler


def test_an_eager_model_gets_its_state_dict(
    tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    (tmp_path / "net.py").write_text(DOUBLE)
    torch.save(Scale().state_dict(), tmp_path / "net.bin")
    context = make_context(modelFile="net.py", serializedFile="net.bin")
    handler = loaded(context)
    assert handler.handle([[1.0, 2.0]], context) == [[3.0, 6.0]]
    assert handler.initialized
    assert not handler.model.training
    assert (handler.device, handler.map_location) == (torch.device("cpu"), "cpu")
    assert handler.get_device() == torch.device("cpu")
    assert handler.model_pt_path == str(tmp_path / "net.bin")
    assert handler.manifest is context.manifest
    assert handler.mapping is None


def test_an_eager_model_without_weights_keeps_its_own(
    tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    (tmp_path / "net.py").write_text(DOUBLE)
    context = make_context(modelFile="net.py")
    assert loaded(context).handle([[1.0]], context) == [[2.0]]


def test_a_torchscript_program_needs_no_model_file(
    tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    script(Scale(), tmp_path / "net.pt")
    (tmp_path / "index_to_name.json").write_text('{"0": "cat"}')
    context = make_context(serializedFile="net.pt")
    handler = loaded(context)
    assert handler.handle([[1.0]], context) == [[3.0]]
    assert handler.mapping == {"0": "cat"}
    assert not handler.model.training


def test_inference_records_no_gradients(
    tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    (tmp_path / "net.py").write_text(DOUBLE)
    output = loaded(make_context(modelFile="net.py")).inference(torch.ones(1))
    assert output.is_inference()
    assert not output.requires_grad


def test_the_model_file_of_this_archive_is_taken_and_no_other(
    tmp_path: Path, make_context: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "net.py").write_text(DOUBLE.replace("2.0", "5.0"))
    monkeypatch.syspath_prepend(other)
    __import__("net")
    (tmp_path / "net.py").write_text(DOUBLE)
    context = make_context(modelFile="net.py")
    assert loaded(context).handle([[1.0]], context) == [[2.0]]


def test_a_model_file_may_hold_other_classes_beside_the_one_model(
    tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    (tmp_path / "net.py").write_text(f"{DOUBLE}\nclass Settings: pass\nclass Other: pass\n")
    context = make_context(modelFile="net.py")
    assert loaded(context).handle([[1.0]], context) == [[2.0]]


@pytest.mark.parametrize(
    "text", [f"{DOUBLE}\nclass Other(Scale): pass\n", "x = 1\n", "class A: pass\nclass B: pass\n"]
)
def test_a_model_file_without_one_obvious_model_is_refused(
    tmp_path: Path, make_context: Callable[..., Context], text: str
) -> None:
    (tmp_path / "net.py").write_text(text)
    with pytest.raises(ValueError, match=r"Expected only one class as model definition\. \["):
        loaded(make_context(modelFile="net.py"))


def test_of_several_models_each_is_named(
    tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    (tmp_path / "net.py").write_text(f"{DOUBLE}\nclass Other(Scale): pass\nclass Settings: pass\n")
    with pytest.raises(ValueError, match=r"\['Other', 'Scale'\]"):
        loaded(make_context(modelFile="net.py"))


def test_a_subclass_may_load_the_model_in_its_own_way(
    tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    class Eager(BaseHandler):
        def _load_pickled_model(
            self, model_dir: str, model_file: str, model_pt_path: str | None
        ) -> torch.nn.Module:
            assert (model_dir, model_file) == (str(tmp_path), "net.py")
            assert model_pt_path == str(tmp_path / "net.pth")
            return Scale().double()

    class Scripted(BaseHandler):
        def _load_torchscript_model(self, model_pt_path: str) -> Any:
            assert model_pt_path == str(tmp_path / "net.pt")
            return Scale().half()

    for name in ("net.pth", "net.pt"):
        (tmp_path / name).touch()
    eager, scripted = Eager(), Scripted()
    eager.initialize(make_context(modelFile="net.py", serializedFile="net.pth"))
    scripted.initialize(make_context(serializedFile="net.pt"))
    assert eager.inference(torch.ones(1, dtype=torch.float64)).dtype is torch.float64
    assert scripted.inference(torch.ones(1, dtype=torch.float16)).dtype is torch.float16


def test_weights_with_code_are_refused_and_the_way_out_is_told(
    tmp_path: Path, make_context: Callable[..., Context], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "net.py").write_text(DOUBLE)
    weights = collections.UserDict(Scale().state_dict())
    torch.save(weights, tmp_path / "net.bin")
    names = {"modelFile": "net.py", "serializedFile": "net.bin"}
    with pytest.raises(RuntimeError, match=r"net\.bin holds more than tensors.*weights_only: fal"):
        loaded(make_context(**names))
    config = {"handler": {"weights_only": False}}
    context = make_context(config, **names)
    assert loaded(context).handle([[1.0]], context) == [[3.0]]
    assert "weights_only: false" in caplog.text


def test_torchs_own_way_out_works(
    tmp_path: Path, make_context: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.py").write_text(DOUBLE)
    torch.save(collections.UserDict(Scale().state_dict()), tmp_path / "net.bin")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    context = make_context(modelFile="net.py", serializedFile="net.bin")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Environment variable TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
        handler = loaded(context)
    assert handler.handle([[1.0]], context) == [[3.0]]


def test_a_weights_only_that_is_neither_true_nor_false_is_refused(
    tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    (tmp_path / "net.py").write_text(DOUBLE)
    torch.save({}, tmp_path / "net.bin")
    config = {"handler": {"weights_only": "maybe"}}
    with pytest.raises(ValueError, match=r"handler\.weights_only must be true or false"):
        loaded(make_context(config, modelFile="net.py", serializedFile="net.bin"))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({}, "No model weights could be loaded: the manifest names neither"),
        ({"serializedFile": "gone.pt"}, "Missing the weights file gone.pt"),
        ({"modelFile": "gone.py"}, "Missing the model file gone.py"),
        ({"serializedFile": "there.so"}, r"there\.so is machine code.*aot_compile: true"),
        ({"serializedFile": "there.pth"}, "ends in .pt"),
        ({"serializedFile": "there.pt2"}, "written neither by torch.export.save nor"),
        ({"serializedFile": "state.pt"}, "not a TorchScript program.*--model-file"),
    ],
)
def test_what_cannot_be_loaded_is_told_apart(
    tmp_path: Path, make_context: Callable[..., Context], model: dict[str, str], reason: str
) -> None:
    for name in ("there.so", "there.pth", "there.pt2"):
        (tmp_path / name).touch()
    torch.save({}, tmp_path / "state.pt")
    with pytest.raises(RuntimeError, match=reason):
        loaded(make_context(**model))


def test_an_archive_without_a_manifest_says_so(make_context: Callable[..., Context]) -> None:
    context = make_context()
    context.manifest = None
    with pytest.raises(RuntimeError, match=r"has no MAR-INF/MANIFEST\.json"):
        loaded(context)


def test_a_subclass_that_never_calls_init_works(
    tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    class Own(BaseHandler):
        def __init__(self) -> None:
            self.own = True

    (tmp_path / "net.py").write_text(DOUBLE)
    context = make_context(modelFile="net.py")
    handler = Own()
    assert (handler.target, handler.explain, handler.profiler_args) == (0, False, {})
    handler.initialize(context)
    assert handler.handle([[1.0]], context) == [[2.0]]


def test_the_stages_run_in_order_and_are_timed(make_context: Callable[..., Context]) -> None:
    class Stages(BaseHandler):
        def preprocess(self, data: Any) -> Any:
            return [*data, "preprocess"]

        def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
            return [*data, "inference"]

        def postprocess(self, data: Any) -> Any:
            return [*data, "postprocess"]

    context = make_context()
    answers = Stages().handle(["start"], context)
    assert answers == ["start", "preprocess", "inference", "postprocess"]
    (sample,) = context.metrics.drain()
    assert (sample.name, sample.type, sample.unit) == ("HandlerTime", "gauge", "Milliseconds")
    assert sample.dimensions == [("ModelName", "m"), ("Level", "Model")]


def test_an_archive_can_ask_for_the_time_of_each_stage(
    tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    (tmp_path / "net.py").write_text(DOUBLE)
    context = make_context({"handler": {"profile": True}}, modelFile="net.py")
    loaded(context).handle([[1.0]], context)
    assert [sample.name for sample in context.metrics.drain()] == [
        "ts_handler_preprocess",
        "ts_handler_inference",
        "ts_handler_postprocess",
        "HandlerTime",
    ]


def test_a_describe_request_is_answered_by_describe_handle(
    make_context: Callable[..., Context],
) -> None:
    class Described(BaseHandler):
        def describe_handle(self) -> Any:
            return {"input": "numbers"}

    context = make_context()
    context.begin_batch(["id"], [{"describe": "True"}])
    assert Described().handle([{}], context) == [{"input": "numbers"}]
    assert BaseHandler().handle([{}], context) == [None]


@pytest.mark.parametrize(
    ("row", "inputs", "target"),
    [
        ({"data": "x", "body": "y", "target": 3}, "x", 3),
        ({"data": "", "body": "y", "target": ""}, "y", 0),
        ("bare", None, 0),
    ],
)
def test_an_explain_request_gets_the_subclasss_insights(
    make_context: Callable[..., Context], row: object, inputs: object, target: int
) -> None:
    class Explained(BaseHandler):
        def preprocess(self, data: Any) -> Any:
            return "prepared"

        def get_insights(self, tensor_data: Any, _: Any, target: Any = 0) -> Any:
            return [(tensor_data, _, target)]

    context = make_context()
    context.begin_batch(["id"], [{"explain": "True"}])
    handler = Explained()
    assert handler.handle([row], context) == [("prepared", inputs, target)]
    assert handler.explain


def test_explaining_without_insights_says_who_lacks_them(
    make_context: Callable[..., Context],
) -> None:
    context = make_context()
    context.begin_batch(["id"], [{"explain": "True"}])
    with pytest.raises(NotImplementedError, match="BaseHandler has no get_insights"):
        BaseHandler().handle([[1.0]], context)


def test_an_assigned_gpu_that_torch_does_not_see_is_told(
    tmp_path: Path,
    make_context: Callable[..., Context],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    (tmp_path / "net.py").write_text(DOUBLE)
    handler = loaded(make_context(gpu=1, modelFile="net.py"))
    assert handler.device == torch.device("cpu")
    assert "GPU 1 was assigned" in caplog.text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_model_lives_on_the_assigned_gpu(
    tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    (tmp_path / "net.py").write_text(DOUBLE)
    torch.save(Scale().state_dict(), tmp_path / "net.bin")
    context = make_context(gpu=0, modelFile="net.py", serializedFile="net.bin")
    handler = loaded(context)
    assert handler.device == torch.device("cuda:0")
    assert next(handler.model.parameters()).device == torch.device("cuda:0")
    assert handler.handle([[1.0]], context) == [[3.0]]
    script(Scale(), tmp_path / "net.pt")
    scripted = make_context(gpu=0, serializedFile="net.pt")
    assert loaded(scripted).handle([[1.0]], scripted) == [[3.0]]


def test_weights_may_be_safetensors(tmp_path: Path, make_context: Callable[..., Context]) -> None:
    (tmp_path / "net.py").write_text(DOUBLE)
    save_file(Scale().state_dict(), tmp_path / "net.safetensors")
    context = make_context(modelFile="net.py", serializedFile="net.safetensors")
    assert loaded(context).handle([[1.0]], context) == [[3.0]]
    (tmp_path / "net.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(RuntimeError, match=r"net\.safetensors is not in the format safetensors"):
        loaded(context)


def test_safetensors_alone_are_no_model(
    tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    save_file(Scale().state_dict(), tmp_path / "net.safetensors")
    with pytest.raises(RuntimeError, match=r"holds weights only.*architecture: NAME"):
        loaded(make_context(serializedFile="net.safetensors"))


def named(**section: Any) -> dict[str, Any]:
    return {"handler": section}


def test_an_architecture_by_name_needs_no_code(
    tmp_path: Path, make_context: Callable[..., Context]
) -> None:
    models = pytest.importorskip("torchvision.models")
    model = models.get_model("squeezenet1_1", num_classes=3)
    save_file(model.state_dict(), tmp_path / "net.safetensors")
    config = named(architecture="squeezenet1_1", architecture_options={"num_classes": 3})
    handler = loaded(make_context(config, serializedFile="net.safetensors"))
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(handler.inference(image), model.eval()(image))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (named(architecture="os.system"), "torchvision has no model 'os.system'"),
        (named(architecture=7), "must be a name"),
        (named(architecture="alexnet", architecture_options=[1]), "must map names"),
        (named(architecture="alexnet", architecture_options={"weights": "DEFAULT"}), "weights is"),
        (named(architecture="alexnet", architecture_options={"wings": 2}), "do not fit alexnet"),
    ],
)
def test_what_is_no_architecture_is_refused(
    make_context: Callable[..., Context], config: dict[str, Any], message: str
) -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(ValueError, match=message):
        loaded(make_context(config))
