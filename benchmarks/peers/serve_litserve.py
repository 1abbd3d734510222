"""LitServe: WORKLOAD, BLOCKS and PORT in the environment."""

import os
from typing import Annotated, Any

import litserve
from answers import model
from fastapi import Body
from sizes import BATCHES, RAW

WORKLOAD = os.environ["WORKLOAD"]
SIZE, DELAY = BATCHES.get(WORKLOAD, (1, 0))
# LitServe looks at this annotation: what the request is read as.
Input = Annotated[bytes, Body(media_type="application/octet-stream")] if WORKLOAD in RAW else dict


class Peer(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.model = model(WORKLOAD, int(os.environ["BLOCKS"]))

    def decode_request(self, request: Input) -> Any:  # type: ignore[valid-type]
        return request if WORKLOAD in RAW else request["values"]

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def predict(self, x: Any) -> Any:
        return self.model([x])[0] if SIZE == 1 else self.model(x)

    def encode_response(self, output: Any) -> dict[str, Any]:
        return {"answer": output}


if __name__ == "__main__":
    api = Peer(max_batch_size=SIZE, batch_timeout=DELAY / 1000)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=False)
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
    )
