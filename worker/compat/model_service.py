"""Base classes of handlers from before there were handlers: they have a signature file."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..context import Context


class ModelService:
    """One row in, one row out, by ``inference``; the manifest names ``Model.Signature``."""

    def __init__(self, model_name: str, model_dir: str, manifest: Any, gpu: Any = None) -> None:
        self.ctx: Any = None
        self._context: Context | None = None
        self._signature: Any = None

    def initialize(self, context: Context) -> None:
        """Read the signature; ValueError if the archive has none."""
        self._context = context
        name = (context.manifest or {})["Model"]["Signature"]
        path = Path(context.system_properties["model_dir"]) / name
        if not path.is_file():
            raise ValueError("Signature file is not found.")
        self._signature = json.loads(path.read_bytes())

    def inference(self, data: list[Any]) -> Any:
        """What the model says to ``data``."""

    def ping(self) -> Any:
        """Whether the service is well."""

    def signature(self) -> Any:
        return self._signature

    def handle(self, data: list[dict[str, Any]], context: Context) -> list[Any]:
        """Answer the first row: its value of the signature's first input, else its body."""
        row = data[0]
        names = (self._signature["inputs"][0]["data_name"], "body", "data")
        value = next((row[name] for name in names if row.get(name) is not None), None)
        is_json = self._signature["input_type"] == "application/json"
        if is_json and isinstance(value, (bytes, bytearray)):
            value = ast.literal_eval(value.decode())
        answer = self.inference([value])
        return answer if isinstance(answer, list) else [answer]


class SingleNodeService(ModelService):
    """In three steps, which subclasses override."""

    def inference(self, data: list[Any]) -> Any:
        return self._postprocess(self._inference(self._preprocess(data)))

    def _preprocess(self, data: Any) -> Any:
        return data

    def _inference(self, data: Any) -> Any:
        return data

    def _postprocess(self, data: Any) -> Any:
        return data
