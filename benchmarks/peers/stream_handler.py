"""The handler of the workload that streams, which flambeau and TorchServe share."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from answers import pieces
from sizes import PAUSE
from ts.handler_utils.utils import send_intermediate_predict_response


class Handler:
    """Sends pieces of an answer with pauses between them, many requests at a time."""

    def initialize(self, context: Any) -> None:
        """Nothing is needed; TorchServe wants it to be there."""

    async def handle(self, data: list[dict[str, Any]], context: Any) -> list[str]:
        """Both call this with one request."""
        body = data[0].get("body", data[0].get("data"))
        parsed = body if isinstance(body, dict) else json.loads(body)
        *first, last = pieces(parsed["values"])
        for piece in first:
            send_intermediate_predict_response([piece], context.request_ids, "OK", 200, context)
            await asyncio.sleep(PAUSE)
        return [last]
