"""``BaseHandler``: loads a model of any form and leads a batch through its stages.

Most custom handlers are subclasses. Names, signatures and order of calls are TorchServe's.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from ..worker.modules import import_module, list_classes_from_module
from .architectures import make_architecture, named_architecture
from .compile import compile_model, compile_options, uses_aot_compile
from .devices import IPEX_AVAILABLE, choose_device, optimize_with_ipex
from .labels import load_label_mapping
from .onnx import run_session, setup_ort_session
from .profiler import infer_with_profiler
from .programs import load_exported, load_shared_library, load_torchscript
from .timer import timed
from .weights import load_weights

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)


class BaseHandler:
    """Base of handlers whose model is made with torch, or an ONNX model.

    ``initialize`` loads the model that the manifest names: with ``modelFile``, the one class
    defined there plus the state dict ``serializedFile``; without, the architecture that the
    configuration names (``architectures.py``) plus that state dict; or the program that
    ``serializedFile`` is: TorchScript (``.pt``), ``torch.export`` or AOTInductor (``.pt2``,
    ``.so``), ONNX (``.onnx``, an ``onnxruntime.InferenceSession``). A state dict may be
    safetensors. ``pt2`` in the configuration has it compiled (``compile.py``). Then each batch runs
    through ``preprocess``, ``inference``, ``postprocess``.

    Weights are read without running pickled code. An archive whose weights hold more than tensors
    says so in its ``model-config.yaml``, and the log then names it::

        handler:
          weights_only: false
    """

    # Subclasses that never call super().__init__() find these.
    model: Any = None
    mapping: dict[str, str] | None = None
    device: Any = None
    initialized: bool = False
    context: Any = None
    model_pt_path: str | None = None
    manifest: Any = None
    map_location: str | None = None
    explain: bool = False
    target: Any = 0
    profiler_args: Mapping[str, Any] = MappingProxyType({})
    model_yaml_config: Any = None

    def __init__(self) -> None:
        self.profiler_args = {}

    def initialize(self, context: Any) -> None:
        """Load model and labels onto the worker's device.

        Raises RuntimeError when the archive lacks what its manifest names, holds weights that
        cannot be read or are another model's, or a kind of model that is not known; ValueError for
        settings that make no sense.
        """
        self.model_yaml_config = getattr(context, "model_yaml_config", None)
        properties = context.system_properties
        self.map_location, self.device = choose_device(properties.get("gpu_id"))
        self.manifest = context.manifest
        if self.manifest is None:
            raise RuntimeError(
                "The archive has no MAR-INF/MANIFEST.json, so that this handler cannot know which "
                "model to load. Build the archive with 'flambeau archive'."
            )
        model_dir = Path(properties.get("model_dir"))
        entries = self.manifest["model"]
        self.model_pt_path = _weights_path(model_dir, entries.get("serializedFile"))
        self.model = self._load(model_dir, entries.get("modelFile"))
        options = compile_options(self.model_yaml_config)
        if options is not None:
            self.model = compile_model(self.model, options)
        elif IPEX_AVAILABLE:
            self.model = optimize_with_ipex(self.model, self.device)
        self.mapping = load_label_mapping(model_dir / "index_to_name.json")
        self.initialized = True

    def _load(self, model_dir: Path, model_file: str | None) -> Any:
        path = self.model_pt_path
        if model_file:
            model: Any = self._load_pickled_model(str(model_dir), model_file, path)
            model.to(self.device)
        elif (architecture := named_architecture(self.model_yaml_config)) is not None:
            model = make_architecture(*architecture)
            if path:
                load_weights(model, path, self.device, self.model_yaml_config)
            model.to(self.device)
        elif path is not None and path.endswith(".pt"):
            model = self._load_torchscript_model(path)
        else:
            return self._load_program(path)
        model.eval()
        return model

    def _load_program(self, path: str | None) -> Any:
        """Models that have no mode for training to be taken out of."""
        suffix = "" if path is None else Path(path).suffix
        if path is None or suffix not in (".onnx", ".pt2", ".so"):
            raise RuntimeError(f"No model weights could be loaded: {_no_program(path)}")
        if suffix == ".onnx":
            return setup_ort_session(path, self.map_location, self.device.index or 0)
        if suffix == ".pt2":
            return load_exported(path, self.device)
        if not self._use_torch_export_aot_compile():
            raise RuntimeError(
                f"No model weights could be loaded: {Path(path).name} is machine code. If it was "
                "made by torch._export.aot_compile, put 'pt2: {export: {aot_compile: true}}' into "
                "the archive's model-config.yaml."
            )
        return self._load_torch_export_aot_compile(path)

    def _load_torchscript_model(self, model_pt_path: str) -> Any:
        return load_torchscript(model_pt_path, self.device)

    def _load_torch_export_aot_compile(self, model_so_path: str) -> Any:
        if self.map_location == "cuda":
            # The library is loaded onto the current GPU.
            torch.cuda.set_device(self.device)
        return load_shared_library(model_so_path, self.map_location)

    def _use_torch_export_aot_compile(self) -> bool:
        return uses_aot_compile(self.model_yaml_config)

    def _load_pickled_model(
        self, model_dir: str, model_file: str, model_pt_path: str | None
    ) -> torch.nn.Module:
        """Make the model defined in ``model_file``; load the weights, if a path is given.

        Raises ValueError unless there is exactly one class, or exactly one ``nn.Module`` among
        several.
        """
        if not (Path(model_dir) / model_file).is_file():
            raise RuntimeError(f"Missing the model file {model_file}, which the manifest names")
        module = import_module(model_file.split(".")[0], Path(model_dir))
        classes = list_classes_from_module(module)
        if len(classes) != 1:
            models = list_classes_from_module(module, torch.nn.Module)
            if len(models) != 1:
                names = [cls.__name__ for cls in models or classes]
                raise ValueError(f"Expected only one class as model definition. {names}")
            classes = models
        model: Any = classes[0]()
        if model_pt_path:
            load_weights(model, model_pt_path, self.device, self.model_yaml_config)
        return model  # type: ignore[no-any-return]

    @timed
    def preprocess(self, data: Any) -> Any:
        """Turn the requests into the model's input: here, numbers into a tensor on the device."""
        return torch.as_tensor(data, device=self.device)

    @timed
    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the model on the batch, without recording gradients.

        Of an ONNX model's outputs the first is returned.
        """
        if not callable(self.model):
            return run_session(self.model, data, self.device)
        with torch.inference_mode():
            return self.model(data.to(self.device), *args, **kwargs)

    @timed
    def postprocess(self, data: Any) -> Any:
        """Turn the model's output into a list with one answer for each request."""
        return data.tolist()

    def handle(self, data: Any, context: Any) -> Any:
        """Answer a batch, and report its duration as metric ``HandlerTime``, in milliseconds."""
        started = time.perf_counter()
        self.context = context
        if self._is_describe():
            output: Any = [self.describe_handle()]
        elif os.environ.get("ENABLE_TORCH_PROFILER"):
            if self.manifest is None:
                self.manifest = context.manifest
            output, _ = self._infer_with_profiler(data=data)
        else:
            model_input = self.preprocess(data)
            if self._is_explain():
                output = self.explain_handle(model_input, data)
            else:
                output = self.postprocess(self.inference(model_input))
        if context.metrics is not None:
            milliseconds = round((time.perf_counter() - started) * 1000, 2)
            context.metrics.add_time("HandlerTime", milliseconds, None, "ms")
        return output

    def _infer_with_profiler(self, data: Any) -> tuple[Any, Any]:
        """The answers to a batch, and the profile of their making; ``profiler_args`` set it up."""
        return infer_with_profiler(self, data)

    def explain_handle(self, data_preprocess: Any, raw_data: Any) -> Any:
        """Explain the first request through the subclass's ``get_insights``.

        Returns what that returns: a list with one item for each request.
        """
        inputs, target = None, 0
        row = raw_data[0]
        if isinstance(row, dict):
            inputs = row.get("data") or row.get("body")
            target = row.get("target") or 0
        return self.get_insights(data_preprocess, inputs, target)

    def get_insights(self, tensor_data: Any, _: Any, target: Any = 0) -> Any:
        """For subclasses: why the model answers as it does."""
        raise NotImplementedError(f"{type(self).__name__} has no get_insights to explain with")

    def describe_handle(self) -> Any:
        """For subclasses: what the model's description shows as ``customizedMetadata``."""
        return None

    def get_device(self) -> Any:
        return self.device

    def _is_explain(self) -> bool:
        if self._has_mark("explain"):
            self.explain = True
            return True
        return False

    def _is_describe(self) -> bool:
        return self._has_mark("describe")

    def _has_mark(self, header: str) -> bool:
        # A batch is of one kind: its first request tells.
        return bool(self.context and self.context.get_request_header(0, header) == "True")


def _weights_path(model_dir: Path, serialized_file: str | None) -> str | None:
    if not serialized_file:
        return None
    path = model_dir / serialized_file
    if not path.is_file():
        raise RuntimeError(
            f"Missing the weights file {serialized_file}, which the manifest names. "
            "Build the archive again with --serialized-file."
        )
    return str(path)


def _no_program(path: str | None) -> str:
    if path is None:
        return "the manifest names neither a model file nor a serialized file."
    name = Path(path).name
    if name.endswith(".safetensors"):
        return (
            f"{name} holds weights only. The archive needs the file that defines the model "
            "('flambeau archive --model-file'), or 'handler: {architecture: NAME}' in its "
            "model-config.yaml for a model of torchvision."
        )
    return (
        f"{name} comes without a model file, and what is no state dict is told by its name: a "
        "TorchScript program ends in .pt, one of torch.export in .pt2, an ONNX model in .onnx."
    )
