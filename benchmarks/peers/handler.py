"""The handler that flambeau and TorchServe share."""

from __future__ import annotations

import json
from typing import Any

from answers import model
from sizes import RAW


class Handler:
    """``model-config.yaml`` says under ``handler`` which workload it is."""

    def initialize(self, context: Any) -> None:
        settings = context.model_yaml_config["handler"]
        self.is_raw = settings["workload"] in RAW
        self.model = model(settings["workload"], settings["blocks"])

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[dict[str, list[float]]]:
        bodies = [row.get("body", row.get("data")) for row in data]
        if not self.is_raw:
            # TorchServe parses JSON itself, depending on the content type.
            parsed = [each if isinstance(each, dict) else json.loads(each) for each in bodies]
            bodies = [each["values"] for each in parsed]
        return [{"answer": answer} for answer in self.model(bodies)]
