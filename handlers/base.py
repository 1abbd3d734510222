"""``BaseHandler``: loads an eager or TorchScript model and leads a batch through its stages.

Most custom handlers are subclasses. Names, signatures and order of calls are TorchServe's.
"""

from __future__ import annotations

import logging
import pickle
import time
import warnings
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from ..worker.modules import import_module, list_classes_from_module
from .architectures import make_architecture, named_architecture
from .labels import load_label_mapping
from .timer import timed

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

_NOT_YET = {
    ".onnx": "ONNX models",
    ".pt2": "torch.export programs",
    ".so": "AOT-compiled models",
}


class BaseHandler:
    """Base of handlers whose model is a ``torch.nn.Module``.

    ``initialize`` loads the model that the manifest names: with ``modelFile``, the one class
    defined there plus the state dict ``serializedFile``; without, the architecture that the
    configuration names (``architectures.py``) plus that state dict, or the TorchScript program
    ``serializedFile``. A state dict may be safetensors. Then each batch runs through
    ``preprocess``, ``inference``, ``postprocess``.

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
        cannot be read, or a kind of model that is not supported.
        """
        self.model_yaml_config = getattr(context, "model_yaml_config", None)
        properties = context.system_properties
        self._choose_device(properties.get("gpu_id"))
        self.manifest = context.manifest
        if self.manifest is None:
            raise RuntimeError(
                "The archive has no MAR-INF/MANIFEST.json, so that this handler cannot know which "
                "model to load. Build the archive with 'flambeau archive'."
            )
        model_dir = Path(properties.get("model_dir"))
        entries = self.manifest["model"]
        self.model_pt_path = _weights_path(model_dir, entries.get("serializedFile"))
        model_file = entries.get("modelFile")
        if model_file:
            self.model = self._load_pickled_model(str(model_dir), model_file, self.model_pt_path)
            self.model.to(self.device)
        elif (architecture := named_architecture(self.model_yaml_config)) is not None:
            self.model = make_architecture(*architecture)
            if self.model_pt_path:
                self.model.load_state_dict(self._read_weights(self.model_pt_path))
            self.model.to(self.device)
        else:
            self.model = self._load_torchscript_model(_torchscript_path(self.model_pt_path))
        self.model.eval()
        if "pt2" in (self.model_yaml_config or {}):
            logger.warning("pt2 in the model's configuration has no effect yet: it runs as it is")
        self.mapping = load_label_mapping(model_dir / "index_to_name.json")
        self.initialized = True

    def _choose_device(self, gpu_id: int | str | None) -> None:
        if gpu_id is not None and torch.cuda.is_available():
            self.map_location = "cuda"
            self.device = torch.device(f"cuda:{gpu_id}")
            if torch.cuda.get_device_capability(self.device) >= (8, 0):
                # As TorchServe does: TensorFloat-32 where the tensor cores have it.
                torch.set_float32_matmul_precision("high")
        elif gpu_id is not None and torch.backends.mps.is_available():
            self.map_location = "mps"
            self.device = torch.device("mps")
        else:
            if gpu_id is not None:
                logger.warning("GPU %s was assigned, but torch sees none: using the CPU", gpu_id)
            self.map_location = "cpu"
            self.device = torch.device("cpu")

    def _load_torchscript_model(self, model_pt_path: str) -> Any:
        try:
            with warnings.catch_warnings():
                # The archive's format is not the server's choice.
                warnings.filterwarnings("ignore", r".*torch\.jit\.load.* is deprecated")
                return torch.jit.load(model_pt_path, map_location=self.device)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            if "constants.pkl" not in str(error):
                raise
            name = Path(model_pt_path).name
            raise RuntimeError(
                f"{name} is not a TorchScript program. If it holds a state dict, the archive also "
                "needs the file that defines the model: 'flambeau archive --model-file'."
            ) from error

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
            classes = list_classes_from_module(module, torch.nn.Module)
        if len(classes) != 1:
            names = [cls.__name__ for cls in list_classes_from_module(module)]
            raise ValueError(f"Expected only one class as model definition. {names}")
        model: Any = classes[0]()
        if model_pt_path:
            model.load_state_dict(self._read_weights(model_pt_path))
        return model  # type: ignore[no-any-return]

    def _read_weights(self, path: str) -> Any:
        name = Path(path).name
        if Path(path).suffix == ".safetensors":
            return _read_safetensors(path, str(self.device))
        if _allows_pickle(self.model_yaml_config):
            logger.warning(
                "%s is read with weights_only: false, as the archive's configuration says: "
                "code in it is run",
                name,
            )
            return torch.load(path, map_location=self.device, weights_only=False)
        try:
            # Left to torch's default, which is True, so that its environment variables work too.
            return torch.load(path, map_location=self.device)
        except pickle.UnpicklingError as error:
            raise RuntimeError(
                f"{name} holds more than tensors, and reading that would run code from it. Save "
                "the model's state_dict() alone; or, if you trust the archive, put 'handler: "
                "{weights_only: false}' into its model-config.yaml."
            ) from error

    @timed
    def preprocess(self, data: Any) -> Any:
        """Turn the requests into the model's input: here, numbers into a tensor on the device."""
        return torch.as_tensor(data, device=self.device)

    @timed
    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the model on the batch, without recording gradients."""
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


def _read_safetensors(path: str, device: str) -> Any:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise RuntimeError(
            f"{Path(path).name} needs the library safetensors: pip install 'flambeau[safetensors]'"
        ) from None
    try:
        return load_file(path, device=device)
    except SafetensorError as error:
        raise RuntimeError(
            f"{Path(path).name} is not in the format safetensors: {error}"
        ) from error


def _torchscript_path(path: str | None) -> str:
    if path is None:
        raise RuntimeError(
            "No model weights could be loaded: the manifest names neither a model file nor a "
            "serialized file."
        )
    suffix = Path(path).suffix
    if suffix == ".pt":
        return path
    name = Path(path).name
    if suffix == ".safetensors":
        raise RuntimeError(
            f"No model weights could be loaded: {name} holds weights only. The archive needs the "
            "file that defines the model ('flambeau archive --model-file'), or 'handler: "
            "{architecture: NAME}' in its model-config.yaml for a model of torchvision."
        )
    if suffix in _NOT_YET:
        raise RuntimeError(
            f"No model weights could be loaded: {name} is of a kind that is not supported yet "
            f"({_NOT_YET[suffix]}). Use a TorchScript program or a model file with a state dict."
        )
    raise RuntimeError(
        f"No model weights could be loaded: {name} comes without a model file, and a TorchScript "
        "program is told by a name that ends in .pt."
    )


def _allows_pickle(config: Any) -> bool:
    section = config.get("handler") if isinstance(config, dict) else None
    weights_only = section.get("weights_only", True) if isinstance(section, dict) else True
    if not isinstance(weights_only, bool):
        raise ValueError(f"handler.weights_only must be true or false, not {weights_only!r}")
    return not weights_only
