"""The handler of the overload benchmark: it takes its time without using the processor."""

from __future__ import annotations

import time
from typing import Any


class SleepHandler:
    """``model-config.yaml`` says in ``handler: milliseconds`` how long a batch takes."""

    def initialize(self, context: Any) -> None:
        self.seconds = context.model_yaml_config["handler"]["milliseconds"] / 1000

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[Any]:
        time.sleep(self.seconds)
        return [row["body"] for row in data]
