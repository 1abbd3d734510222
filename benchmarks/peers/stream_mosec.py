"""Mosec with answers in pieces, as Server-Sent Events. Its own options on the command line.

A worker takes up to 32 requests at a time, and begins no others before these have ended.
"""

from __future__ import annotations

import time
from itertools import zip_longest
from typing import Any

from answers import pieces
from mosec import Server, SSEWorker
from sizes import PAUSE


class Peer(SSEWorker):
    def deserialize(self, data: bytes) -> Any:
        return super().deserialize(data)["values"]

    def forward(self, data: list[list[float]]) -> list[str]:
        for number, row in enumerate(zip_longest(*map(pieces, data))):
            if number:
                time.sleep(PAUSE)
            for index, piece in enumerate(row):
                self.send_stream_event(piece, index=index)
        return ["" for _ in data]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Peer, num=1, max_batch_size=32, max_wait_time=0)
    server.run()
