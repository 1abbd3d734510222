"""How people load and ask a handler in tests of their own: TorchServe's loader, service and mock.

``ModelLoaderFactory.get_model_loader().load(...)`` gives a Service; its ``predict`` takes requests
as TorchServe's frontend sends them and gives what its worker answers.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import yaml

from .. import service
from ..context import Context, RequestProcessor
from ..envelopes import wrap
from ..loader import load_entry_point
from ..messages import Work
from ..metrics import Metrics
from ..model_files import read_manifest, read_model_config
from ..rows import Rows
from .names import TORCHSERVE_VERSION
from .old_metrics import MetricsStore
from .otf import predict_message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..loader import EntryPoint


class _Request(NamedTuple):
    """A request whose values are decoded already."""

    id: str
    headers: dict[str, Any]
    row: dict[str, Any]


class _DecodedRows(Rows):
    def row(self, request: Any) -> dict[str, Any]:
        row: dict[str, Any] = request.row
        return row

    def headers(self, request: Any) -> dict[str, object]:
        headers: dict[str, object] = request.headers
        return headers


class Service:
    """A loaded model."""

    def __init__(
        self,
        model_name: str,
        model_dir: str,
        manifest: dict[str, Any] | None,
        entry_point: EntryPoint,
        gpu: int | None,
        batch_size: int | None,
        limit_max_image_pixels: bool = True,
        metrics_cache: Any = None,
    ) -> None:
        metrics = Metrics(model_name) if metrics_cache is None else metrics_cache
        self._context = Context(
            model_name,
            model_dir,
            manifest,
            batch_size or 1,
            gpu,
            TORCHSERVE_VERSION,
            limit_max_image_pixels,
            metrics,
            read_model_config(Path(model_dir), manifest),
        )
        self._entry_point = entry_point

    @property
    def context(self) -> Context:
        return self._context

    @staticmethod
    def retrieve_data_for_inference(
        batch: Sequence[dict[str, Any]] | None,
    ) -> tuple[list[RequestProcessor], list[dict[str, Any]], dict[int, str]]:
        """Headers, rows and ids of the requests; ValueError if there is no batch."""
        if batch is None:
            raise ValueError("Received invalid inputs")
        requests = [_request(each) for each in batch]
        return (
            [RequestProcessor(request.headers) for request in requests],
            [request.row for request in requests],
            {index: request.id for index, request in enumerate(requests)},
        )

    def predict(self, batch: Sequence[dict[str, Any]]) -> bytearray:
        """The message with an answer to each request of ``batch``.

        A request is ``requestId``, ``headers`` (``name`` and ``value``) and ``parameters``
        (``name``, ``value``, ``contentType``); ids and headers are bytes.
        """
        requests = [_request(each) for each in batch]
        work = Work(0, cast("Any", requests))
        answers = (
            service.Service(self._entry_point, self._context, _DecodedRows()).run(work).answers
        )
        code, message = 200, "Prediction success"
        if answers and all(answer.is_error for answer in answers):
            code, message = answers[0].status, bytes(answers[0].body).decode()
        ids = [request.id for request in requests]
        return predict_message(code, message, zip(ids, answers, strict=True))


class ModelLoader:
    """Loads models."""

    def load(
        self,
        model_name: str,
        model_dir: str,
        handler: str | None = None,
        gpu_id: int | None = None,
        batch_size: int | None = None,
        envelope: str | None = None,
        limit_max_image_pixels: bool | None = True,
        metrics_cache: Any = None,
    ) -> Service:
        """The model of the unpacked archive ``model_dir``, by its handler.

        Raises HandlerLoadError, and EnvelopeError for an envelope that is none.
        """
        folder = Path(model_dir)
        manifest = read_manifest(folder)
        if metrics_cache is not None:
            metrics_cache.set_request_ids(str(uuid.uuid4()))
        made = Service(
            model_name,
            model_dir,
            manifest,
            _not_loaded,
            gpu_id,
            batch_size,
            bool(limit_max_image_pixels),
            metrics_cache,
        )
        entry_point = load_entry_point(handler or "", folder, made.context)
        made._entry_point = wrap(envelope, entry_point, folder)
        return made


class ModelLoaderFactory:
    """Where rigs get their loader."""

    @staticmethod
    def get_model_loader() -> ModelLoader:
        return ModelLoader()


class MockContext:
    """A context of plain values, for a handler's ``initialize`` in a test."""

    def __init__(
        self,
        model_pt_file: str | None = "model.pt",
        model_dir: str = "ts/torch_handler/unit_tests/models/tmp",
        model_file: str | None = "model.py",
        gpu_id: str | None = "0",
        model_name: str = "mnist",
        model_yaml_config_file: str | None = None,
    ) -> None:
        import torch

        named = {"serializedFile": model_pt_file, "modelFile": model_file}
        self.manifest = {"model": {key: name for key, name in named.items() if name}}
        self.system_properties = {"model_dir": model_dir}
        if torch.cuda.is_available() and gpu_id:
            self.system_properties["gpu_id"] = gpu_id
        self.explain = False
        self.metrics = MetricsStore(str(uuid.uuid4()), model_name)
        self.model_yaml_config: Any = {}
        if model_yaml_config_file:
            text = (Path(model_dir) / model_yaml_config_file).read_text()
            self.model_yaml_config = yaml.safe_load(text)

    def get_request_header(self, idx: int, exp: str) -> bool:
        """Whether row ``idx`` is to be explained; as in TorchServe's, the first one never is."""
        return bool(idx and exp and self.explain)


def _not_loaded(data: Any, context: Any) -> Any:
    raise RuntimeError("The model is still being loaded")


def _request(given: dict[str, Any]) -> _Request:
    parameters = given.get("parameters") or ()
    headers: dict[str, Any] = {
        each["name"]: {"content-type": each.get("contentType", "")} for each in parameters
    }
    headers.update(
        (_decoded(each["name"]), _decoded(each["value"])) for each in given.get("headers") or ()
    )
    row = {each["name"]: each["value"] for each in parameters}
    return _Request(_decoded(given["requestId"]), headers, row)


def _decoded(text: Any) -> str:
    return text.decode() if isinstance(text, (bytes, bytearray)) else str(text)
