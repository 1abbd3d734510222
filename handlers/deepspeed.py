"""DeepSpeed for large models, where that library is installed: TorchServe's helpers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .base import BaseHandler


class BaseDeepSpeedHandler(BaseHandler):
    """Base of handlers that run in ranks: ``initialize`` sets ``device`` to the rank's number."""

    def initialize(self, context: Any) -> None:
        self.device = int(os.getenv("LOCAL_RANK", "0"))


def get_ds_engine(model: Any, ctx: Any) -> Any:
    """DeepSpeed's inference engine around ``model``.

    In ``model-config.yaml``, ``handler.model_path`` is where the weights are,
    ``deepspeed.config`` a JSON file of the archive with DeepSpeed's settings, and
    ``deepspeed.checkpoint`` the name of the list of weights that is to be written for it. Raises
    ValueError without the section or the file, ImportError without the library.
    """
    try:
        import deepspeed  # type: ignore[import-not-found]
    except ImportError as error:
        raise ImportError(
            "This handler needs DeepSpeed: pip install deepspeed in the workers' environment."
        ) from error
    folder = Path(ctx.system_properties.get("model_dir"))
    section = ctx.model_yaml_config.get("deepspeed")
    if section is None:
        raise ValueError(f"{ctx.model_name} has no deepspeed config in model config yaml file")
    model_path = ctx.model_yaml_config["handler"]["model_path"]
    config, checkpoint = section.get("config"), section.get("checkpoint")
    if config is not None and not (folder / config).exists():
        raise ValueError(f"{ctx.model_name} has no deepspeed config file {config}")
    if checkpoint is not None:
        create_checkpoints_json(model_path, str(folder / checkpoint))
    return deepspeed.init_inference(
        model,
        config=None if config is None else str(folder / config),
        base_dir=model_path,
        checkpoint=None if checkpoint is None else str(folder / checkpoint),
    )


def create_checkpoints_json(model_path: str, checkpoints_json: str) -> None:
    """Write the list of the ``.bin`` files below ``model_path`` for DeepSpeed."""
    found = [str(path) for path in Path(model_path).rglob("*.bin") if path.is_file()]
    listed = {"type": "ds_model", "checkpoints": found, "version": 1.0}
    Path(checkpoints_json).write_text(json.dumps(listed))
